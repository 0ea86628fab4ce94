"""Whether a job was done before, with the same inputs, recipe, options and versions.

And the files that a job reads, for the tools that build things.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelcut import __version__
from modelcut.arrays.digest import of_text
from modelcut.data.stdin import Stdin
from modelcut.errors import UsageError
from modelcut.job import provenance
from modelcut.job.digest import Digest, blake3
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe
from modelcut.report.schema import DataFile
from modelcut.safety import small_text

_ROLES = ("test", "train", "validate", "calibrate")


class Inputs:
    """The data and code of a job, hashed beside the work."""

    def __init__(self, job: Job) -> None:
        """Begins to read the files, where the report is to name them."""
        self._job = job
        self._opened = contextlib.ExitStack()
        self._digests = {
            role: (path, self._opened.enter_context(Digest(path)))
            for role, path in (_read_by(job) if job.report else ())
        }

    def __enter__(self) -> Inputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def files(self) -> tuple[DataFile, ...]:
        """What was read besides the model."""
        return tuple(
            DataFile(role, str(path), digest.blake3)
            for role, (path, digest) in self._digests.items()
        )

    def fingerprint(self, model: str) -> str | None:
        """See `_fingerprint`; None where nothing was hashed."""
        if not self._job.report:
            return None
        return _fingerprint(self._job, model, {file.role: file.blake3 for file in self.files()})


def _read_by(job: Job) -> Iterator[tuple[str, Path]]:
    """The files and folders that a job reads besides the model."""
    for role in _ROLES:
        path = getattr(job, role)
        if path is not None and (path.is_file() or path.is_dir()):
            yield role, path
    code = Path(job.trust.custom_objects)
    if job.trust.custom_objects and code.is_file():
        yield "custom_objects", code


def _fingerprint(job: Job, model: str, data: dict[str, str]) -> str:
    """BLAKE3 of all that decides what a job writes and reports.

    Args:
        job: the job.
        model: BLAKE3 of the model.
        data: BLAKE3 of the other files, by their role.
    """
    written = (job.compression, job.coder, job.keep_optimizer, job.lossless)
    options = (*written, job.sha256, job.full_report)
    said = [
        [__version__, provenance.versions()],
        job.recipe.to_dict(),
        [job.output.name, *options, job.trust.all, job.trust.custom_objects],
        [model, data],
    ]
    return of_text(json.dumps(said, sort_keys=True))


def done_before(job: Job) -> dict[str, Any] | None:
    """The report of an earlier run of the same job whose output is still as it was written.

    Returns:
        The report as plain data; None where the job has to be done (again).
    """
    earlier = _report(provenance.report_paths(job.output)["json"])
    try:
        output = earlier["output"]
        passed = all(gate["held"] for gate in earlier["gates"])
        if not (passed and Path(output["path"]).name == job.output.name):
            return None
        if job.header is not None and not job.header.is_file():
            return None
        known = earlier["fingerprint"]
        if known != _fingerprint(job, blake3(job.model), _hashes(job)):
            return None
        return earlier if blake3(job.output) == output["blake3"] else None
    except (KeyError, TypeError, OSError):
        return None


def _hashes(job: Job) -> dict[str, str]:
    return {role: blake3(path) for role, path in _read_by(job)}


def _report(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(small_text(path))
        return found if isinstance(found, dict) else {}
    return {}


def depfile(job: Job, others: Sequence[Recipe] = ()) -> str:
    """What the output depends on, as a rule for Make and Ninja (like `gcc -MD -MP`).

    Args:
        job: the job.
        others: further recipes that it was chosen among.

    Raises:
        UsageError: a name has a line break, which a Makefile cannot have.
    """
    inputs: dict[str, None] = {}
    recipes = [Path(other.name) for other in others if Path(other.name).is_file()]
    for source in (*job.sources, *recipes):
        if isinstance(source, Stdin):
            continue
        files = sorted(path for path in source.rglob("*") if path.is_file())
        inputs |= dict.fromkeys(map(str, files if source.is_dir() else [source]))
    lines = [" \\\n  ".join([f"{makefile_name(str(job.output))}:", *map(makefile_name, inputs)])]
    # A rule without commands for each input: Make does not stop where one has been removed.
    lines += [f"{makefile_name(name)}:" for name in inputs]
    return "\n\n".join(lines) + "\n"


def makefile_name(name: str) -> str:
    """A file's name as a Makefile has it.

    Raises:
        UsageError: it has a line break.
    """
    if "\n" in name:
        raise UsageError(f"{name!r}: a Makefile cannot name a file with a line break")
    return re.sub(r"([ #:\t])", r"\\\1", name.replace("$", "$$"))

"""What an output remembers of how it was made, and what tells a file of ours from a stranger's."""

from __future__ import annotations

import contextlib
import json
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from modelcut import __version__
from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.formats.litert import c_array
from modelcut.job.digest import Digest
from modelcut.job.request import Job
from modelcut.model.model import Model
from modelcut.report.schema import is_marked
from modelcut.safety import small_text


def versions() -> dict[str, str]:
    """Of what took part, as far as it is installed; nothing is imported for it."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("numpy", "h5py", "isal", "tensorflow", "keras", "tf_keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def of(job: Job, model: Model, digest: Digest) -> dict[str, Any]:
    """What the output remembers of how it was made; the same for the same job."""
    entry = {
        "modelcut": __version__,
        "input_blake3": digest.blake3,
        "recipe": job.recipe.to_dict(),
        "versions": {name: versions()[name] for name in ("numpy", "h5py", "isal")},
    }
    earlier = list(model.origin.provenance.get("history", []))
    if job.lossless and earlier:
        return dict(model.origin.provenance)
    return {"history": [*earlier, entry]}


def report_paths(output: Path) -> dict[str, Path]:
    """`small.h5` -> `small.report.json`, `small.report.md`, `small.report.html`.

    Where these are about another file that is there, such as `small.mcut`: `small.h5.report.json`.
    """
    output = output if output.name else output.resolve()  # "." is refused, but not here
    stem = output.name.removesuffix(registry.suffix_of(output))
    about = _reported(output.with_name(f"{stem}.report.json"))
    if (
        about not in ("", output.name, failed_place(output).name)
        and output.with_name(about).exists()
    ):
        stem = output.name
    return {kind: output.with_name(f"{stem}.report.{kind}") for kind in ("json", "md", "html")}


def failed_place(output: Path) -> Path:
    """Where an output goes of which a gate failed: `small.h5` -> `small.failed.h5`."""
    output = output if output.name else output.resolve()
    suffix = registry.suffix_of(output)
    return output.with_name(f"{output.name.removesuffix(suffix)}.failed{suffix}")


def _reported(path: Path) -> str:
    """Name of the file that a report beside it is about; "" where that cannot be told."""
    try:
        output = json.loads(small_text(path))["output"]["path"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ""
    return Path(output).name if isinstance(output, str) else ""


def is_ours(path: Path) -> bool:
    """Whether modelcut wrote the file, so that it may be written again."""
    if path.suffix == ".h":
        with path.open("rb") as file:
            return file.read(64).startswith(c_array.MARK.encode())
    if path.name.endswith((".report.json", ".report.md", ".report.html")):
        return is_marked(path)
    with contextlib.suppress(ModelcutError, OSError), registry.open_model(path) as model:
        return bool(model.origin.provenance) or registry.of_file(model).from_modelcut
    return False

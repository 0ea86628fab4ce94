"""Files that a command writes besides its output: summary, JUnit XML, dependencies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelcut.errors import UsageError

if TYPE_CHECKING:
    from modelcut.job.outputs import Outputs

_READ = ("model", "recipe", "test", "train", "validate", "calibrate", "against", "custom_objects")
_DATA_SUFFIXES = (".csv", ".csv.gz", ".json", ".yaml", ".yml", ".py")
_FILES = ("junit", "depfile")


def check(values: Mapping[str, Any], output: Path | None = None) -> None:
    """Holds these files against all that is read and written, before any work.

    Raises:
        UsageError: one is an input or an output, or a file of another kind.
        ResourceError: it cannot be written to.
    """
    read, written = _read(values), _written(values, output)
    for name in _FILES:
        if values.get(name):
            with _outputs(name, [*read, *written], output) as outputs:
                outputs.check(Path(values[name]))
    if values.get("junit") and values.get("junit") == values.get("depfile"):
        raise UsageError(f"{values['junit']}: --junit and --depfile are the same file")
    if not values.get("summary"):
        return
    from modelcut.formats import registry
    from modelcut.job.outputs import check_appended

    suffixes = (*registry.suffixes(), *_DATA_SUFFIXES)
    check_appended(Path(values["summary"]), read, written, suffixes)


def write(name: str, text: str, values: Mapping[str, Any], output: Path | None = None) -> None:
    """Writes the file of an option.

    Args:
        name: the option, junit or depfile.
        text: its content.
        values: the flags.
        output: the output of the command.
    """
    with _outputs(name, [*_read(values), *_written(values, output)], output) as outputs:
        draft = outputs.add(Path(values[name]))
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")
        outputs.publish()


def _outputs(name: str, taken: list[Path], output: Path | None) -> Outputs:
    """Where such a file goes; an earlier one of the kind is replaced."""
    from modelcut.job.outputs import Outputs
    from modelcut.job.unchanged import makefile_name

    def ours(path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(10_000)
        if name == "junit":
            return not head or b'<testsuite name="modelcut' in head
        return not head or head.startswith(f"{makefile_name(str(output))}:".encode())

    return Outputs(taken, ours=ours)


def _read(values: Mapping[str, Any]) -> list[Path]:
    found: list[Path] = []
    for name in _READ:
        given = values.get(name)
        found += [Path(each) for each in (given if isinstance(given, list) else [given]) if each]
    return found


def _written(values: Mapping[str, Any], output: Path | None) -> list[Path]:
    from modelcut.job import provenance

    found = []
    if output is not None:
        pages = provenance.report_paths(output) if values.get("report") is not False else {}
        header = [output.with_suffix(".h")] if values.get("c_array") else []
        found = [output, provenance.failed_place(output), *pages.values(), *header]
    if values.get("checkpoint"):
        found.append(Path(values["checkpoint"]))
    return found

"""Standard input as a source of samples: kept in a file, since samples are read more than once."""

from __future__ import annotations

import os
from pathlib import Path

from modelcut.errors import UsageError

MARK = "-"
"""What stands for standard input on the command line, in messages and in reports."""

_PIECE = 1 << 20
_SUFFIXES = {
    b"\x1f\x8b": ".csv.gz",
    b"\x28\xb5\x2f\xfd": ".csv.zst",
    b"\x50\x2a\x4d\x18": ".csv.zst",
    b"PK\x03\x04": ".npz",
    b"\x93NUMPY": ".npy",
    b"PAR1": ".parquet",
}
"""First bytes -> the suffix by which such a source is known; all else is a CSV."""


class Stdin(type(Path())):  # type: ignore[misc]
    """The path of a file with what came from standard input, which is called "-"."""

    def __str__(self) -> str:
        return MARK

    def __fspath__(self) -> str:
        return str(super().__str__())

    @property
    def parent(self) -> Path:
        """Paths in the samples are relative to the working folder."""
        return Path()


def spool(folder: Path) -> Stdin:
    """Writes standard input to a file, piece by piece.

    Args:
        folder: where; it is the caller's to remove.

    Raises:
        UsageError: it is a terminal.
        OSError: it does not fit on the disk.
    """
    if os.isatty(0):
        raise UsageError(f"{MARK}: standard input is a terminal", "pipe a CSV into it")
    with open(0, "rb", closefd=False) as stream:  # sys.stdin decodes, and may be another's
        piece = stream.read(_PIECE)
        suffix = next((end for mark, end in _SUFFIXES.items() if piece.startswith(mark)), ".csv")
        path = folder / f"stdin{suffix}"
        with path.open("wb") as file:
            while piece:
                file.write(piece)
                piece = stream.read(_PIECE)
    return Stdin(path)


def path_from(value: str | Path | object) -> Path:
    """A path of text or of a path, which stays what it is."""
    return value if isinstance(value, Path) else Path(value)  # type: ignore[arg-type]

"""The bytes of a CSV: what is let in, what is a number, and its rows one by one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelcut.errors import InputError
from modelcut.safety import check_path

MAX_COLUMNS = 100_000
MAX_LINE_BYTES = 8 << 20
_BOMB_BYTES = 4 << 30  # rows stream, and progress is told; Zstandard has no end otherwise
_BOMB_RATIO = 200
_NUMBER = re.compile(r"^\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$", re.ASCII)
_NONFINITE = re.compile(r"^\s*[+-]?(nan|inf|infinity)\s*$", re.IGNORECASE)


def open_bytes(path: Path) -> Any:
    """Opens a CSV, inflating `.gz` and `.zst`.

    Raises:
        InputError: it is plainly something else.
    """
    check_path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a CSV")
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"\x1f\x8b":
        if path.suffix != ".gz":
            raise InputError(f"{path}: is compressed by gzip", f"name it {path.name}.gz")
        return _Inflated(path)
    if head == b"\x28\xb5\x2f\xfd" or head == b"\x50\x2a\x4d\x18":  # pzstd begins with a note
        if path.suffix != ".zst":
            raise InputError(f"{path}: is compressed by Zstandard", f"name it {path.name}.zst")
        return _Inflated(path)
    if head[:2] == b"PK":
        raise InputError(f"{path}: is a zip archive or spreadsheet, not a CSV", "export it as CSV")
    return path.open("rb")


class _Inflated(io.RawIOBase):
    """A gzip or Zstandard stream that stops where it expands as no table does."""

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        self._limit = max(_BOMB_BYTES, _BOMB_RATIO * path.stat().st_size)
        self._kind = "gzip" if path.suffix == ".gz" else "Zstandard"
        self._errors: tuple[type[Exception], ...] = (OSError, EOFError, ValueError)
        if self._kind == "gzip":
            from isal import igzip, isal_zlib

            damaged: Any = isal_zlib.error
            self._errors += (damaged,)
            self._file = igzip.open(path, "rb")
        else:
            import zstandard

            self._errors += (zstandard.ZstdError,)
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            self._file = reader.stream_reader(path.open("rb"), read_across_frames=True)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        try:
            data = self._file.read(min(len(buffer), 1 << 20))
        except self._errors as error:
            raise InputError(f"{self._name}: damaged {self._kind} data: {error}") from None
        self._read += len(data)
        if self._read > self._limit:
            raise InputError(
                f"{self._name}: expands to more than {self._limit:,} bytes",
                "unpack it, if it is a table",
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def is_number(cell: str) -> bool:
    """Whether a cell is a plain decimal number, as the fast reader takes it."""
    return bool(_NUMBER.match(cell))


def is_nonfinite(cell: str) -> bool:
    """Whether a cell says NaN or infinity."""
    return bool(_NONFINITE.match(cell))


def lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """All rows with their line numbers, slowly: to say what is wrong where.

    Raises:
        InputError: text that is no CSV.
    """
    with open_bytes(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        start = 1
        try:
            for row in reader:
                if row:
                    yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path}:{start}: not valid CSV: {error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}:{start}: is not UTF-8 text") from None

"""FlatBuffers read with every step checked: an offset that leaves the file is an error.

The format: a table is a signed offset back to its vtable, which holds for each field where in the
table it is (0: absent); strings, vectors and tables are reached by unsigned offsets forward.
All numbers are little-endian. See the FlatBuffers internals document.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.errors import InputError

MAX_TABLES = 1_000_000
"""Tables read in one file: several offsets may point to the same position."""


class Buffer:
    """The bytes of one file.

    Attributes:
        data: all of it, as bytes (an array or a map of the file).
        where: the file, for messages.
    """

    def __init__(self, data: np.ndarray, where: str) -> None:
        self.data = data
        self.where = where
        self._view = data.data
        self._left = MAX_TABLES

    def unpack(self, form: str, at: int) -> Any:
        """One number at a position.

        Raises:
            InputError: the position is outside the file.
        """
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise self.broken(f"an offset leads to byte {at}, outside the file")
        return struct.unpack_from(form, self._view, at)[0]

    def root(self) -> BufferTable:
        """The table that the file begins with."""
        return self.table_at(self.unpack("<I", 0))

    def table_at(self, at: int) -> BufferTable:
        """The table at a position, its vtable checked."""
        self._left -= 1
        if self._left < 0:
            raise self.broken(f"more than {MAX_TABLES:,} tables")
        vtable = at - self.unpack("<i", at)
        size, extent = self.unpack("<H", vtable), self.unpack("<H", vtable + 2)
        if size < 4 or size % 2 or vtable + size > len(self.data) or at + extent > len(self.data):
            raise self.broken(f"the table at byte {at} is truncated")
        return BufferTable(self, at, vtable, size, extent)

    def broken(self, why: str) -> InputError:
        """The error for this file."""
        return InputError(f"{self.where}: damaged: {why}", "it is cut short, or no .tflite file")


@dataclass(frozen=True)
class BufferTable:
    """One table; fields are asked for by their number in the schema."""

    buffer: Buffer
    at: int
    vtable: int
    size: int
    extent: int

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self.size:
            return None
        offset = self.buffer.unpack("<H", self.vtable + entry)
        if offset >= max(self.extent, 1):
            raise self.buffer.broken(f"a field of the table at byte {self.at} is outside it")
        return self.at + offset if offset else None

    def has(self, field: int) -> bool:
        """Whether the field is there."""
        return self._place(field) is not None

    def scalar(self, field: int, form: str, default: int = 0) -> int:
        """A number, such as form "i" for int32."""
        place = self._place(field)
        return default if place is None else self.buffer.unpack("<" + form, place)

    def _target(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else place + self.buffer.unpack("<I", place)

    def table(self, field: int) -> BufferTable | None:
        """A table, or None."""
        target = self._target(field)
        return None if target is None else self.buffer.table_at(target)

    def vector(self, field: int, dtype: str) -> np.ndarray:
        """A vector of numbers, as a view of the file; empty where absent."""
        target = self._target(field)
        kind = np.dtype(dtype).newbyteorder("<")
        if target is None:
            return np.zeros(0, kind)
        count = self.buffer.unpack("<I", target)
        start = target + 4
        if start + count * kind.itemsize > len(self.buffer.data):
            raise self.buffer.broken(f"{count:,} values at byte {start} extend beyond its end")
        return self.buffer.data[start : start + count * kind.itemsize].view(kind)

    def tables(self, field: int) -> list[BufferTable]:
        """A vector of tables."""
        target = self._target(field)
        if target is None:
            return []
        offsets = self.vector(field, "u4").tolist()
        return [
            self.buffer.table_at(target + 4 + 4 * index + offset)
            for index, offset in enumerate(offsets)
        ]

    def text(self, field: int) -> str:
        """A string; "" where absent."""
        return self.vector(field, "u1").tobytes().decode("utf-8", "replace")

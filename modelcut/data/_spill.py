"""Rows in a scratch file: what does not fit into memory is parsed once, not once an epoch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelcut.data.rows import Rows

_SHARE = 2
"""One part in so many of the disk that is free may be taken."""


_PIECE = 1 << 20
"""Bytes that are read at a time: `preadv`, which needs no copy, is missing from old macOS."""


class Spill:
    """Arrays of rows, one after the other, in a file without a name that goes with the process."""

    def __init__(self) -> None:
        self._file: Any = None
        self._most = 0
        self._end = 0
        self._places: list[int] = []
        self._parts: list[Rows] = []

    def add(self, rows: Rows) -> bool:
        """Writes some rows; False where there is no room, or they are text."""
        arrays = [*rows.inputs, *(rows.labels or ())]
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="modelcut-rows-")  # noqa: SIM115
                self._most = shutil.disk_usage(tempfile.gettempdir()).free // _SHARE
            if self._end + rows.nbytes > self._most or any(a.dtype == object for a in arrays):
                return False
            for array in arrays:
                self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError:  # a full disk: the CSV is still there
            return False
        self._places.append(self._end)
        self._parts.append(_shape_of(rows))
        self._end += rows.nbytes
        return True

    def close(self) -> None:
        """Gives the room back."""
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[Rows]:
        for place, part in zip(self._places, self._parts, strict=True):
            at = place

            def read(like: np.ndarray) -> np.ndarray:
                nonlocal at
                found = np.empty(like.shape, like.dtype)
                _read(self._file.fileno(), found, at)
                at += found.nbytes
                return found

            inputs = tuple(read(array) for array in part.inputs)
            labels = None if part.labels is None else tuple(read(a) for a in part.labels)
            yield type(part)(inputs, labels)


def _read(number: int, into: np.ndarray, place: int) -> None:
    """Fills an array from a place of a file, whoever else reads it.

    Raises:
        OSError: the file ends before.
    """
    bytewise: Any = into.reshape(-1).view(np.uint8) if into.size else b""
    view = memoryview(bytewise)
    while len(view):
        piece = os.pread(number, min(len(view), _PIECE), place)
        if not piece:
            raise OSError("the scratch file of the rows was cut")
        view[: len(piece)] = piece
        view, place = view[len(piece) :], place + len(piece)


def _shape_of(rows: Rows) -> Rows:
    """Rows of the same shapes and types that take no memory."""

    def empty(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.zeros((), array.dtype), array.shape)

    labels = None if rows.labels is None else tuple(map(empty, rows.labels))
    return type(rows)(tuple(map(empty, rows.inputs)), labels)

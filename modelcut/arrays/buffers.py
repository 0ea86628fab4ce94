"""Memory for large arrays, taken again when nobody looks at it any more.

A fresh page costs the kernel as long to clear as it takes to read it from the file: a third of a
job's CPU time, where each tensor gets memory of its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np

_LARGE = 1 << 20
"""Bytes from which memory is worth keeping: the allocator keeps smaller pieces itself."""
_MOST = 2
"""Pieces that are kept: a tensor, and what it becomes in another type."""

_kept: list[np.ndarray] = []
_users = 0
_lock = Lock()


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While this context lasts, in whatever thread, `empty` takes memory again."""
    global _users
    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _kept.clear()


def empty(shape: Sequence[int], dtype: np.dtype | Any) -> np.ndarray:
    """Like `np.empty`; perhaps in the memory of an array to which no reference is left.

    Args:
        shape: shape of the array.
        dtype: its dtype.
    """
    dtype = np.dtype(dtype)
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if nbytes < _LARGE or not _users:
        return np.empty(shape, dtype)
    with _lock:
        return _piece(nbytes).view(dtype).reshape(shape)


def _piece(nbytes: int) -> np.ndarray:
    """So many bytes; a view, which keeps its piece from being taken as long as it lives."""
    free = [number for number in range(len(_kept)) if sys.getrefcount(_kept[number]) == _FREE]
    fitting = [number for number in free if _kept[number].nbytes >= nbytes]
    if fitting:
        best = min(fitting, key=lambda number: _kept[number].nbytes)
        return _kept[best][:nbytes]
    for number in reversed(free):  # too small: it must not lie beside the larger one
        del _kept[number]
    made = np.empty(nbytes, np.uint8)
    if len(_kept) < _MOST:
        _kept.append(made)
    return made[:nbytes]


def _references() -> int:
    """What `sys.getrefcount` says of an entry of a list that nothing else refers to."""
    entries = [object()]
    number = 0
    return sys.getrefcount(entries[number])


_FREE = _references()

"""The values that are packed: an array, or a stream that is never in memory as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from modelcut.arrays.blocks import BLOCK_BYTES, in_threads
from modelcut.arrays.blocks import row_blocks as small_blocks
from modelcut.model.stream import Stream

Values: TypeAlias = "np.ndarray | Stream"

MOST_DIFFERENT = 256
"""Different values that `Look` lists, and a palette holds."""
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Look:
    """What a sample of the values, spread evenly, tells of them.

    Attributes:
        different: the bit patterns in it and 0, unsigned, ascending; None for more than
            `MOST_DIFFERENT`.
        sparse: a tenth of it is zeros.
    """

    different: np.ndarray | None
    sparse: bool


def look(values: Values) -> Look:
    """Looks at a sample; a stream is read no further than it takes to tell."""
    total, nonzeros, seen = min(values.size, _SAMPLE), 0, 0
    known: Any = np.zeros(1, f"u{values.dtype.itemsize}")
    for piece in _sample(values):
        seen += piece.size
        nonzeros += int(np.count_nonzero(piece))
        if known.size <= MOST_DIFFERENT:
            known = np.unique(np.append(known, piece))
        least, most = 10 * nonzeros, 10 * (nonzeros + total - seen)
        if known.size > MOST_DIFFERENT and (least > 9 * total or most <= 9 * total):
            break
    few = known if known.size <= MOST_DIFFERENT else None
    return Look(few, 10 * nonzeros <= 9 * total)


def _sample(values: Values) -> Iterator[np.ndarray]:
    step = max(1, values.size // _SAMPLE)
    if isinstance(values, np.ndarray):
        yield bits(values)[::step][:_SAMPLE]
        return
    row, left = values.size // values.shape[0], _SAMPLE

    def one(rows: slice) -> np.ndarray:
        return bits(values[rows])[-rows.start * row % step :: step].copy()

    for piece in in_threads(one, small_blocks(values.shape, values.dtype.itemsize)):
        yield piece[:left]
        left -= min(left, piece.size)


def bits(values: np.ndarray) -> np.ndarray:
    """The values' bits as unsigned integers, flat."""
    return values.reshape(-1).view(f"u{values.dtype.itemsize}")


def places(values: np.ndarray) -> np.ndarray:
    """Where the values are whose bits are not all 0: int64, ascending."""
    # The comparison first: NumPy finds what is true much faster than what is not zero.
    return np.flatnonzero(bits(values) != 0)


def part(values: Values, rows: slice) -> np.ndarray:
    """Some rows, not measured."""
    return values[rows] if values.shape else values  # type: ignore[return-value]


def pieces(values: Values, rows: slice) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
    """Some rows in pieces that fit the cache, measured where they are a stream's.

    Yields:
        Which rows, their values, and the codes of these where an edit has just made them.
    """
    row = max(1, values.dtype.itemsize * math.prod(values.shape[1:]))
    step = max(1, BLOCK_BYTES // row)
    for start in range(rows.start, rows.stop, step):
        some = slice(start, min(start + step, rows.stop))
        if isinstance(values, Stream):
            yield some, *values.coded(some)
        else:
            yield some, values[some], None


def taken(values: Values, rows: slice) -> np.ndarray:
    """Some rows as one array, measured where they are a stream's."""
    if not isinstance(values, Stream):
        return part(values, rows)
    whole = np.empty((rows.stop - rows.start, *values.shape[1:]), values.dtype)
    for some, piece, _ in pieces(values, rows):
        whole[some.start - rows.start : some.stop - rows.start] = piece
    return whole

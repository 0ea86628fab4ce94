"""The exact k-th smallest magnitude of many values that are never in memory at once.

A sample gives a bracket around the threshold; one pass counts what lies below the bracket and
collects the few values inside; those are partitioned. A bracket that missed is widened and the
pass repeated, so the result is exact whatever the distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from modelcut.arrays.blocks import map_rows, row_blocks

_SAMPLE = 1 << 18


@dataclass(frozen=True)
class Threshold:
    """Which values are pruned: all with a smaller magnitude, and some of those that equal it.

    Attributes:
        magnitude: magnitude of the largest value that is pruned.
        ties: how many values of exactly this magnitude are pruned, the first ones in order; one
            number per array of the pass.
    """

    magnitude: float
    ties: tuple[int, ...]


Walk: TypeAlias = "Callable[[Callable[[np.ndarray], tuple[int, np.ndarray]]], list[Any]]"
"""Calls a function with each block of one array, and returns what it gave, in order."""

Pass: TypeAlias = "Callable[[], Iterable[Walk]]"
"""Yields all values, array by array, in the same order at every call."""


def walk_of(values: Any) -> Walk:
    """The walk over an array, or over what has its rows."""
    return lambda look: map_rows(lambda rows: look(values[rows]), values)


def smallest(passes: Pass, sample: np.ndarray, total: int, k: int) -> Threshold:
    """Finds the threshold below which exactly `k` of `total` values lie.

    Args:
        passes: yields the arrays, of any float dtype; NaN counts as larger than all.
        sample: some of the values, flat.
        total: number of values that `passes` yields.
        k: 0 <= k <= total.
    """
    if k <= 0:
        return Threshold(-1.0, ())
    magnitudes = np.abs(sample.astype(np.float64))
    magnitudes = np.sort(magnitudes[~np.isnan(magnitudes)])
    spread = 4e-3
    while True:
        low, high = _bracket(magnitudes, k / total, spread)
        below, parts = _count(passes, low, high)
        inside = np.concatenate(parts) if parts else np.zeros(0)
        if below < k <= below + inside.size:
            rank = k - below - 1
            value = float(np.partition(inside, rank)[rank])
            left = k - below - int(np.count_nonzero(inside < value))
            return Threshold(value, tuple(_deal(left, parts, value)))
        spread *= 8


def _deal(left: int, parts: list[np.ndarray], value: float) -> Iterator[int]:
    """Distributes the ties over the arrays, in order."""
    for part in parts:
        mine = min(left, int(np.count_nonzero(part == value)))
        left -= mine
        yield mine


def _bracket(ordered: np.ndarray, fraction: float, spread: float) -> tuple[float, float]:
    """Magnitudes that enclose the `fraction`-quantile almost surely; open at the ends."""
    size = ordered.size
    low = int(np.floor((fraction - spread) * size)) - 1
    high = int(np.ceil((fraction + spread) * size)) + 1
    return (
        float(ordered[low]) if 0 <= low < size else -1.0,
        float(ordered[high]) if 0 <= high < size else np.inf,
    )


def _count(passes: Pass, low: float, high: float) -> tuple[int, list[np.ndarray]]:
    """How many magnitudes are below `low`, and, an array each, those in [low, high].

    NaN is put at infinity.
    """
    below = 0
    inside: list[np.ndarray] = []

    def look(values: np.ndarray) -> tuple[int, np.ndarray]:
        block = np.abs(values).ravel()
        small = int(np.count_nonzero(block < low))
        if high == np.inf:
            kept = np.nan_to_num(block, nan=np.inf, posinf=np.inf)
            return small, kept[kept >= low]
        return small, block[(block >= low) & (block <= high)]

    for walk in passes():
        found = walk(look)
        below += sum(small for small, _ in found)
        parts = [kept.astype(np.float64) for _, kept in found]
        inside.append(np.concatenate([np.zeros(0), *parts]))
    return below, inside


def sample_of(values: Any) -> np.ndarray:
    """A flat sample spread over an array; of one in a file, some rows."""
    if not isinstance(values, np.ndarray):
        rows = max(1, len(values) * _SAMPLE // values.size)
        step = max(1, len(values) // rows)
        starts = range(0, len(values), step)
        return np.concatenate([values[start : start + 1].ravel() for start in starts])
    flat = values.reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLE)]


def first_ties(values: Any, magnitude: float, ties: int) -> int:
    """Index behind the last of the first `ties` values of this magnitude, in flat order."""
    if ties <= 0:
        return 0
    if isinstance(values, np.ndarray):
        values = values.reshape(-1)
    seen, start = 0, 0
    for rows in row_blocks(values.shape, values.dtype.itemsize):
        block = values[rows]
        hits = np.flatnonzero(_equal(block, magnitude))
        if seen + hits.size >= ties:
            return start + int(hits[ties - seen - 1]) + 1
        seen, start = seen + hits.size, start + block.size
    return start


def _equal(values: np.ndarray, magnitude: float) -> np.ndarray:
    if np.isinf(magnitude):
        return ~np.isfinite(values)
    return np.abs(values) == magnitude


def removal(values: Any, found: Threshold) -> Callable[[np.ndarray, slice], np.ndarray]:
    """The mask of pruned values, as a function of some rows of `values` and their slice."""
    magnitude = found.magnitude
    end = first_ties(values, magnitude, sum(found.ties))
    row = int(np.prod(values.shape[1:], dtype=np.int64)) if values.ndim else 1

    def removed(part: np.ndarray, rows: slice) -> np.ndarray:
        size = np.abs(part)
        mask = (size < magnitude) | (part == 0)
        start = (rows.start or 0) * row
        if start < end:
            ties = _equal(part, magnitude)
            ties.reshape(-1)[max(0, end - start) :] = False
            mask |= ties
        return mask

    return removed

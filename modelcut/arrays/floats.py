"""Floats by their leading bits: bins whose width is a fixed share of the values in them.

Sign, exponent and nine bits of mantissa number a bin (all bits of a 16-bit float), so no value,
however large, spoils the resolution of the small ones; and the number costs one shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

_DROPPED = {2: 0, 4: 14, 8: 43}


def unsigned(itemsize: int) -> Any:
    """The type of whole numbers with as many bytes."""
    return np.dtype(f"u{itemsize}").type


def count(dtype: np.dtype) -> int:
    """How many bins there are for a float type: 65,536, 262,144 or 2,097,152."""
    return int(1 << (8 * dtype.itemsize - _DROPPED[dtype.itemsize]))


def of(values: np.ndarray) -> np.ndarray:
    """The bin of each value, unsigned, flat."""
    size = values.dtype.itemsize
    bits = np.ascontiguousarray(values).reshape(-1).view(unsigned(size))
    return bits >> unsigned(size)(_DROPPED[size]) if _DROPPED[size] else bits


_PAIRS_PAY = 1 << 18
"""Codes from which it pays to count them two at a time."""


def histogram(codes: np.ndarray, size: int) -> np.ndarray:
    """How often each code occurs: int64, shape (size,).

    Args:
        codes: unsigned, each below `size`; any shape, C-contiguous.
        size: number of symbols in the alphabet.
    """
    flat = codes.reshape(-1)
    if size == 2:
        ones = np.count_nonzero(flat)
        return np.array([flat.size - ones, ones], np.int64)
    if flat.dtype != np.uint8 or flat.size < _PAIRS_PAY:
        return np.bincount(flat, minlength=size)
    # NumPy widens each code to eight bytes first, so half as many cost half as much.
    even = flat.size & ~1
    pairs = np.bincount(flat[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts = pairs.sum(axis=0) + pairs.sum(axis=1)
    if even < flat.size:
        counts[flat[-1]] += 1
    return counts[:size]


def ends(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The values of smallest and of largest magnitude in each bin; NaN and infinities as such."""
    kind = unsigned(dtype.itemsize)
    low = np.arange(count(dtype), dtype=kind) << kind(_DROPPED[dtype.itemsize])
    high = low | kind((1 << _DROPPED[dtype.itemsize]) - 1)
    return low.view(dtype), high.view(dtype)


@lru_cache(maxsize=4)
def middles(dtype: np.dtype) -> np.ndarray:
    """A value for each bin, float64: its middle, 0 for the bins around zero, NaN if not finite."""
    with np.errstate(invalid="ignore"):
        low, high = (end.astype(np.float64) for end in ends(dtype))
        middle = np.where(low == 0, 0.0, low + (high - low) / 2)
    middle[~np.isfinite(low)] = np.nan
    middle.flags.writeable = False
    return middle


def masked(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The values where `kept` is true, else +0.0; what a float is does not matter (NaN, -0.0).

    A product of bits: `np.where` on a random mask takes six times as long.
    """
    kind = unsigned(values.dtype.itemsize)
    bits = kept.astype(kind)
    bits *= values.view(kind)
    return bits.view(values.dtype)


def rounded_down(edges: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The largest values of a type that are not above float64 edges; no -0.0.

    A value of that type is above the one exactly if it is above the other.
    """
    with np.errstate(over="ignore"):
        near = edges.astype(dtype)
    below = np.nextafter(near, np.array(-np.inf, dtype))
    lower: np.ndarray = np.where(near.astype(np.float64) > edges, below, near)
    return lower + np.zeros((), dtype)


_TABLE_PAYS = 1 << 15
"""Values from which a table by bins beats a search for each one."""


@dataclass(frozen=True, eq=False)
class Cuts:
    """Cuts the line into intervals and tells, fast, in which one a value lies.

    Attributes:
        edges: ascending, shape (k - 1,), of a float type: interval i ends with edges[i].
        choices: a finite value for each interval, shape (k,), of the same type.
    """

    edges: np.ndarray
    choices: np.ndarray

    @classmethod
    def at(cls, edges: np.ndarray, choices: np.ndarray, dtype: np.dtype) -> Cuts:
        """At float64 edges, rounded downwards to `dtype`: no value of it changes its interval."""
        return cls(rounded_down(edges, dtype), choices.astype(dtype))

    def places(self, values: np.ndarray) -> np.ndarray:
        """The number of each value's interval, 0 … k - 1, in the smallest unsigned type."""
        kind = np.min_scalar_type(self.edges.size)
        if values.size < _TABLE_PAYS:
            return self._search(values).astype(kind)
        places = self._table.take(of(values), mode="clip")
        open_ = np.flatnonzero(places == self.edges.size + 1)
        places[open_] = self._search(values.reshape(-1)[open_])
        return places.astype(kind, copy=False).reshape(values.shape)

    def pick(self, values: np.ndarray) -> np.ndarray:
        """`choices[places(values)]`."""
        if values.size < _TABLE_PAYS:
            return self.choices[self._search(values)]
        picked = self._picks.take(of(values), mode="clip")
        open_ = np.flatnonzero(np.isnan(picked))
        picked[open_] = self.choices[self._search(values.reshape(-1)[open_])]
        return picked.reshape(values.shape)

    def _search(self, values: np.ndarray) -> np.ndarray:
        wide = np.float64 if values.dtype == np.float64 else np.float32
        return np.searchsorted(self.edges.astype(wide), values.astype(wide))

    @cached_property
    def _table(self) -> np.ndarray:
        """The interval of all values of a bin; one past the last where they differ."""
        half = count(self.edges.dtype) // 2
        # Bins of negative values count backwards: turn them round to have all in ascending order.
        cut = of(self.edges).astype(np.int64)
        cut = np.where(cut < half, half + cut, 2 * half - 1 - cut)
        jumps = np.bincount(cut, minlength=2 * half)
        places = (np.cumsum(jumps) - jumps).astype(np.min_scalar_type(self.edges.size + 1))
        places[cut] = self.edges.size + 1
        return np.concatenate([places[half:], places[half - 1 :: -1]])

    @cached_property
    def _picks(self) -> np.ndarray:
        """The choice of all values of a bin; NaN where they differ."""
        return np.append(self.choices, np.array(np.nan, self.choices.dtype))[self._table]

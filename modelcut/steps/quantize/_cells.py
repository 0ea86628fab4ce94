"""Cells: the parts of a tensor that have a scale of their own; and numbers about each cell.

A cell is the whole tensor, an output channel, or a group of inputs of an output channel. Numbers
about cells are arrays that keep all axes, as the parameters of an `Encoding` do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from modelcut.arrays.blocks import map_rows
from modelcut.arrays.clock import working

Part: TypeAlias = "Callable[[np.ndarray, slice], tuple[np.ndarray, ...]]"
"""From the values of some rows, and which rows they are, to arrays of the same shape."""


@dataclass(frozen=True)
class Cells:
    """How a tensor is cut.

    Attributes:
        shape: shape of the tensor.
        axis: the axis of channels; None: the whole tensor is one cell.
        group: length of a group along `group_axis`; 0: no groups.
        group_axis: the axis that is cut into groups.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    group: int = 0
    group_axis: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(
            -(-n // self.group)
            if self.group and i == self.group_axis
            else (n if i == self.axis else 1)
            for i, n in enumerate(self.shape)
        )

    @property
    def sizes(self) -> np.ndarray:
        """Values in each cell; the last group may be shorter."""
        size = np.ones((1,) * len(self.shape), np.int64)
        for i, (n, cells) in enumerate(zip(self.shape, self.counts, strict=True)):
            if self.group and i == self.group_axis:
                ends = np.minimum(np.arange(1, cells + 1) * self.group, n)
                along = np.diff(ends, prepend=0)
            else:
                along = np.full(cells, n // cells if cells else 0)
            size = size * along.reshape([-1 if j == i else 1 for j in range(len(self.shape))])
        return size

    def reduce(
        self, values: np.ndarray, ufunc: np.ufunc | tuple[np.ufunc, ...], part: Part
    ) -> list[np.ndarray]:
        """Reduces each array that `part` makes over each cell, block by block, in float64.

        Sums inside a block of some MB are taken in the type of the array.

        Args:
            values: the tensor, or what has its rows.
            ufunc: one for all arrays, or as many as there are.
            part: makes the arrays.
        """
        multiple = self.group if self.group and self.group_axis == 0 else 1
        over = tuple(
            i
            for i in range(values.ndim)
            if i != self.axis and not (self.group and i == self.group_axis)
        )

        def one(rows: slice) -> list[np.ndarray]:
            with working("survey"):
                arrays = part(values[rows], rows)
                each = ufunc if isinstance(ufunc, tuple) else (ufunc,) * len(arrays)
                pairs = zip(arrays, each, strict=True)
                return [self._within(array, own, over) for array, own in pairs]

        parts = map_rows(one, values, multiple)
        each = ufunc if isinstance(ufunc, tuple) else (ufunc,) * len(parts[0])
        if bool(self.shape) and 0 not in over:
            return [np.concatenate([block[i] for block in parts]) for i in range(len(each))]
        stacks = [np.stack([block[i] for block in parts]) for i in range(len(each))]
        return [own.reduce(stack, axis=0) for own, stack in zip(each, stacks, strict=True)]

    def _within(self, array: np.ndarray, ufunc: np.ufunc, over: tuple[int, ...]) -> np.ndarray:
        kind = np.int32 if array.dtype == bool else array.dtype
        found = ufunc.reduce(array, axis=over, keepdims=True, dtype=kind)
        if self.group:
            starts = np.arange(0, found.shape[self.group_axis], self.group)
            found = ufunc.reduceat(found, starts, axis=self.group_axis)
        wide: np.ndarray = found.astype(np.float64)
        return wide

    def rows_of(self, parameter: np.ndarray, rows: slice) -> np.ndarray:
        """The part of a number a cell that belongs to these rows (no groups on axis 0)."""
        return parameter[rows] if parameter.ndim and parameter.shape[0] > 1 else parameter

    def sample(self, values: np.ndarray, count: int) -> np.ndarray:
        """Up to about `count` values of each cell, float64, shape (cells, n); no groups."""
        if self.axis is None:
            rest = values.reshape(1, -1)
        elif self.axis == values.ndim - 1:
            rest = values.reshape(-1, values.shape[-1]).T
        else:
            rest = np.moveaxis(values, self.axis, 0).reshape(values.shape[self.axis], -1)
        # An odd step, so as not to fall in with a period of the layout.
        step = rest.shape[1] // count
        return rest[:, :: max(1, step | 1 if step > 1 else 1)].astype(np.float64)


def wide(values: np.ndarray) -> np.ndarray:
    """As float32 or float64, in which NumPy can sum; the same array where it is one already."""
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)


def magnitudes_above(
    values: np.ndarray, cells: Cells, limits: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """How many magnitudes of each cell are above each limit, and their sums; exact over all.

    Args:
        values: the tensor.
        cells: tensor or channels.
        limits: a number a cell each.

    Returns:
        Counts and sums, float64, one a limit; sums are not finite where a value is not.
    """

    def part(block: np.ndarray, rows: slice) -> tuple[np.ndarray, ...]:
        sizes = np.abs(wide(block))
        found: list[np.ndarray] = []
        for limit in limits[everything:]:
            above = sizes > cells.rows_of(limit, rows).astype(sizes.dtype)
            found += [above, sizes * above]
        return (sizes, *found) if everything else tuple(found)

    # Where nothing is left out, there is nothing to compare: the counts are known.
    everything = bool(limits) and bool(np.all(limits[0] < 0))
    with np.errstate(over="ignore", invalid="ignore"):
        found = cells.reduce(values, np.add, part)
    if everything:
        found.insert(0, cells.sizes.astype(np.float64))
    return found[0::2], found[1::2]


def short(scale: np.ndarray, rounding: np.ufunc | None = None, bits: int = 8) -> np.ndarray:
    """Float32 of few significant bits: of 8, wrong by 0.4 % at most, by 0.8 % if not rounded.

    The product with a code is then exact in float32, and its low bytes are zero: where each
    channel has a scale of its own, the weights deflate better by half.

    Args:
        scale: scales, any shape.
        rounding: `np.ceil` or `np.floor`; None: to the nearest.
        bits: number of significant bits, 1 to 24.
    """
    mantissa, exponent = np.frexp(np.asarray(scale, np.float64))
    whole = (rounding or np.rint)(mantissa * (1 << bits))
    found: np.ndarray = np.ldexp(whole, exponent - bits).astype(np.float32)
    return found


def fits(scale: np.ndarray, dtype: np.dtype) -> bool:
    """Whether scales fit into float32, and into the dtype of the tensor."""
    import ml_dtypes

    most = min(float(ml_dtypes.finfo(dtype).max), float(np.finfo(np.float32).max))
    return bool(np.all(np.abs(scale) < most))

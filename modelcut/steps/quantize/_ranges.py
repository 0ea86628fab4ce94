"""The range of a grid: the extremes of each cell, or how far they shrink for the least error."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from modelcut.model.encodings.affine import Affine
from modelcut.steps.quantize import _kmeans
from modelcut.steps.quantize._cells import Cells, short, wide
from modelcut.steps.quantize._search import least

_LOOKS = (0.05, 1.0, 15)
_MANY_LOOKS = (1e-3, 1.0, 400)
_GUARDS = (1.0, 1.15, 1.4)
_SAMPLE = 1 << 21
_SURVEYED = 1 << 19
_SQUARES_FIT = 1e15
"""Up to here, a block's squares can be summed in float32."""


def scale_of(span: np.ndarray, steps: int, kept: int, dtype: np.dtype) -> np.ndarray:
    """The step of a grid over `span`; a cell without any gets 1, which puts its zeros on code zero.

    Rounded up to `kept` significant bits, or down where the last code would not fit the type; of
    24, all that a float32 has, to the nearest. For codes of 8 bits 6 are kept: the error of the
    weights grows by the 1 % that the scales grow on average, and the deflated file is an eighth
    smaller.
    """
    import ml_dtypes

    exact = np.asarray(span, np.float64) / steps
    most = min(float(ml_dtypes.finfo(dtype).max), float(np.finfo(np.float32).max))
    up = short(exact, np.ceil if kept < 24 else np.rint, kept)
    down = short(exact, np.floor, kept)
    scale = np.where(up.astype(np.float64) * steps > most, down, up)
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))


def extremes(values: np.ndarray, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum of each cell; not finite where a value is not."""
    both = (np.minimum, np.maximum)
    low, high = cells.reduce(values, both, lambda part, _: (wide(part),) * 2)
    return low, high


def best_shrink(
    values: np.ndarray, cells: Cells, make: Any, low: np.ndarray, high: np.ndarray, *, quick: bool
) -> np.ndarray:
    """How far each cell's range shrinks for the least squared error.

    A whole tensor is looked at as a fine histogram; of long channels a sample is searched, and the
    best of it held against wider ranges, for the sake of what the sample missed, on all values.
    """
    looks = np.geomspace(*_LOOKS)
    if cells.group:
        return least(_loss_of_all(values, make, cells, low, high), looks[::2], cells.counts, 6)
    if cells.axis is None:
        line, _ = _kmeans.line_of(values, zeros=False)
        if not line.points.size:
            return np.ones(cells.counts)
        points, weights = line.points[None], line.weights[None]
        many = looks if quick else np.geomspace(*_MANY_LOOKS)
        return least(_loss_of_rows(points, weights, make, low, high), many, cells.counts, 12)
    count = max(256, (_SURVEYED if quick else _SAMPLE) // max(1, low.size))
    sample = cells.sample(values, count).astype(np.float32)
    best = least(_loss_of_rows(sample, None, make, low, high), looks, cells.counts, 8)
    if quick or sample.size == values.size:
        return best
    loss = _loss_of_all(values, make, cells, low, high)
    tried = np.stack([np.minimum(best * guard, 1.0) for guard in _GUARDS] + [np.ones(low.shape)])
    losses = np.stack([loss(shrink) for shrink in tried])
    found: np.ndarray = np.take_along_axis(tried, losses.argmin(axis=0)[None], axis=0)[0]
    return found


def weighted_shrink(
    values: np.ndarray,
    cells: Cells,
    make: Any,
    low: np.ndarray,
    high: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """How far each cell's range shrinks for the least squared error, each value with its weight."""
    loss = _loss_of_all(values, make, cells, low, high, weights)
    return least(loss, np.geomspace(*_LOOKS), cells.counts, 8)


def _loss_of_rows(
    rows: np.ndarray, weights: np.ndarray | None, make: Any, low: np.ndarray, high: np.ndarray
) -> Any:
    """Squared error of each row, a cell each, when its range shrinks."""

    def loss(shrink: np.ndarray) -> np.ndarray:
        grid = make(low * shrink, high * shrink)
        zero = grid.zero_point
        flat = Affine(
            grid.width,
            grid.scale.reshape(-1, 1),
            None if zero is None else zero.reshape(-1, 1),
        )
        found = Cells(rows.shape, 0).reduce(rows, np.add, partial(_squares, flat, weights))[0]
        return found.reshape(shrink.shape)

    return loss


def _loss_of_all(
    values: np.ndarray,
    make: Any,
    cells: Cells,
    low: np.ndarray,
    high: np.ndarray,
    weights: np.ndarray | None = None,
) -> Any:
    """The same over all values of each cell."""

    def loss(shrink: np.ndarray) -> np.ndarray:
        grid = make(low * shrink, high * shrink)
        return cells.reduce(values, np.add, partial(_squares, grid, weights))[0]

    return loss


def _squares(
    grid: Affine, weights: np.ndarray | None, part: np.ndarray, rows: slice
) -> tuple[np.ndarray]:
    delta = wide(part) - wide(grid.project(part, rows))
    if delta.size and max(float(delta.max()), -float(delta.min())) > _SQUARES_FIT:
        delta = delta.astype(np.float64)
    delta *= delta
    return (delta if weights is None else delta * weights[rows],)

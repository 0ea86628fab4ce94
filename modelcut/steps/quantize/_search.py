"""A search on a line for many cells at once: a coarse look, then the golden section."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

_GOLDEN = (5**0.5 - 1) / 2

Loss: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
"""From a point for each cell, to the loss of each cell there."""


def least(loss: Loss, looks: np.ndarray, shape: tuple[int, ...], rounds: int) -> np.ndarray:
    """For each cell, a point where its loss is least.

    The loss over the range is not convex (each code that comes into use is a ripple), so the
    whole range is sampled first; golden-section search continues between the neighbors of the
    best sample (Kiefer 1953). What was never the best is never returned.

    Args:
        loss: evaluated for all cells at once.
        looks: at least two points, ascending, float64.
        shape: shape of the array of cells.
        rounds: number of golden-section steps; each is one evaluation.
    """
    found = np.stack([loss(np.full(shape, point)) for point in looks])
    best = np.argmin(found, axis=0)
    where, value = looks[best], found.min(axis=0)
    low, high = looks[np.maximum(best - 1, 0)], looks[np.minimum(best + 1, looks.size - 1)]
    if rounds < 2:
        return where
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for turn in range(rounds - 1):
        for point, at in ((left, at_left), (right, at_right)):
            better = at < value
            where, value = np.where(better, point, where), np.where(better, at, value)
        if turn == rounds - 2:
            break
        down = at_left < at_right
        low, high = np.where(down, low, left), np.where(down, right, high)
        fresh = np.where(down, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_fresh = loss(fresh)
        left, right = np.where(down, fresh, right), np.where(down, left, fresh)
        at_left, at_right = (
            np.where(down, at_fresh, at_right),
            np.where(down, at_left, at_fresh),
        )
    return where

"""Bits dealt out over layers: where a bit takes most error away (Shoham and Gersho 1988)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np


def deal(
    sizes: Mapping[str, int], errors: Mapping[str, Sequence[float]], widths: range, average: float
) -> dict[str, int]:
    """A width for each layer, so that the sum of errors is small and the mean width is in budget.

    Going along the lower convex hull of each layer's error over its bits, by falling gain a bit,
    meets every optimum of error + λ·bits, from large λ to small; a step that no longer fits the
    budget is passed over for a smaller layer's.

    Args:
        sizes: weights of each layer.
        errors: at each width; of any unit that may be added up over layers.
        widths: bit widths to choose from, ascending.
        average: bits a weight, at least the smallest width.
    """
    budget = average * sum(sizes.values())
    spent = float(widths[0] * sum(sizes.values()))
    chosen = dict.fromkeys(sizes, widths[0])
    steps = []
    for name, size in sizes.items():
        hull = _hull(list(widths), list(errors[name]))
        for (low, before), (high, after) in pairwise(hull):
            gain = (before - after) / (size * (high - low))
            steps.append((-gain, name, low, high))
    for _, name, low, high in sorted(steps):
        cost = sizes[name] * (high - low)
        # A layer whose last step was passed over takes no later one: they build on each other.
        if chosen[name] == low and spent + cost <= budget * (1 + 1e-12):
            chosen[name], spent = high, spent + cost
    return chosen


def _hull(widths: list[int], errors: list[float]) -> list[tuple[int, float]]:
    """The corners of the lower convex hull, as far as the error falls."""
    hull: list[tuple[int, float]] = []
    for point in zip(widths, errors, strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    lowest = int(np.argmin([error for _, error in hull]))
    return hull[: lowest + 1]


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])

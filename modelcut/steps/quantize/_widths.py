"""Bits dealt out over layers: the widths of least total error within a budget, exactly.

A multiple-choice knapsack (one width for each layer). Its linear relaxation takes steps along the
lower convex hull of each layer's error over its bits, by falling gain a bit (Shoham and Gersho
1988): its bound cuts a dynamic programme over the undominated sums down to a few hundred states
(Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", section 11.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

_SLACK = 1 + 1e-12
_MOST_STATES = 1 << 17
"""Beyond these, states are thinned out: the result is then within a millionth of the optimum."""


def deal(
    sizes: Mapping[str, int], errors: Mapping[str, Sequence[float]], widths: range, average: float
) -> dict[str, int]:
    """A width for each layer, of the least sum of errors with a mean width in the budget.

    Args:
        sizes: weights of each layer.
        errors: at each width; of any unit that may be added up over layers.
        widths: bit widths to choose from, ascending.
        average: bits a weight, at least the smallest width.
    """
    costs = {name: [size * width for width in widths] for name, size in sizes.items()}
    chosen = choose(costs, errors, average * sum(sizes.values()))
    return {name: widths[option] for name, option in chosen.items()}


def choose(
    costs: Mapping[str, Sequence[float]], values: Mapping[str, Sequence[float]], budget: float
) -> dict[str, int]:
    """An option for each name: the least sum of values with a sum of costs within the budget.

    Args:
        costs: of each option, not negative.
        values: of each option, not negative.
        budget: of the costs; where even the cheapest options exceed it, these are chosen.

    Returns:
        The number of the option chosen for each name.
    """
    names = list(costs)
    if not names:
        return {}
    hulls = [_hull(list(costs[name]), list(values[name])) for name in names]
    spent, total = np.zeros(1), np.zeros(1)
    behind: list[tuple[np.ndarray, np.ndarray]] = []
    ends = [_relaxed(hulls[number:]) for number in range(1, len(names) + 1)]
    best = _greedy(hulls, budget)
    for name, (cheapest, points) in zip(names, ends, strict=True):
        cost = spent[:, None] + np.asarray(costs[name], float)
        value = total[:, None] + np.asarray(values[name], float)
        state, option = np.indices(cost.shape)
        rest = budget * _SLACK - cost - cheapest
        bound = value + np.interp(rest, points[0], points[1])
        kept = (rest >= 0) & (bound <= best * _SLACK + 1e-300)
        if not kept.any():  # not even the cheapest fit
            return {each: int(np.argmin(costs[each])) for each in names}
        cost, value, state, option = (part[kept] for part in (cost, value, state, option))
        order = np.lexsort((value, cost))
        cost, value, state, option = (part[order] for part in (cost, value, state, option))
        lowest = np.minimum.accumulate(np.concatenate([[np.inf], value[:-1]]))
        kept = value < lowest
        if kept.sum() > _MOST_STATES:
            kept = _thinned(value, kept)
        spent, total = cost[kept], value[kept]
        behind.append((state[kept], option[kept]))
    at = int(np.argmin(total))
    chosen = {}
    for name, (state, option) in zip(reversed(names), reversed(behind), strict=True):
        chosen[name] = int(option[at])
        at = int(state[at])
    return {name: chosen[name] for name in names}


def _thinned(value: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of states whose values are nearly the same the cheapest."""
    places = np.flatnonzero(kept)
    grid = np.floor(value[places] / max(value[places].max(), 1e-300) * 1e6)
    _, first = np.unique(grid, return_index=True)
    thinned = np.zeros_like(kept)
    thinned[places[first]] = True
    return thinned


def _relaxed(hulls: Sequence[list[tuple[float, float]]]) -> tuple[float, np.ndarray]:
    """The least costs of some names, and their least value by what may be spent beyond these."""
    steps = sorted(
        ((after - before) / (high - low), high - low, before - after)
        for hull in hulls
        for (low, before), (high, after) in pairwise(hull)
    )
    spent = np.cumsum([0.0, *(cost for _, cost, _ in steps)])
    gain = np.cumsum([0.0, *(gain for _, _, gain in steps)])
    start = sum(hull[0][1] for hull in hulls)
    return sum(hull[0][0] for hull in hulls), np.array([spent, start - gain])


def _greedy(hulls: Sequence[list[tuple[float, float]]], budget: float) -> float:
    """A value that can be reached: steps along the hulls by falling gain, as far as they fit."""
    at = [0] * len(hulls)
    spent = sum(hull[0][0] for hull in hulls)
    value = sum(hull[0][1] for hull in hulls)
    steps = sorted(
        ((after - before) / (high - low), number, place)
        for number, hull in enumerate(hulls)
        for place, ((low, before), (high, after)) in enumerate(pairwise(hull))
    )
    for _, number, place in steps:
        (low, before), (high, after) = hulls[number][place : place + 2]
        # A layer whose last step was passed over takes no later one: they build on each other.
        if at[number] == place and spent + high - low <= budget * _SLACK:
            at[number], spent, value = place + 1, spent + high - low, value + after - before
    return value


def _hull(costs: list[float], values: list[float]) -> list[tuple[float, float]]:
    """The corners of the lower convex hull, as far as the value falls."""
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(costs, values, strict=True)):
        if hull and hull[-1][0] == point[0]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    lowest = int(np.argmin([value for _, value in hull]))
    return hull[: lowest + 1]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])

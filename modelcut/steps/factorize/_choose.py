"""Which ranks a layer gets: by its own number, or by a budget of all layers together."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelcut.steps.factorize._parts import Decomposition, Part, Ranks


@dataclass(frozen=True)
class Option:
    """One way to factorize a layer.

    Attributes:
        method: name of the method.
        found: the decomposition that gives the factors.
        ranks: its ranks.
        parts: the layers of the chain.
        params: weights of the chain's kernels.
        macs: its multiply-accumulates in the network; None: unknown.
        loss: the squared error, over the squared norm.
    """

    method: str
    found: Decomposition
    ranks: Ranks
    parts: tuple[Part, ...]
    params: int
    macs: int | None
    loss: float

    @property
    def size(self) -> tuple[int, int]:
        """What is to be small: the work, then the weights."""
        return (self.params if self.macs is None else self.macs, self.params)


def saving(options: Sequence[Option], params: int, macs: int | None) -> list[Option]:
    """Those that have fewer weights than a layer, and do less work where it does any."""
    return [
        option
        for option in options
        if option.params < params and (not macs or option.macs is None or option.macs < macs)
    ]


def by_energy(options: Sequence[Option], energy: float) -> Option | None:
    """The smallest that keeps a fraction of the squared norm."""
    kept = [option for option in options if option.loss <= 1 - energy * (1 - 1e-12)]
    return min(kept, key=lambda option: (option.size, option.loss), default=None)


def by_ratio(options: Sequence[Option], ratio: float, params: int) -> Option | None:
    """The most accurate of at most a fraction of the weights; the smallest where there is none."""
    small = [option for option in options if option.params <= ratio * params]
    if not small:
        return min(options, key=lambda option: option.params, default=None)
    return min(small, key=lambda option: (option.loss, option.size))


@dataclass(frozen=True)
class Move:
    """The next step of a layer along its convex hull."""

    price: float
    name: str
    cost: int
    loss: float


def within(
    ladders: Mapping[str, Sequence[tuple[int, float]]], costs: Mapping[str, int], allowed: float
) -> dict[str, int]:
    """What each layer may cost so that all together cost at most so much.

    Of the layer whose error rises least for the cost that it saves a step is taken, until the sum
    is small enough. What is lowered least is the product over the layers of the energies that they
    keep, as in Zhang et al. 2016, section 3.4, so that an error counts as -log(1 - error). A
    layer's steps are those of the lower convex hull of its options.

    Args:
        ladders: layer -> (cost, loss) of its options.
        costs: layer -> what it costs whole.
        allowed: what all of them together may cost.

    Returns:
        Layer -> the most that its option may cost; layers that stay whole are not there. Where all
        options are not enough, the least of each.
    """
    total = float(sum(costs.values()))
    chosen: dict[str, tuple[int, float]] = {name: (costs[name], 0.0) for name in ladders}
    hulls = {name: _hull(costs[name], options) for name, options in ladders.items()}
    heap: list[tuple[float, str]] = []

    def push(name: str) -> None:
        if hulls[name]:
            cost, loss = hulls[name][0]
            before = chosen[name]
            heapq.heappush(heap, ((loss - before[1]) / (before[0] - cost), name))

    for name in ladders:
        push(name)
    while heap and total > allowed:
        name = heapq.heappop(heap)[1]
        cost, loss = hulls[name].pop(0)
        spare = allowed - (total - chosen[name][0])
        if cost < spare:  # the last step: no further than needed
            most = max((c for c, _ in ladders[name] if c <= spare), default=cost)
            cost = max(cost, most)
        total -= chosen[name][0] - cost
        chosen[name] = (cost, loss)
        push(name)
    return {name: cost for name, (cost, _) in chosen.items() if cost < costs[name]}


def _hull(cost: int, options: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The lower convex hull from the whole layer on, in (cost, -log(1 - loss)), falling costs."""
    hull: list[tuple[int, float]] = [(cost, 0.0)]
    points = sorted(
        ((c, -math.log(max(1e-12, 1 - loss))) for c, loss in options if c < cost),
        key=lambda point: (-point[0], point[1]),
    )
    for point in points:
        if len(hull) > 1 and point[1] <= hull[-1][1]:
            while len(hull) > 1 and point[1] <= hull[-1][1]:
                hull.pop()
        elif point[0] == hull[-1][0]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull[1:]


def _slope(one: tuple[int, float], two: tuple[int, float]) -> float:
    return (two[1] - one[1]) / max(1e-12, one[0] - two[0])

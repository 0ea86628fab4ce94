"""How many channels each dependency group loses, so that a target of the whole network is met."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelcut.graph.groups import Dependencies, Group
from modelcut.graph.node import Path
from modelcut.model.model import Model
from modelcut.steps.base import TARGET_KINDS
from modelcut.steps.prune._groups import lowest

STEPS = 100
"""A group of many channels is looked at in about so many steps."""


@dataclass(frozen=True)
class Candidate:
    """A dependency group, and what may be removed of it.

    Attributes:
        group: the channels.
        scores: float64, one a channel.
        minimum: so many channels are kept at least.
        round_to: the number kept is a multiple of this, where any are removed.
        kernels: how many axes of kernels have the channels.
        turns: the channels in the order of their removal; None: from the lowest score on.
        losses: what the network loses with the first n of them, float64, shape (channels + 1,);
            None: the scores say so only within the group.
    """

    group: Group
    scores: np.ndarray
    minimum: int
    round_to: int
    kernels: int = 1
    turns: np.ndarray | None = None
    losses: np.ndarray | None = None

    def removable(self, wanted: int) -> int:
        """The largest number of channels up to that wanted which may be removed."""
        count = self.group.ids.size
        kept = max(count - wanted, self.minimum, 1)
        kept = -(-kept // self.round_to) * self.round_to
        return max(0, count - kept)

    @property
    def order(self) -> np.ndarray:
        """The channels in the order of their removal; by score, ties in order."""
        return np.argsort(self.scores, kind="stable") if self.turns is None else self.turns


def by_ratio(candidates: Sequence[Candidate], ratio: float) -> list[int]:
    """The number of channels that each group loses: of all together, that fraction.

    What a minimum or the rounding keeps is not taken from others.
    """
    if not candidates:
        return []
    named = {str(n): candidate.scores for n, candidate in enumerate(candidates)}
    gone = lowest(named, ratio, together=True)
    return [c.removable(int(gone[str(n)].sum())) for n, c in enumerate(candidates)]


def alone(candidate: Candidate, ratio: float) -> int:
    """The number of channels that one group loses: that fraction of its own."""
    return candidate.removable(int(lowest({"": candidate.scores}, ratio, together=False)[""].sum()))


class Work:
    """The cost of a network, as channels are removed: a sum of products of the lengths of axes.

    A kernel is applied so many times for one sample, whatever its channels; so its
    multiply-accumulates are that number times the product of the lengths of its axes. Of the
    parameters of a tensor there are as many as that product itself.

    Attributes:
        total: of the whole network, all channels present.
        now: what is left.
    """

    def __init__(
        self, model: Model, found: Dependencies, macs: Mapping[str, Mapping[str, int] | None] | None
    ) -> None:
        """Args: the model, its dependencies, and what is counted.

        `macs` has each layer's multiply-accumulates, as `cost.parts` tells them; None counts
        parameters.

        Raises:
            ValueError: names a layer with channels whose work cannot be told.
        """
        self._sizes: list[int] = [slot.ids.size for slot in found.slots]
        self._kernels: dict[tuple[Path, str], tuple[float, list[int]]] = {}
        self._of_slot: dict[int, tuple[Path, str]] = {}
        slots: dict[tuple[Path, str], list[int]] = {}
        for number, slot in enumerate(found.slots):
            slots.setdefault((slot.path, slot.role), []).append(number)
        total = 0
        for layer in model.layers:
            counted = [t for t in layer.tensors if macs is None or t.kind in TARGET_KINDS]
            work = {"": sum(t.size for t in counted)} if macs is None else macs.get(layer.name)
            total += sum((work or {}).values())
            mine = [t for t in counted if (layer.path, t.role) in slots]
            if mine and work is None:
                raise ValueError(layer.name)
            for tensor in mine:
                key = layer.path, tensor.role
                starts = (s for s in work or () if tensor.role.startswith(s))
                start = max(starts, key=len, default="")
                beside = sum(t.size for t in counted if t.role.startswith(start))
                times = (work or {}).get(start, 0) / max(1, beside)
                fixed = times * tensor.size
                for number in slots[key]:
                    fixed /= max(1, self._sizes[number])
                    self._of_slot[number] = key
                self._kernels[key] = fixed, slots[key]
        every = (macs or {}).values()
        self.total = total if macs is None else sum(sum((of or {}).values()) for of in every)
        self.now = float(self.total)

    def _change(self, group: Group, count: int) -> tuple[float, dict[int, int]]:
        sizes = {n: self._sizes[n] - many * count for n, many in group.slots if n in self._of_slot}
        saved = 0.0
        for key in dict.fromkeys(self._of_slot[number] for number in sizes):
            fixed, numbers = self._kernels[key]
            before = after = fixed
            for number in numbers:
                before *= self._sizes[number]
                after *= sizes.get(number, self._sizes[number])
            saved += before - after
        return saved, sizes

    def saved(self, group: Group, count: int) -> float:
        """What removing some channels of a group would save now."""
        return self._change(group, count)[0]

    def remove(self, group: Group, count: int) -> None:
        """Removes some channels of a group."""
        saved, sizes = self._change(group, count)
        self.now -= saved
        for number, size in sizes.items():
            self._sizes[number] = size


def by_work(candidates: Sequence[Candidate], work: Work, target: float) -> list[int]:
    """The number of channels that each group loses, until the work is at most the target.

    At each step those channels are removed that lose least per work saved. The loss is the sum of
    their scores over what is left of the group's, once for each kernel that has them: with S the
    sum of the scores that are left, it is the decrease of k log S. So a group that has lost much
    already is spared, and so is one that many layers share. Where the losses of a group are known
    in units of the whole network, they stand in the place of that.

    Args:
        candidates: the groups.
        work: of the network, what is removed already taken off; it is changed.
        target: in the unit of the work.

    Returns:
        Numbers of channels; where all that may be removed is not enough, as many as may be.
    """
    lost = [0] * len(candidates)
    ladders = [_ladder(candidate) for candidate in candidates]
    sums = [np.concatenate([[0.0], np.cumsum(np.sort(c.scores))]) for c in candidates]

    def price(n: int) -> float:
        ladder, total = ladders[n], sums[n]
        if not ladder or work.now <= target:
            return float("inf")
        saved = work.saved(candidates[n].group, ladder[0] - lost[n])
        losses = candidates[n].losses
        if losses is not None:
            loss = max(0.0, float(losses[ladder[0]] - losses[lost[n]]))
        else:
            left = total[-1] - total[lost[n]]
            loss = (total[ladder[0]] - total[lost[n]]) / left if left > 0 else 0.0
            loss *= candidates[n].kernels
        return loss / saved if saved > 0 else float("inf")

    heap = [(price(n), n) for n in range(len(candidates))]
    heapq.heapify(heap)
    while heap and work.now > target:
        old, n = heapq.heappop(heap)
        now = price(n)
        if now == float("inf"):
            continue
        if now > old and heap and now > heap[0][0]:
            heapq.heappush(heap, (now, n))
            continue
        after = ladders[n].pop(0)
        work.remove(candidates[n].group, after - lost[n])
        lost[n] = after
        heapq.heappush(heap, (price(n), n))
    return lost


def _ladder(candidate: Candidate) -> list[int]:
    """The numbers of channels that may be removed, from few to many."""
    count = candidate.group.ids.size
    step = candidate.round_to * max(1, count // (STEPS * candidate.round_to))
    most = candidate.removable(count)
    first = count % candidate.round_to or step
    ladder = list(range(first, most + 1, step))
    return [*ladder, most] if most and ladder[-1:] != [most] else ladder

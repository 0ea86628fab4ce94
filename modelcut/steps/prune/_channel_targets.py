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
    """

    group: Group
    scores: np.ndarray
    minimum: int
    round_to: int
    kernels: int = 1

    def removable(self, wanted: int) -> int:
        """The largest number of channels up to that wanted which may be removed."""
        count = self.group.ids.size
        kept = max(count - wanted, self.minimum, 1)
        kept = -(-kept // self.round_to) * self.round_to
        return max(0, count - kept)

    @property
    def order(self) -> np.ndarray:
        """The channels from the lowest score to the highest, ties in order."""
        return np.argsort(self.scores, kind="stable")


def by_ratio(candidates: Sequence[Candidate], ratio: float, *, together: bool) -> list[int]:
    """The number of channels that each group loses: of all together, or of each, that fraction.

    What a minimum or the rounding keeps is not taken from others.
    """
    if not candidates:
        return []
    named = {str(n): candidate.scores for n, candidate in enumerate(candidates)}
    gone = lowest(named, ratio, together=together)
    return [c.removable(int(gone[str(n)].sum())) for n, c in enumerate(candidates)]


class Work:
    """The multiply-accumulates of a network, as channels are removed from its kernels.

    A kernel is applied so many times for one sample, whatever its channels; so its work is that
    number times the product of the lengths of its axes.

    Attributes:
        total: of the whole network, all channels present.
        now: what is left.
    """

    def __init__(self, model: Model, found: Dependencies, macs: Mapping[str, int | None]) -> None:
        """Args: the model, its dependencies, and each layer's multiply-accumulates.

        Raises:
            ValueError: names a layer with channels whose work cannot be told.
        """
        self.total = sum(count or 0 for count in macs.values())
        self.now = float(self.total)
        self._sizes: list[int] = [slot.ids.size for slot in found.slots]
        self._kernels: dict[tuple[Path, str], tuple[float, list[int]]] = {}
        self._of_slot: dict[int, tuple[Path, str]] = {}
        slots: dict[tuple[Path, str], list[int]] = {}
        for number, slot in enumerate(found.slots):
            slots.setdefault((slot.path, slot.role), []).append(number)
        for layer in model.layers:
            kernels = [t for t in layer.tensors if t.kind in TARGET_KINDS]
            values = sum(tensor.size for tensor in kernels)
            mine = [t for t in kernels if (layer.path, t.role) in slots]
            if mine and macs.get(layer.name) is None:
                raise ValueError(layer.name)
            for tensor in mine:
                key = layer.path, tensor.role
                times = (macs[layer.name] or 0) / max(1, values)
                fixed = times * tensor.size
                for number in slots[key]:
                    fixed /= max(1, self._sizes[number])
                    self._of_slot[number] = key
                self._kernels[key] = fixed, slots[key]

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


def by_macs(candidates: Sequence[Candidate], work: Work, target: float) -> list[int]:
    """The number of channels that each group loses, until the work is at most the target.

    At each step those channels are removed that lose least per work saved. The loss is the sum of
    their scores over what is left of the group's, once for each kernel that has them: with S the
    sum of the scores that are left, it is the decrease of k log S. So a group that has lost much
    already is spared, and so is one that many layers share.

    Args:
        candidates: the groups.
        work: of the network, what is removed already taken off; it is changed.
        target: multiply-accumulates.

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

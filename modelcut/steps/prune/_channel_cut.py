"""One cut: which channels of a model go for a target, and the model without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelcut.errors import RecipeError
from modelcut.graph.groups import Dependencies, Group
from modelcut.graph.node import Path
from modelcut.model import cost, edit
from modelcut.model.model import Layer, Model, Tensor
from modelcut.runtime import pinned
from modelcut.steps.base import TARGET_KINDS, Context
from modelcut.steps.prune import _channel_targets as targets
from modelcut.steps.prune._channel_scores import Scores
from modelcut.steps.prune._channel_targets import Candidate, Work

if TYPE_CHECKING:  # what asks the network needs no place in --help
    from modelcut.steps.prune._channel_data import Data
    from modelcut.steps.prune._channel_fields import ChannelFields

_TRIES = 10
"""So often the work that is aimed at is lowered, where what is left is more than was estimated."""

UNITS = {"macs": "the multiply-accumulates", "params": "the parameters"}


@dataclass(frozen=True)
class Target:
    """What is to be left.

    Attributes:
        kind: ratio, macs or params.
        value: fraction of the channels to remove; or of the work to keep.
        part: how much of the way there is to be gone, over 0 to 1; the work falls geometrically.
    """

    kind: str
    value: float
    part: float = 1.0

    def removed(self, ratio: float) -> float:
        """The fraction of channels that has gone by now, of a ratio in the end."""
        return ratio if self.part == 1 else 1 - (1 - ratio) ** self.part

    @property
    def kept(self) -> float:
        """The fraction of the work that is left by now."""
        return float(self.value**self.part)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model, that later cuts refer to.

    Attributes:
        channels: numbers of channels of the dependency groups, in their order.
        work: multiply-accumulates and parameters, by the name of the target.
    """

    channels: tuple[int, ...]
    work: Mapping[str, float]


@dataclass(frozen=True)
class Cut:
    """A model after a cut.

    Attributes:
        model: the model without the channels; what was refitted is pinned.
        removed: int64, shape (n,): their numbers among the dependencies.
        facts: about the refit.
    """

    model: Model
    removed: np.ndarray
    facts: Mapping[str, Any]


class Cutter:
    """The groups of a model with their scores, from which it is cut to any target.

    Attributes:
        found: the dependency groups.
        reasons: why layers keep their channels whatever the target.
    """

    def __init__(self, step: ChannelFields, model: Model, context: Context) -> None:
        """Scores the channels: reads kernels, and runs the network where the criterion asks it."""
        self._step, self._model, self._context = step, model, context
        self._where = f"step {context.index + 1}, {step.title}"
        self.found = edit.dependencies(model)
        chosen = {tensor.name for tensor in step.select(model, context)[0]}
        picked = _picked(step, model, self.found, chosen)
        self.reasons: dict[Path, str] = {**picked.reasons, **self.found.kept}
        self._candidates: list[Candidate] = []
        self._settings: list[ChannelFields] = []
        self._positions: list[int] = []
        scored = self._scored([pick.group for pick in picked.groups])
        kinds = {(lay.path, t.role): t.kind for lay in model.layers for t in lay.tensors}
        for pick, score in zip(picked.groups, scored, strict=True):
            if isinstance(score, str):
                self.reasons.update(dict.fromkeys(self.found.made_by(pick.group), score))
                continue
            own = pick.settings
            kernels = len(_kernels(kinds, self.found, pick.group))
            values, turns, losses = score
            self._candidates.append(
                Candidate(pick.group, values, own.minimum, own.round_to, kernels, turns, losses)
            )
            self._settings.append(own)
            self._positions.append(pick.position)

    def sizes(self) -> Sizes:
        """The sizes of the model as it is."""
        work = {kind: float(self._work(kind).total) for kind in UNITS if kind == self._step.kind}
        return Sizes(tuple(int(group.ids.size) for group in self.found.groups), work)

    def _scored(
        self, groups: list[Group]
    ) -> Sequence[str | tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
        """Of each group its scores, the order of removal, and the losses; or why there are none."""
        step, model, found = self._step, self._model, self.found
        if step.criterion == "obs":
            from modelcut.steps.prune import _channel_obs

            curves = _channel_obs.curves(model, found, groups, self.data())
            return [c if isinstance(c, str) else (c.scores, c.turns, c.losses) for c in curves]
        if step.criterion not in ("taylor", "activation"):
            scores = Scores(model, found, step.criterion, self._context).of(groups)
            return [one if isinstance(one, str) else (one, None, None) for one in scores]
        from modelcut.steps.prune import _channel_data

        if step.criterion == "activation":
            scores = _channel_data.activation(model, found, groups, self.data())
            return [one if isinstance(one, str) else (one, None, None) for one in scores]
        scores = _channel_data.taylor(model, found, groups, self.data(), step.batch_size)
        return [
            one
            if isinstance(one, str)
            else (one, None, np.concatenate([[0.0], np.cumsum(np.sort(one))]))
            for one in scores
        ]

    def data(self) -> Data:
        """The samples that the criterion looks at."""
        from modelcut.steps.prune._channel_data import Data

        step = self._step
        runtime = self._context.required_runtime(step.title)
        return Data(runtime, step.rows, step.damp, self._context, step.title)

    def cut(self, target: Target, first: Sizes, *, refit: bool = True) -> Cut:
        """The model at a target.

        Args:
            target: what is to be left, of the sizes of `first`.
            first: the sizes before any cut.
            refit: whether the criterion obs may refit what is left.

        Raises:
            RecipeError: the target cannot be reached.
        """
        counts = self._counts(target, first)
        gone = [c.group.ids[c.order[:n]] for c, n in zip(self._candidates, counts, strict=True)]
        removed = np.concatenate(gone) if gone else np.zeros(0, np.int64)
        if not removed.size:
            return Cut(self._model, removed, {})
        index = self._context.index
        result = edit.without_channels(self._model, self.found, removed, index)
        if self._step.criterion != "obs" or not refit:
            return Cut(result, removed, {})
        from modelcut.steps.prune import _channel_refit

        values, errors = _channel_refit.refitted(
            self._model, result, self.found, removed, self.data()
        )
        changed = {
            t.name: pinned(t, index, values[t.name], None)
            for t in result.tensors
            if t.name in values
        }
        return Cut(result.with_tensors(changed), removed, {"output_error": errors})

    def _counts(self, target: Target, first: Sizes) -> list[int]:
        """How many channels each group loses; those with a ratio of their own lose that."""
        counts = [0] * len(self._candidates)
        before = [first.channels[position] for position in self._positions]
        own = [
            settings.ratio if settings.ratio != self._step.ratio else None
            for settings in self._settings
        ]
        for n, ratio in enumerate(own):
            if ratio is not None:
                counts[n] = self._alone(n, target.removed(ratio), before[n])
        rest = [n for n, ratio in enumerate(own) if ratio is None]
        others = [self._candidates[n] for n in rest]
        if target.kind != "ratio":
            lost = self._by_work(target, first, counts, others)
        elif self._step.scope == "layer":
            lost = [self._alone(n, target.removed(target.value), before[n]) for n in rest]
        else:
            left = sum(int(c.group.ids.size) for c in others)
            ratio = _still(target.removed(target.value), sum(before[n] for n in rest), left)
            lost = targets.by_ratio(others, ratio)
        for n, count in zip(rest, lost, strict=True):
            counts[n] = count
        return counts

    def _alone(self, n: int, ratio: float, before: int) -> int:
        candidate = self._candidates[n]
        return targets.alone(candidate, _still(ratio, before, int(candidate.group.ids.size)))

    def _work(self, kind: str) -> Work:
        try:
            macs = cost.parts(self._model) if kind == "macs" else None
            return Work(self._model, self.found, macs)
        except ValueError as layer:
            raise RecipeError(
                f"{self._where}: the multiply-accumulates of {layer} cannot be told from the file",
                "give ratio instead of macs",
            ) from None

    def _by_work(
        self, target: Target, first: Sizes, counts: list[int], others: list[Candidate]
    ) -> list[int]:
        total = first.work[target.kind]
        wanted = aim = target.kept * total
        lost: list[int] = []
        for _ in range(_TRIES if self._attends(target.kind) else 1):
            work = self._work(target.kind)
            for candidate, count in zip(self._candidates, counts, strict=True):
                if count:
                    work.remove(candidate.group, count)
            lost = targets.by_work(others, work, aim)
            if work.now > aim * (1 + 1e-9):
                raise RecipeError(
                    f"{self._where}: {target.kind} {target.kept:g} cannot be reached: with all "
                    f"that may be removed, {work.now / max(1, total):.3g} of "
                    f"{UNITS[target.kind]} are left",
                    f"give a higher value of {target.kind}, or a lower minimum or round_to; "
                    "`modelcut inspect --graph` tells which layers keep their channels",
                )
            left = self._left(counts, others, lost) if self._attends(target.kind) else 0
            if left <= wanted:
                break
            aim *= 0.999 * wanted / left
        return lost

    def _attends(self, kind: str) -> bool:
        """Whether some of the work is that of scores, which no kernel has: it is estimated."""
        kinds = {tensor.kind for tensor in self._model.tensors}
        return kind == "macs" and "attention" in kinds

    def _left(self, counts: list[int], others: list[Candidate], lost: list[int]) -> int:
        """The multiply-accumulates without some channels of the candidates."""
        every = [*zip(self._candidates, counts, strict=True), *zip(others, lost, strict=True)]
        gone = np.concatenate([c.group.ids[c.order[:n]] for c, n in every])
        small = edit.without_channels(self._model, self.found, gone, self._context.index)
        return sum(count or 0 for count in cost.macs(small).values())


@dataclass(frozen=True)
class _Pick:
    group: Group
    position: int
    settings: ChannelFields


@dataclass(frozen=True)
class _Picked:
    groups: list[_Pick]
    reasons: dict[Path, str]


def _picked(step: ChannelFields, model: Model, found: Dependencies, chosen: set[str]) -> _Picked:
    """The groups that may be pruned, with their settings."""
    layers = {layer.path: layer for layer in model.layers}
    picked = _Picked([], {})
    for position, group in enumerate(found.groups):
        makers = found.made_by(group)
        left = [path for path in makers if _kernel(layers[path]).name not in chosen]
        if left:
            why = f"shares channels with {'/'.join(left[0])}, which is not selected"
            rest = (path for path in makers if path not in left)
            picked.reasons.update(dict.fromkeys(rest, why))
            continue
        settings = step
        for path in makers:
            own = step.settings(layers[path], _kernel(layers[path]))
            if own is not step:
                settings = own
                break
        picked.groups.append(_Pick(group, position, settings))
    return picked


def _still(ratio: float, before: int, left: int) -> float:
    """The fraction of what is left that must go, for this fraction of what was there to be gone."""
    if left == before:
        return ratio
    return max(0.0, ratio * before - (before - left)) / max(1, left)


def _kernel(layer: Layer) -> Tensor:
    kinds = TARGET_KINDS | {"embedding"}
    return next((t for t in layer.tensors if t.kind in kinds), layer.tensors[0])


def _kernels(kinds: Mapping[tuple[Path, str], str], found: Dependencies, group: Group) -> list[int]:
    """The slots of a group that are axes of kernels."""
    slots = ((number, found.slots[number]) for number, _ in group.slots)
    return [number for number, slot in slots if kinds[slot.path, slot.role] in TARGET_KINDS]

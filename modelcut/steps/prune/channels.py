"""Removes whole channels, so that the network's tensors become smaller and the network faster.

Which channels of which layers must be removed together is found from the architecture
(`graph.groups`; Fang et al. 2023, section 3). The weights of the channels are removed everywhere,
and the architecture's sizes follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.errors import RecipeError
from modelcut.graph.groups import Dependencies, Group
from modelcut.graph.node import Path
from modelcut.model import cost, edit
from modelcut.model.model import Layer, Model
from modelcut.steps.base import TARGET_KINDS, Context, LayerStep, Need, Outcome
from modelcut.steps.prune import _channel_targets as targets
from modelcut.steps.prune._channel_scores import Scores
from modelcut.steps.prune._channel_targets import Candidate, Work


class Channels(LayerStep):
    """Remove whole channels from all layers that share them; the network becomes faster."""

    aims: ClassVar[frozenset[str]] = TARGET_KINDS | {"bias", "norm", "embedding", "state"}
    global_fields: ClassVar[frozenset[str]] = frozenset({"criterion", "scope", "macs"})
    absent: ClassVar[dict[str, str]] = {
        "budget": "layers share channels, so no setting can be searched for one layer; give ratio "
        "or macs"
    }

    criterion: Literal["l1", "l2", "bn_scale", "fpgm", "random"] = Field(
        default="l2",
        description="Score of a channel: the L1 or L2 norm of its weights in all layers that "
        "share it, the scale of its batch normalization, or the sum of its filter's distances to "
        "the others (fpgm); or random, a baseline.",
    )
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Fraction of the channels to remove."
    )
    macs: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Fraction of the network's multiply-accumulates (MACs) to keep; channels of "
        "the lowest score per saved MAC are removed first.",
    )
    scope: Literal["layer", "global"] = Field(
        default="global",
        description="With ratio: rank the channels of each group of coupled layers by themselves, "
        "or those of the whole network together.",
    )
    round_to: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Keep a multiple of this many channels where any are removed."
    )
    minimum: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Keep at least this many channels of each group of coupled layers."
    )

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"graph"}

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [name for name in ("ratio", "macs") if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of ratio and macs (given: {what})")
        if self.macs is not None and "scope" in self.model_fields_set and self.scope == "layer":
            raise ValueError("scope: macs is a target of the whole network; leave scope out")
        return self

    def _with(self, fields: Mapping[str, Any]) -> Self:
        given = {name: getattr(self, name) for name in self.model_fields_set - {"overrides"}}
        if "ratio" in fields:
            given.pop("macs", None)
        return type(self).model_validate({**given, **fields})

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`; kernels are read here, to score their channels."""
        self.architecture_of(model, context, "nothing tells which layers share channels")
        chosen, skipped = self.select(model, context)
        found = edit.dependencies(model)
        picked = self._picked(model, found, {tensor.name for tensor in chosen})
        scores = Scores(model, found, self.criterion, context).of([g.group for g in picked.groups])
        kinds = {(lay.path, t.role): t.kind for lay in model.layers for t in lay.tensors}
        candidates: list[Candidate] = []
        own: list[float | None] = []
        for pick, score in zip(picked.groups, scores, strict=True):
            if isinstance(score, str):
                picked.reasons.update(dict.fromkeys(found.made_by(pick.group), score))
                continue
            settings = pick.settings
            kernels = len(_kernels(kinds, found, pick.group))
            candidates.append(
                Candidate(pick.group, score, settings.minimum, settings.round_to, kernels)
            )
            own.append(settings.ratio if settings.ratio != self.ratio else None)
        counts = self._counts(model, found, candidates, own, context)
        gone = [c.group.ids[c.order[:n]] for c, n in zip(candidates, counts, strict=True)]
        removed = np.concatenate(gone) if gone else np.zeros(0, np.int64)
        result = model
        if removed.size:
            result = edit.without_channels(model, found, removed, context.index)
        before = {tensor.name: tensor for tensor in model.tensors}
        reasons = {**picked.reasons, **found.kept}
        for layer in result.layers:
            for tensor in layer.tensors:
                if tensor is not before[tensor.name]:
                    skipped.pop(tensor.name, None)
                elif tensor.name not in skipped:
                    reason = reasons.get(layer.path, "none of its channels is removed")
                    skipped[tensor.name] = reason
        facts = self._facts(model, result, found, removed)
        return Outcome(result, facts, skipped, self._warnings(model, result))

    def _picked(self, model: Model, found: Dependencies, chosen: set[str]) -> _Picked:
        """The groups that may be pruned, with their settings."""
        layers = {layer.path: layer for layer in model.layers}
        picked = _Picked([], {})
        for group in found.groups:
            makers = found.made_by(group)
            left = [path for path in makers if not _is_chosen(layers[path], chosen)]
            if left:
                why = f"shares channels with {'/'.join(left[0])}, which is not selected"
                rest = (path for path in makers if path not in left)
                picked.reasons.update(dict.fromkeys(rest, why))
                continue
            settings = self
            for path in makers:
                own = self.settings(layers[path], _kernel(layers[path]))
                if own is not self:
                    settings = own
                    break
            picked.groups.append(_Pick(group, settings))
        return picked

    def _counts(
        self,
        model: Model,
        found: Dependencies,
        candidates: list[Candidate],
        own: list[float | None],
        context: Context,
    ) -> list[int]:
        """How many channels each group loses; those with a ratio of their own lose that."""
        counts = [0] * len(candidates)
        for n, ratio in enumerate(own):
            if ratio is not None:
                counts[n] = targets.by_ratio([candidates[n]], ratio, together=False)[0]
        rest = [n for n, ratio in enumerate(own) if ratio is None]
        others = [candidates[n] for n in rest]
        if self.ratio is not None:
            lost = targets.by_ratio(others, self.ratio, together=self.scope == "global")
        else:
            lost = self._by_macs(model, found, candidates, counts, others, context)
        for n, count in zip(rest, lost, strict=True):
            counts[n] = count
        return counts

    def _by_macs(
        self,
        model: Model,
        found: Dependencies,
        candidates: list[Candidate],
        counts: list[int],
        others: list[Candidate],
        context: Context,
    ) -> list[int]:
        assert self.macs is not None
        where = f"step {context.index + 1}, {self.title}"
        try:
            work = Work(model, found, cost.macs(model))
        except ValueError as layer:
            raise RecipeError(
                f"{where}: the multiply-accumulates of {layer} cannot be told from the file",
                "give ratio instead of macs",
            ) from None
        for candidate, count in zip(candidates, counts, strict=True):
            if count:
                work.remove(candidate.group, count)
        target = self.macs * work.total
        lost = targets.by_macs(others, work, target)
        if work.now > target * (1 + 1e-9):
            raise RecipeError(
                f"{where}: macs {self.macs:g} cannot be reached: with all that may be removed, "
                f"{work.now / max(1, work.total):.3g} of the multiply-accumulates are left",
                "give a higher value of macs, or a lower minimum or round_to; `modelcut inspect "
                "--graph` tells which layers keep their channels",
            )
        return lost

    def _facts(
        self, model: Model, result: Model, found: Dependencies, removed: np.ndarray
    ) -> dict[str, Any]:
        layers: dict[str, Any] = {}
        for group in found.groups:
            lost = int(np.isin(group.ids, removed).sum())
            for path in found.made_by(group):
                known = layers.setdefault("/".join(path), {"channels": 0, "removed": 0})
                known["channels"] += group.ids.size
                known["removed"] += lost
        work = [sum(n or 0 for n in cost.macs(each).values()) for each in (model, result)]
        return {
            "groups": len(found.groups),
            "channels": sum(int(group.ids.size) for group in found.groups),
            "removed": int(removed.size),
            "macs": {"before": work[0], "after": work[1]},
            "layers": layers,
        }

    def _warnings(self, model: Model, result: Model) -> tuple[str, ...]:
        shapes = {layer.path: [t.shape for t in layer.tensors] for layer in model.layers}
        over = [
            layer.name
            for layer in result.layers
            if layer.class_name in ("LayerNormalization", "RMSNormalization")
            and [t.shape for t in layer.tensors] != shapes[layer.path]
        ]
        if not over:
            return ()
        more = f" and {len(over) - 1} more" if len(over) > 1 else ""
        return (
            f"{self.title}: {over[0]}{more}: normalizes over its channels, so that removing some "
            "also changes the others; fine-tune afterwards",
        )


@dataclass(frozen=True)
class _Pick:
    group: Group
    settings: Channels


@dataclass(frozen=True)
class _Picked:
    groups: list[_Pick]
    reasons: dict[Path, str]


def _kernel(layer: Layer) -> Any:
    kinds = TARGET_KINDS | {"embedding"}
    return next((t for t in layer.tensors if t.kind in kinds), layer.tensors[0])


def _kernels(kinds: Mapping[tuple[Path, str], str], found: Dependencies, group: Group) -> list[int]:
    """The slots of a group that are axes of kernels."""
    slots = ((number, found.slots[number]) for number, _ in group.slots)
    return [number for number, slot in slots if kinds[slot.path, slot.role] in TARGET_KINDS]


def _is_chosen(layer: Layer, chosen: set[str]) -> bool:
    return _kernel(layer).name in chosen

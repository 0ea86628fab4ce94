"""Removes whole channels, so that the network's tensors become smaller and the network faster.

Which channels of which layers must be removed together is found from the architecture
(`graph.groups`; Fang et al. 2023, section 3). The weights of the channels are removed everywhere,
and the architecture's sizes follow.
"""

from __future__ import annotations

from typing import Any

from modelcut.model.model import Model
from modelcut.steps.base import Context, Outcome
from modelcut.steps.prune._channel_fields import ChannelFields


class Channels(ChannelFields):
    """Remove whole channels from all layers that share them; the network becomes faster."""

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`; kernels are read here, to score their channels."""
        from modelcut.steps.prune import _channel_rounds as rounds
        from modelcut.steps.prune._channel_cut import Target

        self.architecture_of(model, context, "nothing tells which layers share channels")
        _, skipped = self.select(model, context)
        begun, more = model, dict[str, Any]()
        if self.regularize is not None:
            begun, more = rounds.regularized(self, model, context)
        course = rounds.start(self, begun, context)
        course.trained = begun is not model
        if self.budget is not None and self.finetune is None:
            course, warnings = rounds.within_budget(self, course, context)
        else:
            value = getattr(self, self.kind)
            target = Target(self.kind, value) if self.latency is None else None
            if target is None:
                target, told = rounds.for_latency(self, course, context)
                more |= told
            course, warnings = rounds.in_rounds(self, course, target, context)
        result = rounds.settled(model, course, context)
        before = {tensor.name: tensor for tensor in model.tensors}
        for layer in result.layers:
            for tensor in layer.tensors:
                if tensor is not before[tensor.name]:
                    skipped.pop(tensor.name, None)
                elif tensor.name not in skipped:
                    reason = course.reasons.get(layer.path, "none of its channels is removed")
                    skipped[tensor.name] = reason
        facts = {**self._facts(model, result, course), **more, **course.facts}
        told_more = (*self._warnings(result, course), *(f"{self.title}: {w}" for w in warnings))
        return Outcome(result, facts, skipped, told_more)

    def _facts(self, model: Model, result: Model, course: Any) -> dict[str, Any]:
        from modelcut.model import cost  # the help of `prune` needs this module, and not that one

        layers: dict[str, Any] = {}
        found = course.first.found
        for group, left in zip(found.groups, course.counts, strict=True):
            for path in found.made_by(group):
                known = layers.setdefault("/".join(path), {"channels": 0, "removed": 0})
                known["channels"] += int(group.ids.size)
                known["removed"] += int(group.ids.size) - left
        work = [sum(n or 0 for n in cost.macs(each).values()) for each in (model, result)]
        channels = sum(int(group.ids.size) for group in found.groups)
        return {
            "groups": len(found.groups),
            "channels": channels,
            "removed": channels - sum(course.counts),
            "macs": {"before": work[0], "after": work[1]},
            "layers": layers,
        }

    def _warnings(self, result: Model, course: Any) -> tuple[str, ...]:
        from modelcut.model import edit

        before = course.first.found.mixed
        after = edit.dependencies(result).mixed if before else {}
        over = [
            "/".join(path)
            for path, ids in before.items()
            if path in after and after[path].size != ids.size
        ]
        if not over:
            return ()
        more = f" and {len(over) - 1} more" if len(over) > 1 else ""
        return (
            f"{self.title}: {over[0]}{more}: normalizes over its channels, so that removing some "
            "also changes the others; fine-tune afterwards",
        )

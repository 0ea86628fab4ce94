"""Channels removed in rounds, by a budget, or down to a latency; and the penalty before it.

Every round scores what is left and trains on what it has cut (Molchanov et al. 2017, section 2);
the work falls by the same factor in each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelcut.errors import RecipeError
from modelcut.graph import edit
from modelcut.metrics.scores import check_limits
from modelcut.model import edit as model_edit
from modelcut.model.model import Model
from modelcut.runtime import Coupled, pinned
from modelcut.steps.base import Context
from modelcut.steps.prune import _rounds
from modelcut.steps.prune._channel_cut import Cut, Cutter, Target
from modelcut.steps.prune._iterated import tuning, validation_of
from modelcut.steps.strength import Budget

if TYPE_CHECKING:
    from modelcut.steps.prune._channel_fields import ChannelFields

_TRIES = 6
"""Networks that are measured for a latency, beside the original."""
_NEAR = 0.03
"""How far below the latency that was asked for is near enough, of the original's."""
_TURNS = 30
"""Turns that original and candidate take; the ratio is the median of those of each turn."""


@dataclass
class Course:
    """What has been done to a model so far.

    Attributes:
        model: as it is now.
        first: the cutter of the model as the step received it.
        counts: numbers of channels of the groups now.
        kept: of each axis of each tensor, by (path, role, axis), the indices that are left.
        reasons: why layers keep their channels.
        facts: what is to be told.
        trained: whether values have changed, so that all edits of a tensor become one.
    """

    model: Model
    first: Cutter
    counts: list[int]
    kept: dict[tuple[Any, str, int], np.ndarray] = field(default_factory=dict)
    reasons: dict[Any, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    trained: bool = False

    def after(self, cutter: Cutter, cut: Cut) -> Course:
        """The course with one more cut."""
        keep = edit.keeping(cut.removed)
        kept = dict(self.kept)
        for slot in cutter.found.slots:
            key = slot.path, slot.role, slot.axis
            kept[key] = kept.get(key, np.arange(slot.ids.size))[keep(slot.ids)]
        counts = [int(keep(group.ids).sum()) for group in cutter.found.groups]
        pinned_now = self.trained or bool(cut.facts)
        facts = {**self.facts, **cut.facts}
        return Course(cut.model, self.first, counts, kept, cutter.reasons, facts, pinned_now)


def start(step: ChannelFields, model: Model, context: Context) -> Course:
    """Scores the channels of a model."""
    cutter = Cutter(step, model, context)
    counts = [int(group.ids.size) for group in cutter.found.groups]
    return Course(model, cutter, counts, reasons=cutter.reasons)


def in_rounds(
    step: ChannelFields, course: Course, target: Target, context: Context
) -> tuple[Course, tuple[str, ...]]:
    """Cuts as often as the step says, and trains after each cut if it says so.

    Returns:
        The course after the last round within the budget, and warnings.
    """
    tune = None if step.finetune is None else tuning(step.finetune)
    share = 0.0 if tune is None else validation_of(tune)
    inside = replace(context, memo={}, set_aside=max(context.set_aside, share))
    budget, before = step.budget, {}
    if budget:
        runtime = context.required_runtime(step.title)
        check_limits(budget, runtime.scores(runtime.open(course.model)).targets, compared=True)
        before = _rounds.judge(runtime, course.model, share)
    first = course.first.sizes()
    rounds: list[dict[str, Any]] = []
    best, ended = course, _rounds.after(step.rounds or 1)
    for number in range(1, (step.rounds or 1) + 1):
        part = replace(target, part=number / (step.rounds or 1))
        cutter = course.first if number == 1 else Cutter(step, best.model, inside)
        done = best.after(cutter, cutter.cut(part, first))
        told: dict[str, Any] = {"channels": sum(done.counts)}
        if tune is not None:
            context.say(f"{step.title}: round {number}, fine-tuning")
            outcome = tune.apply(done.model, inside)
            done = replace(done, model=outcome.model, trained=True)
            told |= _rounds.course(outcome.facts)
        if budget:
            found = _rounds.judge(context.required_runtime(step.title), done.model, share)
            held = _rounds.holds(budget, before, found)
            rounds.append({**told, **_rounds.shown(found), "held": held})
            if not held:
                ended = "the budget is spent"
                break
        elif step.rounds is not None or tune is not None:
            rounds.append(told)
        best = done
    facts = {**best.facts, **({"rounds": rounds, "ended": ended} if rounds else {})}
    if budget:
        facts["before"] = _rounds.shown(before)
        facts["limits"] = _limits(budget)
    warnings: tuple[str, ...] = ()
    if best is course and rounds:
        warnings = ("not even the first round holds the budget, so nothing was done",)
    return replace(best, facts=facts), warnings


def within_budget(
    step: ChannelFields, course: Course, context: Context
) -> tuple[Course, tuple[str, ...]]:
    """The smallest fraction of the MACs at which the limits hold, untrained, by bisection.

    Returns:
        The course, cut so far, and warnings.
    """
    budget = step.budget
    assert budget is not None
    runtime = context.required_runtime(step.title)
    check_limits(budget, runtime.scores(runtime.open(course.model)).targets, compared=True)
    before = _rounds.judge(runtime, course.model, step.set_aside)
    first = course.first.sizes()
    ladder = step.ladder
    tried: list[dict[str, Any]] = []
    best, low, high = course, -1, len(ladder)
    while high - low > 1:
        middle = (low + high) // 2
        target = Target("macs", ladder[middle])
        context.say(f"{step.title}: macs {ladder[middle]:g}")
        try:
            cut = course.first.cut(target, first)
        except RecipeError:  # so few cannot be reached
            high = middle
            continue
        found = _rounds.judge(runtime, cut.model, step.set_aside)
        held = _rounds.holds(budget, before, found)
        tried.append({"macs": ladder[middle], **_rounds.shown(found), "held": held})
        if held:
            best, low = course.after(course.first, cut), middle
        else:
            high = middle
    facts = {
        "limits": _limits(budget),
        "before": _rounds.shown(before),
        "tried": tried,
        "found": ladder[low] if low >= 0 else None,
    }
    warnings: tuple[str, ...] = ()
    if low < 0:
        warnings = ("no fraction of the multiply-accumulates holds the budget",)
    return replace(best, facts={**best.facts, "budget": facts}), warnings


def for_latency(
    step: ChannelFields, course: Course, context: Context
) -> tuple[Target, dict[str, Any]]:
    """The fraction of the MACs at which a sample takes the fraction of the time that is wanted.

    Original and candidate take turns, so that what else the machine does falls on both.

    Returns:
        The target in MACs; and facts about what was measured.

    Raises:
        RecipeError: no fraction is fast enough.
    """
    assert step.latency is not None
    runtime = context.required_runtime(step.title)
    first = course.first.sizes()
    tried: list[dict[str, float]] = []
    best: float | None = None
    low, high, macs = 0.0, 1.0, step.latency
    with runtime.timer(course.model, step.engine) as original:
        for _ in range(_TRIES):
            context.say(f"{step.title}: latency at macs {macs:.3f}")
            try:
                cut = course.first.cut(Target("macs", macs), first, refit=False)
            except RecipeError:
                low = macs
                macs = (low + high) / 2
                continue
            with runtime.timer(cut.model, step.engine) as candidate:
                seconds = np.array([[original(), candidate()] for _ in range(_TURNS)])
            ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
            times = 1000 * np.median(seconds, axis=0)
            tried.append(
                {"macs": macs, "ratio": ratio, "before_ms": times[0], "after_ms": times[1]}
            )
            if ratio <= step.latency:
                best, low = macs, macs
                if ratio >= step.latency - _NEAR:
                    break
            else:
                high = macs
            macs = (low + high) / 2
    if best is None:
        least = min((each["ratio"] for each in tried), default=1.0)
        raise RecipeError(
            f"step {context.index + 1}, {step.title}: latency {step.latency:g} cannot be reached: "
            f"of the networks tried the fastest takes {least:.3g} of the original's time",
            "give a higher value of latency, or a lower minimum or round_to",
        )
    return Target("macs", best), {"latency": {"engine": step.engine, "tried": tried, "macs": best}}


def regularized(
    step: ChannelFields, model: Model, context: Context
) -> tuple[Model, dict[str, Any]]:
    """The model after a training that shrinks the channels of each group together.

    Returns:
        The trained model, and facts.
    """
    assert step.regularize is not None
    fields = dict(step.regularize)
    strength = float(fields.pop("group_lasso"))
    found = model_edit.dependencies(model)
    layers = {layer.path: layer for layer in model.layers}
    coupled = []
    for group in found.groups:
        parts = []
        for number, _ in group.slots:
            slot = found.slots[number]
            tensor = layers[slot.path].by_role[slot.role]
            if tensor.kind == "state" or tensor.kinds != ("dense",):
                continue
            places = np.searchsorted(group.ids, slot.ids).clip(0, group.ids.size - 1)
            parts.append(
                (tensor.name, slot.axis, np.where(group.ids[places] == slot.ids, places, -1))
            )
        coupled.append(Coupled(strength, int(group.ids.size), tuple(parts)))
    context.say(f"{step.title}: training with a group lasso")
    outcome = tuning(fields).apply(model, replace(context, coupled=tuple(coupled)))
    return outcome.model, {"regularize": {"group_lasso": strength, **_rounds.course(outcome.facts)}}


def settled(model: Model, course: Course, context: Context) -> Model:
    """The model of a course, with one removal and one change of values for each tensor.

    Args:
        model: as the step received it.
        course: what was done to it.
        context: the context of the step.
    """
    if not course.trained:
        return course.model
    old = {tensor.name: tensor for tensor in model.tensors}
    layers = []
    for layer in course.model.layers:
        tensors = []
        for tensor in layer.tensors:
            before = old[tensor.name]
            if tensor is before:
                tensors.append(tensor)
                continue
            axes = ((axis, course.kept.get((layer.path, tensor.role, axis)))
                    for axis in range(len(before.shape)))  # fmt: skip
            takes = tuple(
                (axis, kept) for axis, kept in axes
                if kept is not None and kept.size != before.shape[axis]
            )  # fmt: skip
            now = model_edit.taken(before, takes, context.index) if takes else before
            values, encoding = tensor.pull()
            same = takes and np.array_equal(values, now.pull()[0])
            tensors.append(now if same else pinned(now, context.index, values, encoding))
        layers.append(replace(layer, tensors=tuple(tensors)))
    return replace(course.model, layers=tuple(layers))


def _limits(budget: Budget) -> dict[str, Any]:
    return {name: limit for name, limit, _ in budget.items()}

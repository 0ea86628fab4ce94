"""Cut, train on, cut again: rounds that end of themselves, or where too much is lost.

Han et al. 2015, section 3.4: what a cut costs is trained back before the next one, which takes the
smallest of what is left. Nothing says beforehand how far that goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.metrics.accumulators import compare
from modelcut.metrics.scores import check_limits
from modelcut.model.model import Model
from modelcut.runtime import Runtime, pinned
from modelcut.steps.base import Context, Outcome, Step
from modelcut.steps.strength import Budget

STABLE = 1e-3
"""A round that would take a smaller share of the weights that are left is the end: training moves
the others a little, so that a handful is always near enough to zero to go next."""

Cut = Callable[[Model], tuple[Model, dict[str, int]]]
"""From a model to the same after one cut, and the weights that are left in each tensor."""


@dataclass(frozen=True)
class Round:
    """What one cut and the training after it came to; or what there was before the first one."""

    model: Model
    left: Mapping[str, int]
    metrics: Mapping[str, Any]

    def to_dict(self, held: bool | None) -> dict[str, Any]:
        """As plain JSON data."""
        found = {"nonzeros": dict(self.left), **shown(self.metrics)}
        return found if held is None else {**found, "held": held}


_SHOWN = ("accuracy", "log_loss", "mae", "rmse", "r2")


def shown(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that a report of rounds has, of each output where there are several."""
    found = {name: metrics[name] for name in _SHOWN if name in metrics}
    if "outputs" in metrics:
        found["outputs"] = {
            output: {name: part[name] for name in _SHOWN if name in part}
            for output, part in metrics["outputs"].items()
        }
    return found


def until_stable(
    cut: Cut,
    tune: Step | None,
    model: Model,
    context: Context,
    *,
    budget: Budget | None,
    most: int,
    share: float,
    title: str,
) -> tuple[Model, dict[str, Any], tuple[str, ...]]:
    """Does the rounds.

    Args:
        cut: prunes once, for one round.
        tune: the fine-tuning after each cut; None: there is none.
        model: the model as the step receives it.
        context: the context of the step, with a runtime.
        budget: what may be lost on the rows set aside, against `model`; None: anything.
        most: maximum number of rounds.
        share: fraction of the training samples that is set aside where there is no validation data.
        title: title of the step, such as "prune: magnitude".

    Returns:
        The model after the last round that held, facts, and warnings.
    """
    runtime = context.required_runtime(title if tune is None else tune.title)
    stable = 0.0 if tune is None else STABLE
    if budget:
        check_limits(budget, runtime.scores(runtime.open(model)).targets, compared=True)
    before = Round(model, {}, judge(runtime, model, share) if budget else {})
    best, rows, ended = before, [], after(most)
    for number in range(1, most + 1):
        smaller, left = cut(best.model)
        had = best.left or {t.name: nonzeros(t.pull()[0]) for t in model.tensors if t.name in left}
        gone = sum(had.values()) - sum(left.values())
        if gone <= stable * sum(had.values()):
            ended = "stable"
            break
        context.say(f"round {number}: {sum(left.values()):,} weights left")
        outcome = Outcome(smaller) if tune is None else tune.apply(smaller, context)
        tuned = _collapsed(model, outcome.model, context)
        found = Round(tuned, left, judge(runtime, tuned, share) if budget else {})
        held = holds(budget, before.metrics, found.metrics) if budget else None
        rows.append({**found.to_dict(held), **course(outcome.facts)})
        if held is False:
            ended = "the budget is spent"
            break
        best = found
    facts: dict[str, Any] = {"rounds": rows, "ended": ended}
    if budget:
        facts["before"] = before.to_dict(None)
        facts["limits"] = {name: limit for name, limit, _ in budget.items()}
    if best is before and rows:
        return model, facts, ("not even the first round holds the budget, so nothing was done",)
    return best.model, facts, ()


def after(rounds: int) -> str:
    """Why it ended, where it was for the number of rounds."""
    return f"after {rounds} rounds"


def keep(model: Model, kept: Mapping[str, tuple[np.ndarray, Any]], context: Context) -> Model:
    """The model with these values and encodings in the place of what the tensors hold."""
    return model.with_tensors(
        {
            tensor.name: pinned(tensor, context.index, *kept[tensor.name])
            for tensor in model.tensors
            if tensor.name in kept
        }
    )


def _collapsed(model: Model, tuned: Model, context: Context) -> Model:
    """The model with all that the rounds did to it as one edit a tensor."""
    old = {tensor.name: tensor for tensor in model.tensors}
    return keep(
        model, {t.name: t.pull() for t in tuned.tensors if t is not old.get(t.name)}, context
    )


def judge(runtime: Runtime, model: Model, share: float) -> dict[str, Any]:
    """The metrics of a model on the samples set aside."""
    return runtime.judge(runtime.open(model), part="validation", share=share)


def holds(budget: Budget, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether all limits of a budget are met."""
    report = {"evaluation": {"after": {"metrics": after}, "change": compare(before, after)}}
    return all(verdict["held"] for verdict in budget.judge(report))


def nonzeros(values: np.ndarray) -> int:
    """How many of the values are not zero."""
    return int(np.count_nonzero(values))


def course(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of the training's facts, what tells how it went."""
    found = {name: facts[name] for name in ("epochs", "best_epoch") if facts.get(name) is not None}
    return {**found, "loss": facts["loss"][-1]} if facts.get("loss") else found

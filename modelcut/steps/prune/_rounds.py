"""Prune, fine-tune, prune again: rounds that end when stable, or when the budget is spent.

Han et al. 2015, section 3.4: the accuracy is recovered by training before the next round, which
prunes the smallest remaining weights. The final sparsity is not known beforehand.
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
"""The rounds end when one would prune a smaller fraction of the remaining weights: training moves
the others a little, so that a few are always near enough to zero."""

Cut = Callable[[Model], tuple[Model, dict[str, int]]]
"""From a model to the same after one round of pruning, and the nonzeros of each tensor."""


@dataclass(frozen=True)
class Round:
    """The result of one round and its fine-tuning; or the state before the first one."""

    model: Model
    left: Mapping[str, int]
    metrics: Mapping[str, Any]

    def to_dict(self, passed: bool | None) -> dict[str, Any]:
        """As plain JSON data."""
        found = {"nonzeros": dict(self.left), **shown(self.metrics)}
        return found if passed is None else {**found, "held": passed}


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
    fraction: float,
    title: str,
) -> tuple[Model, dict[str, Any], tuple[str, ...]]:
    """Prunes in rounds.

    Args:
        cut: prunes once, for one round.
        tune: the fine-tuning after each round; None: no fine-tuning.
        model: the model as the step receives it.
        context: the context of the step, with a runtime.
        budget: limits on the validation samples, compared with `model`; None: no limits.
        most: maximum number of rounds.
        fraction: of the training samples, set aside where there is no validation data.
        title: title of the step, such as "prune: magnitude".

    Returns:
        The model after the last round within the budget, facts, and warnings.
    """
    runtime = context.required_runtime(title if tune is None else tune.title)
    stable = 0.0 if tune is None else STABLE
    if budget:
        check_limits(budget, runtime.scores(runtime.open(model)).targets, compared=True)
    before = Round(model, {}, judge(runtime, model, fraction) if budget else {})
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
        found = Round(tuned, left, judge(runtime, tuned, fraction) if budget else {})
        passed = holds(budget, before.metrics, found.metrics) if budget else None
        rows.append({**found.to_dict(passed), **course(outcome.facts)})
        if passed is False:
            ended = "the budget is spent"
            break
        best = found
    facts: dict[str, Any] = {"rounds": rows, "ended": ended}
    if budget:
        facts["before"] = before.to_dict(None)
        facts["limits"] = {name: limit for name, limit, _ in budget.items()}
    if best is before and rows:
        return model, facts, ("the first round already exceeds the budget, so nothing was pruned",)
    return best.model, facts, ()


def after(rounds: int) -> str:
    """Why the rounds ended, where their number was reached."""
    return f"after {rounds} rounds"


def keep(model: Model, kept: Mapping[str, tuple[np.ndarray, Any]], context: Context) -> Model:
    """The model with these values and encodings in place of the tensors' own."""
    return model.with_tensors(
        {
            tensor.name: pinned(tensor, context.index, *kept[tensor.name])
            for tensor in model.tensors
            if tensor.name in kept
        }
    )


def _collapsed(model: Model, tuned: Model, context: Context) -> Model:
    """The model with the effect of all rounds as one edit per tensor."""
    old = {tensor.name: tensor for tensor in model.tensors}
    return keep(
        model, {t.name: t.pull() for t in tuned.tensors if t is not old.get(t.name)}, context
    )


def judge(runtime: Runtime, model: Model, fraction: float) -> dict[str, Any]:
    """The metrics of a model on the samples set aside."""
    return runtime.judge(runtime.open(model), part="validation", share=fraction)


def holds(budget: Budget, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether all limits of a budget are met."""
    report = {"evaluation": {"after": {"metrics": after}, "change": compare(before, after)}}
    return all(verdict["held"] for verdict in budget.judge(report))


def nonzeros(values: np.ndarray) -> int:
    """How many of the values are not zero."""
    return int(np.count_nonzero(values))


def course(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a training that describe its course."""
    found = {name: facts[name] for name in ("epochs", "best_epoch") if facts.get(name) is not None}
    return {**found, "loss": facts["loss"][-1]} if facts.get("loss") else found

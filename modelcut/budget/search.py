"""The strongest setting of each layer that holds a budget together.

Each layer is tried alone first. What a setting saves (bits) and what it costs (how far the outputs
move) give each layer a curve; its lower convex hull orders the moves from one setting to a stronger
one by cost per bit, and the moves of all layers, in that order, are a chain of whole models that
grow ever smaller (Shoham and Gersho 1988, section III; with the outputs' shift as the cost, as
Cai et al. 2020, section 3.2, allot bits to layers). Costs do not quite add up over layers, so the
chain's last point that holds is found by bisection with the whole model measured each time, and
then single layers are taken further while that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import Any

from modelcut.budget.bench import Bench
from modelcut.budget.profile import Settings, Trial, Trier, profile
from modelcut.errors import RecipeError, UsageError
from modelcut.metrics.scores import check_limits
from modelcut.model.model import Model
from modelcut.recipe.recipe import step_to_dict
from modelcut.steps.base import Context, Outcome
from modelcut.steps.strength import Budget, Budgeted


@dataclass(frozen=True)
class Move:
    """One layer goes from one setting to a stronger one."""

    layer: str
    setting: float
    price: float


def apply(step: Budgeted, model: Model, context: Context) -> Outcome:
    """The model after a step whose strength is searched first; the facts tell what was found.

    Raises:
        UsageError: there is no laboratory.
        RecipeError: see `search`.
    """
    if context.runtime is None:
        raise UsageError(
            f"step {context.index + 1}, {step.title}: a budget needs validation data",
            "add --validate FILE.csv or --train FILE.csv",
        )
    reference = None
    if step.budget is not None and step.budget.shared:
        step = step.model_copy(update={"budget": step.budget.part(*context.shared)})
        reference = Bench(context.runtime.original, context.runtime)
    bench = Bench(model, context.runtime, reference=reference)
    if step.budget is not None:
        check_limits(step.budget, bench.targets, compared=True)
    plain, facts = search(step, model, context, bench)
    facts["budget"]["rows"] = bench.rows
    assert step.budget is not None
    coarse = _too_few(step, step.budget, bench.rows)
    if plain is None:
        chosen, skipped = step.select(model, context)
        skipped |= {tensor.name: "no setting holds the budget" for tensor in chosen}
        warning = f"{step.title}: no setting holds the budget, so nothing was done"
        return Outcome(model, facts, skipped, (*coarse, warning))
    outcome = plain.apply(model, context)
    warnings = (*outcome.warnings, *coarse)
    return replace(outcome, facts={**outcome.facts, **facts}, warnings=warnings)


def _too_few(step: Budgeted, budget: Budget, rows: int) -> tuple[str, ...]:
    """A warning where a limit is finer than one row of the validation data."""
    said: Any = budget.max_accuracy_drop
    limit = min(said.values(), default=None) if isinstance(said, dict) else said
    if limit is None or limit * rows >= 1:
        return ()
    return (
        f"{step.title}: {rows} validation rows cannot tell a drop of {limit:g}: one row is "
        f"{1 / rows:.2g}",
    )


def search(
    step: Budgeted, model: Model, context: Context, bench: Bench
) -> tuple[Budgeted | None, dict[str, Any]]:
    """Finds numbers for a step that has a budget.

    Args:
        step: a step with a budget.
        model: the model as the step receives it.
        context: the context that the step is applied with.
        bench: measures variants of `model` on validation rows.

    Returns:
        The same step with numbers, or None where no setting holds; and the facts: the budget's
        base, what was chosen as a recipe's step, and every trial.

    Raises:
        RecipeError: the model breaks the budget before anything is done to it.
    """
    assert step.budget is not None
    trier = Trier(step, model, bench, context, step.budget)
    start = trier.measure({})
    if start.held is False:
        broken = ", ".join(f"{name} {limit:g}" for name, limit, _ in step.budget.items())
        raise RecipeError(
            f"step {context.index + 1}, {step.title}: the budget ({broken}) is exceeded even "
            "if no layer is changed",
            "raise the limit, or check the accuracy on the validation data with `modelcut eval`",
        )
    alone = profile(trier, stop=True, say=context.say)
    chosen, best = _longest(trier, chain(alone, bench.base.bits), start)
    plain = trier.plain(chosen)
    facts = {
        "budget": {
            "limits": {name: limit for name, limit, _ in step.budget.items()},
            "base": bench.base.to_dict(),
            "reached": best.measured.to_dict(),
            "chosen": step_to_dict(plain) if plain else None,
            "trials": [trial.to_dict() for trial in trier.trials],
        }
    }
    return plain, facts


def chain(alone: dict[str, list[Trial]], bits: int) -> list[Move]:
    """The moves along all layers' convex hulls, cheapest a bit first.

    Args:
        alone: layer name -> trials from the weakest to the strongest.
        bits: bits of the base model, as in `Measured`.
    """
    moves: list[Move] = []
    for layer, trials in alone.items():
        points = [(0.0, 0.0, 0.0)]
        for trial in trials:
            if trial.held is False:
                break
            saved = float(bits - trial.measured.bits)
            if isfinite(trial.measured.shift):
                points.append((saved, trial.measured.shift, trial.settings[layer]))
        hull = _hull(points)
        for (saved, cost, _), (more, dearer, setting) in pairwise(hull):
            moves.append(Move(layer, setting, (dearer - cost) / (more - saved)))
    return sorted(moves, key=lambda move: move.price)


def _hull(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """The lower convex hull of (saving, cost, …) from the first point on, savings ascending."""
    best = sorted(points[1:], key=lambda point: (point[0], point[1]))
    hull = [points[0]]
    for point in best:
        if point[0] <= hull[-1][0]:
            continue  # saves no more than the one before it, which costs less
        while len(hull) > 1 and _slope(hull[-2], point) < _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(one: tuple[float, float, float], two: tuple[float, float, float]) -> float:
    return (two[1] - one[1]) / (two[0] - one[0])


def _longest(trier: Trier, moves: list[Move], start: Trial) -> tuple[Settings, Trial]:
    """The settings that hold: a prefix of the chain by bisection, then further layer by layer."""
    best, settings = start, dict[str, float]()
    low, high = 0, len(moves)
    while low < high:
        middle = (low + high + 1) // 2
        tried = {move.layer: move.setting for move in moves[:middle]}
        trier.context.say(f"{trier.step.title}: all layers, between {low} and {high} moves")
        trial = trier.measure(tried)
        if trial.held:
            low, best, settings = middle, trial, tried
        else:
            high = middle - 1
    blocked: set[str] = set()
    for move in moves[low:]:
        if move.layer in blocked:
            continue
        trier.context.say(f"{trier.step.title}: {move.layer} further, to {move.setting:g}")
        trial = trier.measure({**settings, move.layer: move.setting})
        if trial.held:
            best, settings = trial, {**settings, move.layer: move.setting}
        else:
            blocked.add(move.layer)
    return settings, best

"""Whether a step did anything: one that skipped all its targets is reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from modelcut.errors import RecipeError
from modelcut.model.model import Model
from modelcut.steps.base import Context, LayerStep, Outcome, Step
from modelcut.steps.select import matches, optional


def of_outcome(step: Step, model: Model, outcome: Outcome, context: Context) -> tuple[str, ...]:
    """What is to be said of a step that has just been applied.

    Args:
        step: the step that was applied.
        model: the model that the step received.
        outcome: the outcome that the step returned.
        context: the context that the step was applied with.

    Returns:
        Warnings; none where it changed something of everything that was named.

    Raises:
        RecipeError: it changed nothing, and the user named layers (`include`, `overrides`).
    """
    if step.of_layers:
        return ()
    if "budget" in outcome.facts:  # a search that found no setting: it says so itself
        return ()
    return of_reasons(step, model, outcome.skipped, context)


def of_reasons(
    step: Step, model: Model, left_alone: Mapping[str, str], context: Context
) -> tuple[str, ...]:
    """As `of_outcome`, from the reasons only.

    Args:
        step: the step that was applied.
        model: the model that the step received.
        left_alone: tensor name -> why the step skipped it.
        context: the context that the step was applied with.
    """
    owners = {tensor.name: layer for layer in model.layers for tensor in layer.tensors}
    chosen, _ = step.select(model, context)
    reasons = {t.name: left_alone[t.name] for t in chosen if t.name in left_alone}
    where = f"step {context.index + 1}, {step.title}"
    overrides = tuple(step.overrides) if isinstance(step, LayerStep) else ()
    # A pattern that may match nothing asks for nothing either.
    named = [pattern for pattern in (*step.include, *overrides) if not optional(pattern)]
    if not chosen:
        return (f"{where}: the model has nothing that this step aims at",)
    if chosen and len(reasons) == len(chosen):
        line = f"{where}: nothing was changed: {_summary(reasons)}"
        if named:
            raise RecipeError(
                f"{line}; but layers were named: {', '.join(map(repr, named))}",
                "name other layers (`modelcut inspect` lists them), or change the settings",
            )
        return (line,)
    lines = []
    for pattern in named:
        meant = [t for t in chosen if matches(pattern, owners[t.name], t)]
        if meant and all(t.name in reasons for t in meant):
            why = _summary({t.name: reasons[t.name] for t in meant})
            lines.append(f"{where}: nothing that {pattern!r} names was changed: {why}")
    return tuple(lines)


def _summary(reasons: Mapping[str, str]) -> str:
    """Such as "fc1/kernel is not …; 3 tensors: holds …"."""
    counts = Counter(reasons.values())
    parts = []
    for reason, many in counts.most_common(3):
        name = next(name for name, each in reasons.items() if each == reason)
        parts.append(f"{name}: {reason}" if many == 1 else f"{many} tensors: {reason}")
    return "; ".join(parts) + ("; …" if len(counts) > 3 else "")

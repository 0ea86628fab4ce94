"""The stage that applies the steps of a recipe in order."""

from __future__ import annotations

import time
from dataclasses import replace

from modelcut.job.checkpoint import Checkpoint
from modelcut.job.request import Say
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.runtime import Runtime
from modelcut.steps import effect
from modelcut.steps.base import Context, Outcome, Step
from modelcut.steps.strength import Budgeted


def fold(
    model: Model,
    recipe: Recipe,
    say: Say,
    runtime: Runtime | None = None,
    kept: Checkpoint | None = None,
) -> tuple[list[Model], list[Outcome], list[float]]:
    """Applies the steps in order; nothing but surveys and trainings is computed yet.

    Returns:
        The model as read and after each step, the outcomes, and the seconds of each step.
    """
    models, outcomes, seconds = [model], [], []
    for index, step in enumerate(recipe.steps):
        say(step.title)
        start = time.perf_counter()
        keeper = kept.keeper(index) if kept and "loop" in step.needs else None
        context = Context(
            index=index, seed=recipe.head.seed, say=say, runtime=runtime, keeper=keeper
        )
        searched = isinstance(step, Budgeted) and step.searched
        outcome = (
            _searched(step, models[-1], context) if searched else (step.apply(models[-1], context))
        )
        seconds.append(time.perf_counter() - start)
        told = effect.of_outcome(step, models[-1], outcome, context)
        outcomes.append(replace(outcome, warnings=(*outcome.warnings, *told)))
        models.append(outcome.model)
    return models, outcomes, seconds


def _searched(step: Step, model: Model, context: Context) -> Outcome:
    from modelcut.budget import search

    assert isinstance(step, Budgeted)
    return search.apply(step, model, context)

"""The stage that applies the steps of a recipe in order."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from modelcut.job.request import Say
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.steps import effect
from modelcut.steps.base import Context, Outcome, Step
from modelcut.steps.strength import Budgeted

if TYPE_CHECKING:  # who runs no network has no need of it
    from modelcut.runtime import Keeper, Runtime


class Keepers(Protocol):
    """A keeper for each step that trains."""

    def keeper(self, step: int) -> Keeper:
        """That of one step, by its number from 0."""


@dataclass(frozen=True)
class Folded:
    """A model with all steps applied, their edits deferred.

    Attributes:
        models: the model as read, and after each step.
        outcomes: the outcome of each step.
        seconds: wall time of each step's own work, one per step.
    """

    models: tuple[Model, ...]
    outcomes: tuple[Outcome, ...] = ()
    seconds: tuple[float, ...] = ()


def fold(
    model: Model,
    recipe: Recipe,
    say: Say,
    runtime: Runtime | None = None,
    kept: Keepers | None = None,
) -> Folded:
    """Applies the steps in order; nothing but surveys and trainings is computed yet.

    Args:
        model: the model as it was read.
        recipe: the recipe whose steps and seed apply.
        say: takes a line about progress.
        runtime: runs the model, for steps that train or search.
        kept: gives each step that trains what keeps its state.
    """
    models, outcomes, seconds = [model], [], []
    budgeted = [step for step in recipe.steps if isinstance(step, Budgeted)]
    set_aside = max((step.set_aside for step in budgeted), default=0.0)
    sharing = [index for index, step in enumerate(recipe.steps) if _shares(step)]
    for index, step in enumerate(recipe.steps):
        say(step.title)
        start = time.perf_counter()
        keeper = kept.keeper(index) if kept and step.resumable else None
        context = Context(
            index=index,
            seed=recipe.head.seed,
            say=say,
            runtime=runtime,
            keeper=keeper,
            set_aside=set_aside,
            shared=(sharing.index(index) + 1, len(sharing)) if index in sharing else (1, 1),
        )
        searched = isinstance(step, Budgeted) and step.searched
        outcome = (
            _searched(step, models[-1], context) if searched else (step.apply(models[-1], context))
        )
        seconds.append(time.perf_counter() - start)
        told = effect.of_outcome(step, models[-1], outcome, context)
        outcomes.append(replace(outcome, warnings=(*outcome.warnings, *told)))
        models.append(outcome.model)
    return Folded(tuple(models), tuple(outcomes), tuple(seconds))


def _shares(step: Step) -> bool:
    """Whether the limits of a step's budget are those of several steps together."""
    return isinstance(step, Budgeted) and step.budget is not None and step.budget.shared


def _searched(step: Step, model: Model, context: Context) -> Outcome:
    from modelcut.budget import search

    assert isinstance(step, Budgeted)
    return search.apply(step, model, context)

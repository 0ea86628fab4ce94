"""Pruning in rounds: score the remaining weights, prune those of least score, until stable.

One mechanism for all criteria. A criterion decides what one round prunes (the step with
`rounds: 1`); this module does what happens between rounds, and ends them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from modelcut.errors.explain import explain
from modelcut.model.model import Model
from modelcut.steps.base import NOT_FINITE, Context, Need, Outcome, Step, TensorStep
from modelcut.steps.correction import Corrected
from modelcut.steps.strength import Budgeted

Positive = Annotated[int, Field(ge=1)]
Until: TypeAlias = Annotated[
    Literal["stable"] | None,
    Field(
        description="With cutoff: recompute the scores of the remaining weights and prune again, "
        "until nothing changes.",
    ),
]
Finetune: TypeAlias = Annotated[
    dict[str, Any] | None,
    Field(
        description="With until: fields of the finetune step that runs after each round, such as "
        "{epochs: 3}; with a budget, the last round within it is kept.",
    ),
]
Rounds: TypeAlias = Annotated[
    Positive | None,
    Field(
        description="With until: maximum number of rounds (default: 20 where each round runs the "
        "network, otherwise unlimited).",
    ),
]
_MOST = 20


class Iterated(Corrected, Budgeted, TensorStep):
    """A step with the fields `cutoff`, `until`, `finetune` and `rounds`.

    Class attributes:
        runs: scores need the network, so that each round has to run it.
    """

    runs: ClassVar[bool] = False
    global_fields: ClassVar[frozenset[str]] = frozenset({"until", "finetune", "rounds"})

    if TYPE_CHECKING:  # declared by each method, for the order of its fields
        cutoff: float | None
        until: Until
        finetune: Finetune
        rounds: Rounds

    @model_validator(mode="after")
    def _rounds_fit(self) -> Self:
        if self.until is not None and self.cutoff is None:
            raise ValueError("until needs cutoff: with other targets, one round is final")
        if self.rounds is not None and self.until is None:
            raise ValueError("rounds needs until: stable; without it, there is one round")
        if self.finetune is not None:
            self._check_tuning(tuning(self.finetune))
        return self

    def _check_tuning(self, tune: Step) -> None:
        if self.until is None:
            raise ValueError("finetune needs until: stable; to fine-tune once, add a step finetune")
        if getattr(tune, "prune", None) is not None:
            raise ValueError("finetune: prune is not allowed here: the rounds prune already")
        limits = [limit.name for limit in self.budget.each()] if self.budget else []
        if "min_agreement" in limits or (self.budget and self.budget.candidates):
            raise ValueError(
                "budget: min_agreement and candidates apply to a search, not to rounds"
            )
        if self.budget and not validation_of(tune):
            raise ValueError("finetune: validation: 0 leaves no samples to measure the budget on")

    @property
    def searched(self) -> bool:
        return super().searched and self.finetune is None

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs if self.finetune is None else super().needs | {"train", "loop"}

    @property
    def set_aside(self) -> float:
        if self.budget is None or self.finetune is None:
            return super().set_aside
        return validation_of(tuning(self.finetune))

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `TensorStep`; rounds that need the network are taken here, the others by `edit`."""
        if self.until is None or not (self.runs or self.finetune is not None):
            return super().apply(model, context)
        from modelcut.steps.prune import _rounds

        chosen, skipped = self.select(model, context)
        targets = {tensor.name for tensor in chosen}
        for tensor in chosen:
            if not finite(tensor.pull()[0]):
                skipped[tensor.name] = NOT_FINITE
                targets.remove(tensor.name)
        tune = None if self.finetune is None else tuning(self.finetune)
        fraction = 0.0 if tune is None else validation_of(tune)
        once = self.model_copy(
            update={"rounds": 1, "finetune": None, "budget": None, "correct": None}
        )
        # Statistics in the memo belong to the step's input, not to the result of a round.
        inside = replace(context, memo={}, set_aside=max(context.set_aside, fraction))
        more: dict[str, Any] = {}

        def cut(now: Model) -> tuple[Model, dict[str, int]]:
            inside.memo.clear()
            outcome = TensorStep.apply(once, now, inside)
            old = {tensor.name: tensor for tensor in now.tensors}
            kept = {
                tensor.name: tensor.pull()
                for tensor in outcome.model.tensors
                if tensor.name in targets and tensor is not old[tensor.name]
            }
            skipped.update({n: why for n, why in outcome.skipped.items() if n in targets})
            more.update(outcome.facts)
            left = {name: _rounds.nonzeros(values) for name, (values, _) in kept.items()}
            return _rounds.keep(now, kept, context), left

        after, facts, warnings = _rounds.until_stable(
            cut,
            tune,
            model,
            context,
            budget=self.budget,
            most=self.rounds or _MOST,
            fraction=fraction,
            title=self.title,
        )
        if after is model:
            reason = "no round was done: no score is small enough, or the budget does not allow it"
            skipped |= {name: reason for name in targets if name not in skipped}
        if self.rounds is None and facts["ended"] == _rounds.after(_MOST):
            warnings += (f"not stable after {_MOST} rounds; `rounds` allows more",)
        old = {tensor.name: tensor for tensor in model.tensors}
        for tensor in after.tensors:  # training moves biases too
            if tensor is not old[tensor.name]:
                skipped.pop(tensor.name, None)
        said = (*self.warnings(chosen), *(f"{self.title}: {w}" for w in warnings))
        outcome = Outcome(after, {**more, **facts}, skipped, said)
        return self.finished(model, outcome, context)


def finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(values.size == 0 or np.isfinite([values.min(), values.max()]).all())


def tuning(fields: Mapping[str, Any]) -> Step:
    """The step that trains between rounds.

    Args:
        fields: fields of finetune.

    Raises:
        ValueError: they are wrong.
    """
    from modelcut import steps

    cls = steps.find("finetune", steps.default("finetune"))
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        what, hint = explain(error.errors(include_url=False)[0], cls.model_fields, cls)
        raise ValueError(f"finetune: {what}" + (f" ({hint})" if hint else "")) from None


def validation_of(tune: Step) -> float:
    """Fraction of the samples that a training sets aside."""
    return float(getattr(tune, "validation", 0.1))

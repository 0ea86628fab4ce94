"""Steps whose strength can be searched: a budget instead of a number.

A method names the field that makes it stronger and an ordered ladder of settings; that is all a
method needs to do to be searched and to be profiled by `modelcut sensitivity`. The search itself
is in `search/`; what it finds is the same step with numbers instead of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.metrics.limits import Limits
from modelcut.steps.base import LayerStep, Need

SET_ASIDE = 0.1
"""Of the training samples, those that a search judges on, where there are no others for it."""

SPARSITIES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
"""A ladder for steps that remove single weights."""


@dataclass(frozen=True)
class Strength:
    """How a method is made stronger.

    Attributes:
        name: name of the field that makes the method stronger.
        ladder: settings to try, from the weakest to the strongest.
        instead: fields that say the strength in other ways; only one of them can be given.
        needed: one of all these must be given, for the method has no default.
        along: fields that a setting for each layer needs to have these values.
    """

    name: str
    ladder: tuple[float, ...]
    instead: tuple[str, ...] = ()
    needed: bool = True
    along: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ways(self) -> tuple[str, ...]:
        """All fields of which one says how strong the step is."""
        return (self.name, *self.instead, "budget")


class Budget(Limits):
    """What a search may lose on validation data, against the model as the step receives it."""

    candidates: Annotated[list[int | float], Field(min_length=1)] | None = Field(
        default=None,
        description="Settings to try, from the weakest to the strongest, instead of the method's "
        "defaults.",
    )

    shared: bool = Field(
        default=False,
        description="Share the limits among all steps of the recipe whose budget says so: the "
        "loss is relative to the original model, and the k-th of n such steps may use k/n of it "
        "together with those before.",
    )

    def part(self, number: int, count: int) -> Self:
        """The limits on losses that the first `number` of `count` steps may reach together."""

        def some(limit: Any) -> Any:
            if isinstance(limit, dict):
                return {name: some(value) for name, value in limit.items()}
            return limit * number / count

        given = {limit.name: getattr(self, limit.name) for limit in self.each()}
        fields = {name: some(limit) for name, limit in given.items() if name.startswith("max_")}
        return self.model_copy(update=fields)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not any(True for _ in self.items()):
            raise ValueError("give at least one limit, such as max_accuracy_drop")
        return self


class Budgeted(LayerStep):
    """A step with a strength, given by one of its fields or searched for each layer.

    Class attributes:
        strength: how it is made stronger.
        by_layer: whether each layer can have a strength of its own; else the step itself searches
            one for all, and `modelcut sensitivity` has nothing to try.
    """

    strength: ClassVar[Strength]
    by_layer: ClassVar[bool] = True
    global_fields: ClassVar[frozenset[str]] = frozenset({"budget"})

    budget: Budget | None = Field(
        default=None,
        description="Search the strongest setting of each layer within limits measured on "
        "validation data, such as {max_accuracy_drop: 0.005}; any of the gates on accuracy, "
        "recall, F1, loss, agreement, MAE, RMSE and R².",
    )

    @model_validator(mode="after")
    def _one_strength(self) -> Self:
        ways = self.strength.ways
        given = [n for n in ways if n in self.model_fields_set and getattr(self, n) is not None]
        if self.budget and not self.searched:
            given.remove("budget")
        if len(given) > 1 or (self.strength.needed and not given):
            what = " and ".join(given) if given else "none"
            names = f"{', '.join(ways[:-1])} and {ways[-1]}"
            most = "exactly one of" if self.strength.needed else "at most one of"
            raise ValueError(f"give {most} {names} (given: {what})")
        if self.searched and self.budget:
            self._check_budget(self.budget)
        return self

    def _check_budget(self, budget: Budget) -> None:
        for name, value in self.strength.along.items():
            if name in self.model_fields_set and getattr(self, name) != value:
                raise ValueError(f"{name}: a budget is searched layer by layer; leave {name} out")
        for setting in budget.candidates or ():
            try:
                self.with_strength(setting)
            except ValueError:
                what = f"{setting} is no {self.strength.name}"
                raise ValueError(f"budget: candidates: {what} for {self.title}") from None

    @property
    def searched(self) -> bool:
        """Whether its strength must be searched before it can be applied."""
        return self.budget is not None

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"validation"} if self.budget else super().needs

    @property
    def set_aside(self) -> float:
        """Fraction of the training samples that its budget is judged on; 0: it has none."""
        return SET_ASIDE if self.budget else 0.0

    @property
    def ladder(self) -> tuple[float, ...]:
        """Settings to try, from the weakest to the strongest."""
        own = self.budget.candidates if self.budget else None
        return tuple(own or self.strength.ladder)

    def with_strength(self, setting: float, **fields: Any) -> Self:
        """This step at this strength for every layer, with further fields; without overrides."""
        along = {n: v for n, v in self.strength.along.items() if n in type(self).model_fields}
        return self._with({**along, self.strength.name: setting, **fields})

    def _with(self, fields: Mapping[str, Any]) -> Self:
        # One way to say the strength replaces another rather than adding to it.
        ways = set(self.strength.ways)
        if not ways & set(fields):
            return super()._with(fields)
        given = {n: getattr(self, n) for n in self.model_fields_set - ways - {"overrides"}}
        return type(self).model_validate({**given, **fields})

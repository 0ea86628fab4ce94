"""What can be set of the removal of channels, and which settings go together."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from modelcut.steps.base import TARGET_KINDS, Need
from modelcut.steps.prune._iterated import tuning, validation_of
from modelcut.steps.strength import SET_ASIDE, Budget, Budgeted, Strength

Fraction = Annotated[float, Field(gt=0, lt=1)]

_LADDER = tuple(round(0.95 - 0.05 * step, 2) for step in range(18))
_RUN = ("taylor", "activation", "obs")
"""Criteria that run the network."""
_PENALTY = 1e-3
"""Factor of the group lasso where none is given."""


def _penalty(value: Any) -> Any:
    return {"group_lasso": _PENALTY} if value == "group_lasso" else value


class ChannelFields(Budgeted):
    """The settings of `prune: channels`; what is done with them is in `channels`."""

    aims: ClassVar[frozenset[str]] = TARGET_KINDS | {"bias", "norm", "embedding", "state"}
    by_layer: ClassVar[bool] = False
    strength: ClassVar[Strength] = Strength("macs", _LADDER, ("ratio", "params", "latency"))
    global_fields: ClassVar[frozenset[str]] = frozenset(
        {"criterion", "scope", "macs", "params", "latency", "engine", "rows", "batch_size", "damp",
         "rounds", "finetune", "regularize"}
    )  # fmt: skip

    criterion: Literal["l1", "l2", "bn_scale", "fpgm", "random", "taylor", "activation", "obs"] = (
        Field(
            default="l2",
            description="Score of a channel: the L1 or L2 norm of its weights in all layers that "
            "share it, the scale of its batch normalization, or the sum of its filter's distances "
            "to the others (fpgm); with training data, the first-order change of the loss "
            "(taylor), the mean magnitude of its activations (activation), or the error of the "
            "layers that read it once they are refitted, which they then are (obs); or random, a "
            "baseline.",
        )
    )
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Fraction of the channels to remove."
    )
    macs: Fraction | None = Field(
        default=None,
        description="Fraction of the network's multiply-accumulates (MACs) to keep; channels of "
        "the lowest score per saved MAC are removed first.",
    )
    params: Fraction | None = Field(
        default=None,
        description="Fraction of the network's parameters to keep; channels of the lowest score "
        "per saved parameter are removed first.",
    )
    latency: Fraction | None = Field(
        default=None,
        description="Fraction of the time of one sample to keep, measured on this host with "
        "original and result taking turns; channels are removed as with macs.",
    )
    engine: Literal["litert", "keras"] = Field(
        default="litert",
        description="With latency: what runs the network, LiteRT (float32) or Keras.",
    )
    scope: Literal["layer", "global"] = Field(
        default="global",
        description="With ratio: rank the channels of each group of coupled layers by themselves, "
        "or those of the whole network together.",
    )
    round_to: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Keep a multiple of this many channels where any are removed."
    )
    minimum: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Keep at least this many channels of each group of coupled layers."
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="With criterion taylor, activation or obs: maximum number of training samples "
        "to use; only taylor needs labels.",
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(
        default=32, description="With criterion taylor: batch size of the gradients."
    )
    damp: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.01,
        description="With criterion obs: the fraction of the Hessian's mean diagonal that is added "
        "to its diagonal.",
    )
    rounds: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Number of rounds in which the target is reached (default: 1); the channels "
        "that are left are scored again in each.",
    )
    finetune: dict[str, Any] | None = Field(
        default=None,
        description="Fine-tune after each round, with these fields of finetune, such as "
        "{epochs: 3}; a budget then ends the rounds, and the last round within it is kept.",
    )
    regularize: Annotated[dict[str, Any] | None, BeforeValidator(_penalty)] = Field(
        default=None,
        description="Train first, with a penalty on the L2 norm of all weights that each channel "
        "has in all layers: {group_lasso: 0.001}, and fields of finetune.",
    )

    budget: Budget | None = Field(
        default=None,
        description="Search the smallest fraction of the MACs within limits measured on validation "
        "data, such as {max_accuracy_drop: 0.005}; with finetune and a target, end the rounds "
        "where they are not held.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        found: set[Need] = {"graph"}
        if self.criterion in _RUN or self.latency is not None:
            found.add("train")
        if self.finetune is not None or self.regularize is not None:
            found |= {"train", "loop"}
        return super().needs | found

    @property
    def searched(self) -> bool:
        """False: layers share channels, so that the step itself searches one number for all."""
        return False

    @property
    def set_aside(self) -> float:
        if self.budget is None:
            return 0.0
        return SET_ASIDE if self.finetune is None else validation_of(tuning(self.finetune))

    @property
    def kind(self) -> str:
        """The target in which the work is counted: ratio, macs or params."""
        if self.ratio is not None:
            return "ratio"
        return "macs" if self.params is None else "params"

    @model_validator(mode="after")
    def _one_strength(self) -> Self:
        ways = [way for way in self.strength.ways if getattr(self, way) is not None]
        targets = [way for way in ways if way != "budget"]
        if len(ways if self.finetune is None else targets) != 1:
            given = " and ".join(ways) or "none"
            names = "ratio, macs, params, latency"
            if self.finetune is not None and self.budget and not targets:
                raise ValueError(
                    f"a budget ends the rounds to a target, with finetune: give {names}"
                )
            raise ValueError(f"give exactly one of {names} and budget (given: {given})")
        if "scope" in self.model_fields_set and self.scope == "layer" and self.ratio is None:
            raise ValueError(f"scope: {ways[0]} is a target of the whole network; leave scope out")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, needed in (
            ("engine", self.latency is not None),
            ("rows", self.criterion in _RUN),
            ("batch_size", self.criterion == "taylor"),
            ("damp", self.criterion == "obs"),
        ):
            if name in self.model_fields_set and not needed:
                what = "latency" if name == "engine" else "another criterion"
                raise ValueError(f"{name}: it needs {what}; leave {name} out")
        if self.finetune is not None:
            tune = tuning(self.finetune)
            if getattr(tune, "prune", None) is not None:
                raise ValueError("finetune: prune: the rounds prune already")
            if self.budget and not validation_of(tune):
                raise ValueError(
                    "finetune: validation: 0 leaves no samples to measure the budget on"
                )
        if self.regularize is not None:
            fields = dict(self.regularize)
            factor = fields.pop("group_lasso", None)
            if not isinstance(factor, (int, float)) or isinstance(factor, bool) or factor <= 0:
                raise ValueError("regularize: give group_lasso a factor, such as 0.001")
            tuning(fields)
        if self.budget is not None:
            self._check_limits()
        return self

    def _check_limits(self) -> None:
        assert self.budget is not None
        if any(limit.name == "min_agreement" for limit in self.budget.each()):
            raise ValueError("budget: min_agreement: give a limit on a metric of the labels")
        if self.rounds is not None and self.finetune is None:
            raise ValueError("rounds: a budget is searched in one cut; add finetune")
        for setting in self.budget.candidates or ():
            if self.finetune is not None:
                raise ValueError("budget: candidates are for a search, not for rounds")
            if not 0 < setting < 1:
                raise ValueError(f"budget: candidates: {setting} is no fraction of the MACs")

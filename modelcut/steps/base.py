"""What a step is, what it is given, and what it gives back.

A step is a frozen pydantic model: its fields are the YAML schema, the flags of its command and
its documentation at once. `apply` is pure: a model in, a model with deferred edits out.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from modelcut.errors import RecipeError, UsageError
from modelcut.errors.strict import Strict
from modelcut.model.encoding import Fixed
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Edit

if TYPE_CHECKING:  # most steps need no rows, nor does --help
    from modelcut.graph.architecture import Architecture
    from modelcut.runtime import Coupled, Keeper, Runtime
from modelcut.steps.select import MOST_PATTERNS, matches, matches_any, optional, suggest

Need = Literal["graph", "train", "validation", "calibration", "loop"]
"""The architecture; training data; validation data, for a search; samples without labels; a
training loop."""

T = TypeVar("T")

TARGET_KINDS = frozenset({"kernel", "recurrent", "attention"})
"""Kinds of tensors that steps aim at unless `include` names roles."""

STORED_KINDS = TARGET_KINDS | {"embedding"}
"""The same of steps that store values in fewer bits: what is looked up bears it as well."""


NOT_FINITE = "holds NaN or infinite values"
"""Why a step skips a tensor whose statistics mean nothing."""


@dataclass(frozen=True)
class Context:
    """What a step may use besides the model.

    Attributes:
        index: number of the step in the recipe, from 0.
        seed: seed of all random numbers.
        say: takes a line about progress.
        runtime: runs the model on the training data; None for steps that do not need "train".
        memo: for a step to keep what it will need again when it is tried on the same model at
            another strength; of one step of one run.
        keeper: saves the state of a training, so that an interrupted run can be resumed; None: it
            is not saved.
        set_aside: fraction of the training samples that something is judged on, so that nothing
            else may look at them; 0: none are, and all can be used.
        shared: of the steps of the recipe whose budgets share their limits, which one this is, from
            1, and how many there are.
        coupled: of a training that another step asks for, channels with a group lasso over all
            tensors that share them.
    """

    index: int = 0
    seed: int = 0
    say: Callable[[str], None] = lambda line: None
    runtime: Runtime | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
    keeper: Keeper | None = None
    set_aside: float = 0.0
    shared: tuple[int, int] = (1, 1)
    coupled: tuple[Coupled, ...] = ()

    def required_runtime(self, title: str) -> Runtime:
        """The runtime, for a step that cannot do without.

        Raises:
            UsageError: there is none.
        """
        return with_training_data(self.runtime, self.index, title)


def with_training_data(given: T | None, index: int, title: str) -> T:
    """What was given for a step that cannot do without training data.

    Args:
        given: the training data, or what runs the network on it; None: nothing.
        index: number of the step in the recipe, from 0.
        title: title of the step, such as "prune: magnitude".

    Raises:
        UsageError: nothing was given.
    """
    if given is None:
        raise UsageError(f"step {index + 1}, {title}: needs training data", "add --train FILE.csv")
    return given


@dataclass(frozen=True)
class Outcome:
    """What a step gives back.

    Attributes:
        model: the model after the step.
        facts: what was decided, as plain JSON data (thresholds, ranks); nothing that `measure`
            counts.
        skipped: tensor or layer name -> why it was skipped.
        warnings: what a user should know, such as a setting that does nothing.
    """

    model: Model
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Step(Strict, ABC):
    """One transform of a model, with its parameters.

    Class attributes:
        family, method: how a recipe calls it: `- prune: magnitude`. Set from the file's place.
        aims: kinds of tensors that it aims at unless `include` names roles.
        resumable: its training can be kept in a checkpoint and resumed.
        refuses: kinds of encodings that it cannot follow, each with the reason.
        absent: fields that it lacks on purpose, each with what to do instead.
        aliases: former names of fields, which are still taken, each with the name of today.
        leaves: kinds of encodings that it leaves on its targets.
        suffix: format of the output in the example of its help.
        of_layers: it is aimed at whole layers, also at those without weights; where it changes
            nothing it says so itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    family: ClassVar[str]
    method: ClassVar[str]
    aims: ClassVar[frozenset[str]] = TARGET_KINDS
    of_layers: ClassVar[bool] = False
    resumable: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {}
    absent: ClassVar[Mapping[str, str]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}
    suffix: ClassVar[str] = ".h5"

    include: list[str] = Field(
        default_factory=list,
        max_length=MOST_PATTERNS,
        description="Apply the step only to tensors that match: globs on layer names, "
        "class:GLOB, role:GLOB (kernel, bias, …); class:GLOB? may match nothing.",
    )
    exclude: list[str] = Field(
        default_factory=list,
        max_length=MOST_PATTERNS,
        description="Exclude tensors that match: globs on layer names, class:GLOB, role:GLOB.",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        """Names a method after its file, so that it knows its name in any process."""
        super().__pydantic_init_subclass__(**more)
        package, _, method = cls.__module__.rpartition(".")
        above, _, family = package.rpartition(".")
        if above == __package__:
            cls.family, cls.method = family, method

    @model_validator(mode="before")
    @classmethod
    def _with_todays_names(cls, data: Any) -> Any:
        """Fields by their names of today, those of `overrides` too."""
        if not (cls.aliases and isinstance(data, dict)):
            return data
        fields = cls._renamed(data)
        inner = fields.get("overrides")
        if isinstance(inner, dict):
            fields["overrides"] = {
                pattern: cls._renamed(own) if isinstance(own, dict) else own
                for pattern, own in inner.items()
            }
        return fields

    @classmethod
    def _renamed(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        for old, new in cls.aliases.items():
            if old in fields and new in fields:
                raise ValueError(f"{old} is a former name of {new}: give only one of them")
        return {cls.aliases.get(name, name): value for name, value in fields.items()}

    @property
    def title(self) -> str:
        """Such as "prune: magnitude"."""
        return f"{self.family}: {self.method}"

    @property
    def needs(self) -> frozenset[Need]:
        """What it needs besides the weights, with its settings."""
        return frozenset()

    @property
    def activation_bits(self) -> int:
        """Bits of the activations that its result is made for; 0: they are floats."""
        return 0

    @property
    def leaves(self) -> tuple[str, ...]:
        """Kinds of encodings that this step adds to its targets."""
        return ()

    def unwritable(self, model: Model, into: str) -> str:
        """Why what the step makes of a model has no place in the output; "" where it has one.

        Args:
            model: as it was read.
            into: name of the output's format.
        """
        del model, into
        return ""

    @abstractmethod
    def apply(self, model: Model, context: Context) -> Outcome:
        """The model after this step; `model` itself is not changed.

        Raises:
            RecipeError: the step does not fit the model.
        """

    def finished(self, model: Model, outcome: Outcome, context: Context) -> Outcome:
        """What `apply` gives back, once the step has done its own work; see `Corrected`."""
        del model, context
        return outcome

    def architecture_of(self, model: Model, context: Context, without: str) -> Architecture:
        """The architecture, for a step that needs the graph.

        Args:
            model: the model that the step is applied to.
            context: the context that the step is applied with.
            without: what cannot be done without it, for the message.

        Raises:
            RecipeError: the file has none.
        """
        if model.architecture is None:
            held = "weights only" if model.origin.weights_only else "a graph only"
            held = "a class of its author's own" if model.origin.configuration else held
            raise RecipeError(
                f"step {context.index + 1}, {self.title}: {model.origin.path.name} holds {held}, "
                f"and no architecture, without which {without}",
                "give the whole model as Keras saved it, .h5 or .keras",
            )
        return model.architecture

    def select(self, model: Model, context: Context) -> tuple[list[Tensor], dict[str, str]]:
        """The tensors this step is aimed at, and why the others are not.

        Raises:
            RecipeError: a pattern matches nothing, nothing is left to do, or a tensor has an
                encoding that the step cannot follow.
        """
        matched: set[str] = set()
        chosen: list[Tensor] = []
        skipped: dict[str, str] = {}
        for layer in model.layers:
            if not layer.tensors:
                skipped[layer.name] = "has no weights"
            for tensor in layer.tensors:
                reason = self._reason_against(layer, tensor, matched)
                if reason:
                    skipped[tensor.name] = reason
                else:
                    chosen.append(tensor)
        for pattern in (*self.include, *self.exclude, *self._further_patterns()):
            if optional(pattern) or pattern in matched:
                continue
            if not matches_any(pattern, model):
                raise RecipeError(
                    f"step {context.index + 1}, {self.title}: {pattern!r} matches no layer of "
                    f"{model.origin.path.name}",
                    suggest(pattern, model),
                )
        for tensor in chosen:
            for kind, why in self.refuses.items():
                if kind in tensor.kinds:
                    raise RecipeError(
                        f"step {context.index + 1}, {self.title}: cannot follow the {kind} "
                        f"encoding of {tensor.name}: {why}",
                        "change the order of the steps, or exclude that layer",
                    )
        if not chosen and not all(map(optional, self.include)):
            raise RecipeError(
                f"step {context.index + 1}, {self.title}: include {self.include} and exclude "
                f"{self.exclude} leave nothing to do",
                "`modelcut inspect` lists the layers and roles",
            )
        return chosen, skipped

    def _reason_against(self, layer: Layer, tensor: Tensor, matched: set[str]) -> str:
        for pattern in self.exclude:
            if matches(pattern, layer, tensor):
                matched.add(pattern)
                return f"excluded by {pattern!r}"
        roles = [pattern for pattern in self.include if pattern.startswith("role:")]
        places = [pattern for pattern in self.include if not pattern.startswith("role:")]
        hits = [pattern for pattern in self.include if matches(pattern, layer, tensor)]
        matched.update(hits)
        if places and not any(pattern in hits for pattern in places):
            return "not included"
        if roles and not any(pattern in hits for pattern in roles):
            return "not included"
        if not roles and tensor.kind not in self.aims:
            parts, _, last = tensor.role.rpartition("/")
            return f"{tensor.kind} (role:{'*/' if parts else ''}{last} includes it)"
        if isinstance(tensor.encoding, Fixed):
            from modelcut.graph.keras import quantized

            return quantized.why_fixed(tensor.encoding.held)
        if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
            return f"holds {tensor.dtype} values, not floats"
        if tensor.size == 0:
            return "is empty"
        if not tensor.shape:
            return "is a single number"
        return ""

    def _further_patterns(self) -> tuple[str, ...]:
        return ()


class LayerStep(Step):
    """A step that treats each layer by itself, with settings of its own if wished."""

    overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        max_length=MOST_PATTERNS,
        description="Settings for individual layers: a mapping from pattern (as in include) to "
        "fields.",
    )

    def model_post_init(self, context: Any) -> None:
        """Validates the overrides at once, so that a recipe's check finds their errors.

        Raises:
            ValueError: an override names a field that a layer cannot have, or its value is wrong.
        """
        del context
        for pattern, fields in self.overrides.items():
            fixed = {"include", "exclude", "overrides", *self._fields_of_all()}
            for name in fields:
                if name in fixed or name not in type(self).model_fields:
                    near = difflib.get_close_matches(name, set(type(self).model_fields) - fixed, 1)
                    raise ValueError(
                        f"overrides: {pattern!r}: {name!r} cannot be set for one layer"
                        + (f"; did you mean {near[0]!r}?" if near else "")
                    )
            self._with(fields)

    global_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that make sense for the whole step only; those of the base classes add to them."""

    def _fields_of_all(self) -> set[str]:
        return {name for cls in type(self).__mro__ for name in getattr(cls, "global_fields", ())}

    def _with(self, fields: Mapping[str, Any]) -> Self:
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate({**given, "overrides": {}, **fields})

    def settings(self, layer: Layer, tensor: Tensor) -> Self:
        """This step with the overrides for one tensor applied; later patterns win."""
        fields: dict[str, Any] = {}
        for pattern, override in self.overrides.items():
            if matches(pattern, layer, tensor):
                fields.update(override)
        return self._with(fields) if fields else self

    def _further_patterns(self) -> tuple[str, ...]:
        return tuple(self.overrides)


class TensorStep(LayerStep):
    """A step that edits tensors one by one; what one edit needs of the others, it surveys."""

    def apply(self, model: Model, context: Context) -> Outcome:
        """Surveys the chosen tensors once if the step wants it, then defers an edit on each."""
        chosen, skipped = self.select(model, context)
        owner = {t.name: layer for layer in model.layers for t in layer.tensors}
        targets = [(tensor, self.settings(owner[tensor.name], tensor)) for tensor in chosen]
        survey, facts = self.survey_model(model, targets, context)
        edited: dict[str, Tensor] = {}
        for tensor, settings in targets:
            edit = settings.edit(tensor, survey, context)
            if isinstance(edit, str):
                skipped[tensor.name] = edit
            else:
                edited[tensor.name] = tensor.then(context.index, edit, settings.kinds_after(tensor))
        outcome = Outcome(model.with_tensors(edited), facts, skipped, self.warnings(chosen))
        return self.finished(model, outcome, context)

    def warnings(self, chosen: list[Tensor]) -> tuple[str, ...]:
        """What a user should know of these settings on these tensors."""
        del chosen
        return ()

    def survey_model(
        self, model: Model, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Any, dict[str, Any]]:
        """As `survey`, for a step that must see the network run."""
        del model
        return self.survey(targets, context)

    def survey(
        self, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Any, dict[str, Any]]:
        """A pass over all targets for what a single tensor cannot tell; and facts about it."""
        del targets, context
        return None, {}

    @abstractmethod
    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        """The edit of one tensor, with `self` as that tensor's settings; or why there is none."""

    @abstractmethod
    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        """Kinds of the encoding that the tensor will have."""


def random_generator(context: Context, name: str) -> np.random.Generator:
    """A generator of its own for each step and tensor, so that order does not matter."""
    return np.random.default_rng([context.seed, context.index, *name.encode()])


CODED = {
    "affine": "its values are quantized already",
    "codebook": "its values are clustered already",
    "binary": "its values are binarized already",
    "keras_int": "its values are the integers of Keras' own layers already",
}
"""Encodings that a further quantizer would destroy."""

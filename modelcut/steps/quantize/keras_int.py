"""The integers of Keras' own layers: `keras.Model.quantize("int8")` and `("int4")`, in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.arrays.blocks import map_rows
from modelcut.errors import RecipeError
from modelcut.model.encoding import Encoding
from modelcut.model.encodings.affine import Affine
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite, leave
from modelcut.steps.base import NOT_FINITE, Context, Need, Outcome, TensorStep
from modelcut.steps.quantize import NOTHING_TO_SEARCH
from modelcut.steps.select import matches, matches_any, optional, suggest

if TYPE_CHECKING:  # --help has no need of it
    from modelcut.graph.keras.integers import Layout

BLOCK = 128


class KerasInt(TensorStep):
    """Integers of Keras' own int8 and int4 layers (Dense, EinsumDense, Embedding) in a .keras."""

    aims: ClassVar[frozenset[str]] = frozenset({"kernel", "embedding"})
    refuses: ClassVar[dict[str, str]] = {
        "codebook": "its shared values are no multiples of one scale",
        "binary": "its values are binarized already",
    }
    absent: ClassVar[dict[str, str]] = NOTHING_TO_SEARCH
    global_fields: ClassVar[frozenset[str]] = frozenset({"bits"})
    suffix: ClassVar[str] = ".keras"

    bits: Literal[8, 4, "float"] = Field(
        default=8,
        description="8 or 4: bits in which Keras stores each weight. float: layers that Keras "
        "holds in integers have 32-bit floats again.",
    )
    block: Annotated[int, Field(ge=2)] | Literal["none"] | None = Field(
        default=None,
        description="With bits: 4, how many neighbours along the inputs have a scale and a zero "
        "point of their own (default: 128, as in Keras); none: one scale for each output. Weights "
        "that quantize: linear has put on such a grid keep theirs.",
    )

    @model_validator(mode="after")
    def _block_is_used(self) -> Self:
        if self.block is not None and self.bits != 4:
            raise ValueError("block is for bits: 4 only")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | ({"graph"} if self.bits == "float" else frozenset())

    @property
    def leaves(self) -> tuple[str, ...]:
        return () if self.bits == "float" else ("keras_int",)

    def unwritable(self, model: Model, into: str) -> str:
        if self.bits == "float":
            return ""
        if model.architecture is None or model.architecture.dialect.value != "keras3":
            return (
                f"{model.origin.path.name} is of {model.origin.writer}, and only layers of Keras 3 "
                "hold integers (quantize: linear needs no such layers)"
            )
        if into not in ("keras_zip", "mcut"):
            return "only a .keras file has room for Keras' integers: name the output .keras"
        return ""

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`."""
        self.architecture_of(model, context, "no layer tells how it holds weights")
        if self.bits == "float":
            return self._thawed(model, f"step {context.index + 1}, {self.title}")
        return super().apply(model, context)

    def _thawed(self, model: Model, where: str) -> Outcome:
        for pattern in (*self.include, *self.exclude):
            if not optional(pattern) and not matches_any(pattern, model):
                raise RecipeError(
                    f"{where}: {pattern!r} matches no layer of {model.origin.path.name}",
                    suggest(pattern, model),
                )
        from modelcut.model import keras_ints

        after = keras_ints.thawed(model, self._meant)
        changed = [
            new.name
            for old, new in zip(model.layers, after.layers, strict=True)
            if keras_ints.is_int(old) and not keras_ints.is_int(new)
        ]
        skipped = {
            tensor.name: "its layer is not held in integers by Keras"
            for layer in model.layers
            if layer.name not in changed
            for tensor in layer.tensors
        }
        warnings = () if changed else (f"{where}: Keras holds no layer in integers here",)
        return Outcome(after, {"layers": changed}, skipped, warnings)

    def _meant(self, layer: Layer) -> bool:
        left = any(matches(pattern, layer) for pattern in self.exclude)
        return not left and (
            not self.include or any(matches(pattern, layer) for pattern in self.include)
        )

    def survey_model(
        self, model: Model, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[dict[str, Layout | str], dict[str, Any]]:
        """How the layer of each target holds its kernel, and the layers that stay in floats."""
        from modelcut.model import keras_ints

        del context
        layouts = keras_ints.layouts(model)
        found: dict[str, Layout | str] = {}
        aimed = {tensor.name for tensor, _ in targets}
        for layer in model.layers:
            for tensor in layer.tensors:
                if tensor.name in aimed:
                    found[tensor.name] = layouts.get(layer.path, "has no layer of Keras around it")
        return found, {}

    def edit(self, tensor: Tensor, survey: dict[str, Layout | str], context: Context) -> Edit | str:
        from modelcut.model import keras_ints

        del context
        layout = survey[tensor.name]
        if isinstance(layout, str):
            return layout
        bits = 4 if self.bits == 4 else 8
        if bits == 4 and not layout.is_matrix:
            return "Keras packs int4 only where the contracted axes come first"
        block = None if bits == 8 or self.block == "none" else self.block or BLOCK

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            inner = encoding.unmasked
            grid = keras_ints.kept(inner, layout, bits) if isinstance(inner, Affine) else None
            if grid is None:
                if not all(map_rows(lambda rows: bool(np.isfinite(values[rows]).all()), values)):
                    return leave(encoding, NOT_FINITE)
                grid = keras_ints.grid(values, layout, bits, block)
            return Rewrite(encoding.recoded(grid))

        return plan

    def warnings(self, chosen: list[Tensor]) -> tuple[str, ...]:
        twice = [
            tensor.name
            for tensor in chosen
            if tensor.kind == "embedding" and "affine" in tensor.kinds
        ]
        return (
            *super().warnings(chosen),
            *(
                f"{name}: is rounded twice, to scales of columns and of rows; give the step before "
                "an exclude: [role:embedding?]"
                for name in twice
            ),
        )

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "keras_int") if "sparse" in tensor.kinds else ("keras_int",)

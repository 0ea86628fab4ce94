"""Evaluation with simulated integer inference: what an int8 `.tflite` of a model will lose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelcut import engines
from modelcut.data.sources import open_table
from modelcut.errors import UsageError
from modelcut.formats import registry
from modelcut.model.encoding import Encoding
from modelcut.model.encodings.affine import Affine
from modelcut.model.model import Model
from modelcut.model.rewrite import Rewrite
from modelcut.steps.base import CODED, TARGET_KINDS

if TYPE_CHECKING:
    from modelcut.data import DataOptions, InputSpec
    from modelcut.model.rewrite import Edit

BITS = range(4, 9)
"""Of activations."""
_SAMPLES = 256
_KERNEL_BITS = 8


@dataclass(frozen=True)
class Simulation:
    """How a model is evaluated in integers.

    Attributes:
        model: the model; its kernels that are not quantized are rounded to 8 bits.
        bits: bits of each activation.
        calibrate: CSV of the samples that give the ranges of activations.
    """

    model: Model
    bits: int
    calibrate: Path

    def rounding(self, options: DataOptions, inputs: tuple[InputSpec, ...]) -> engines.Rounding:
        """The rounding, with samples spread over the CSV."""
        from modelcut.engines.litert.converter import spread

        table = open_table(self.calibrate, options, inputs, labelled=False)

        def row(arrays: Any) -> Any:
            return lambda number: [arrays[spec.name][number] for spec in inputs]

        rows = spread(((len(b), row(b.inputs)) for b in table.batches(256)), _SAMPLES)
        columns = zip(*rows, strict=True)
        return engines.Rounding(self.bits, tuple(np.stack(column) for column in columns))


def check(model: Model) -> None:
    """Refuses a model whose activations cannot be rounded.

    Raises:
        UsageError: no Keras runs it layer by layer.
    """
    if model.architecture is None or registry.of_model(model).signatures:
        raise UsageError(
            f"--activations: {model.origin.path} has no layers of Keras, between which values "
            "could be rounded",
            "a .tflite is evaluated in the types that it has; else give the .h5 or .keras file",
        )


def in_integers(model: Model) -> Model:
    """A model whose kernels are on the levels that an int8 export gives them.

    Those that are quantized already stay as they are, as they do there.
    """
    edited = {
        tensor.name: tensor.then(
            0,
            _on_levels(tensor.out_axis),
            ("sparse", "affine") if "sparse" in tensor.kinds else ("affine",),
        )
        for tensor in model.tensors
        if tensor.kind in TARGET_KINDS
        and tensor.size
        and tensor.dtype.kind == "f"
        and not set(tensor.kinds) & CODED.keys()
    }
    edited_model = model.with_tensors(edited)
    return replace(edited_model, origin=replace(model.origin, rewritten=True))


def _on_levels(axis: int | None) -> Edit:
    def edit(values: np.ndarray, encoding: Encoding) -> Rewrite:
        rank = values.ndim
        axes = tuple(n for n in range(rank) if axis is None or n != axis % rank)
        peak = np.abs(values).max(axis=axes, keepdims=True).astype(np.float32)
        scale = np.where(peak > 0, peak, np.float32(1)) / np.float32(127)
        return Rewrite(encoding.recoded(Affine(_KERNEL_BITS, scale)))

    return edit

"""How layers of Keras 3 hold a kernel in integers: along which axes, and with which dtype policy.

As of keras/src/layers/core/dense.py, einsum_dense.py (`_analyze_quantization_info`) and
embedding.py: int8 from Keras 3.6 on, int4 (packed along its last axis) from Keras 3.14 on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.graph.keras import quantized
from modelcut.graph.keras.classes import Config, Shape

CLASSES = {"Dense": "kernel", "EinsumDense": "kernel", "Embedding": "embeddings"}
"""Classes that have an integer form, each with the role of what is quantized."""
_SOURCES = ("float32", "mixed_bfloat16")
_OWN_MODULE = re.compile(r"^keras(\.|$)")
_EQUATION = re.compile(r"^([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)$")


@dataclass(frozen=True)
class Layout:
    """How a layer holds a kernel of some shape.

    Attributes:
        shape: of the kernel as floats.
        contracted: axes of the kernel over which a scale holds, in int4 cut into blocks.
        transpose, expand, squeeze: of int8: from scales with all axes of the kernel, length 1 along
            the contracted ones, to scales that broadcast against the layer's outputs.
        table: of an Embedding: int4 cuts blocks along its rows.
    """

    shape: tuple[int, ...]
    contracted: tuple[int, ...]
    transpose: tuple[int, ...] = ()
    expand: tuple[int, ...] = ()
    squeeze: tuple[int, ...] = ()
    table: bool = False

    def of_layer(self, scale: np.ndarray) -> np.ndarray:
        """Scales with the kernel's axes, as the int8 layer has them."""
        scale = scale.transpose(self.transpose) if self.transpose else scale
        scale = np.expand_dims(scale, self.expand) if self.expand else scale
        return np.squeeze(scale, self.squeeze) if self.squeeze else scale

    def of_kernel(self, scale: np.ndarray) -> np.ndarray:
        """The inverse of `of_layer`."""
        scale = np.expand_dims(scale, self.squeeze) if self.squeeze else scale
        scale = np.squeeze(scale, self.expand) if self.expand else scale
        return scale.transpose(np.argsort(self.transpose)) if self.transpose else scale

    @property
    def cut(self) -> int:
        """The axis of the matrix along which int4 cuts blocks; it is packed along the last one."""
        return int(self.table)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the kernel as int4 has it."""
        if self.table:
            return self.shape[0], self.shape[1]
        rows = int(np.prod([self.shape[axis] for axis in self.contracted]))
        return rows, int(np.prod(self.shape)) // max(rows, 1)

    @property
    def is_matrix(self) -> bool:
        """Whether the kernel, reshaped to that matrix, has its contracted axes along one axis."""
        return self.table or self.contracted == tuple(range(len(self.contracted)))


def layout(class_name: str, config: Config, shape: Sequence[int]) -> Layout | str:
    """How a layer would hold its kernel in integers; or why it cannot.

    Args:
        class_name: class of the layer.
        config: its configuration, before or after.
        shape: of its kernel as floats.
    """
    shape = tuple(shape)
    if class_name == "Dense":
        return Layout(shape, (0,), squeeze=(0,))
    if class_name == "Embedding":
        return Layout(shape, (1,), squeeze=(1,), table=True)
    found = _spelled(str(config.get("equation")))
    if found is None:
        return "Keras' own quantize fails where an equation has no letter for each axis"
    _, kernel, output = found
    contracted = tuple(axis for axis, label in enumerate(kernel) if label not in output)
    order = [kernel.index(label) for label in output if label in kernel]
    expand = [axis for axis, label in enumerate(output) if label not in kernel]
    squeeze = []
    at = 0
    for axis in contracted:  # each takes the place of an axis that only the input has
        if expand:
            at = expand.pop(0)
        else:
            squeeze.append(axis)
        order.insert(at, axis)
    return Layout(shape, contracted, tuple(order), tuple(expand), tuple(squeeze))


def _spelled(equation: str) -> tuple[str, str, str] | None:
    """Input, kernel and output of an equation with a letter for each axis."""
    found = _EQUATION.match(equation)
    return (found[1], found[2], found[3]) if found else None


def kernel_shape(class_name: str, config: Config, fed: Shape | None) -> Shape | None:
    """The shape of a layer's kernel as floats, as far as the configuration tells.

    Args:
        class_name: class of the layer.
        config: its configuration.
        fed: shape of its input without the batch axis; None: not known.
    """
    if class_name == "Dense":
        return (None, _whole(config.get("units")))
    if class_name == "Embedding":
        return (_whole(config.get("input_dim")), _whole(config.get("output_dim")))
    found = _spelled(str(config.get("equation")))
    said = config.get("output_shape")
    said = [said] if isinstance(said, int) else said
    if found is None or not isinstance(said, list):
        return None
    given, kernel, made = found
    sizes = dict(zip(reversed(made), reversed(said), strict=False))
    sizes |= dict(zip(reversed(given), reversed(fed or ()), strict=False))
    return tuple(_whole(sizes.get(label)) for label in kernel)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def refusal(class_name: str, config: Config, entry: Config) -> str:
    """Why a layer cannot be held in integers, whatever its weights; "" where it can.

    Args:
        class_name: class of the layer.
        config: its configuration.
        entry: its JSON object.
    """
    module = entry.get("module")
    foreign = entry.get("registered_name") not in (None, class_name)
    if class_name not in CLASSES or foreign or not _OWN_MODULE.match(str(module or "keras")):
        return f"Keras has no integers for a {class_name}: it stays in floats"
    if quantized.lora_rank(class_name, config):
        return "has LoRA enabled: merge it first"
    name = _source(config.get("dtype"))
    if name not in _SOURCES:
        return f"its dtype policy is {name}, from which Keras quantizes no layer well: it stays"
    return ""


def _source(dtype: Any) -> str:
    """The name of the dtype policy before quantization."""
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        inner = inner if isinstance(inner, dict) else {}
        return str(inner.get("source_name") or inner.get("name") or "").rpartition("_from_")[2]
    return "float32" if dtype is None else str(dtype).rpartition("_from_")[2]


def frozen(config: Config, mode: str) -> dict[str, Any]:
    """The keys of a layer's configuration that say that it is held in integers.

    Args:
        config: of the layer.
        mode: "int8", "int4/-1" (a scale for each column) or "int4/128" (for each block of 128).
    """
    kind = "QuantizedDTypePolicy" if mode == "int8" else "Int4DTypePolicy"
    source = {"mode": mode, "source_name": _source(config.get("dtype"))}
    return {"dtype": _policy("keras.dtype_policies", kind, source)}


def thawed(config: Config) -> dict[str, Any]:
    """The keys of the configuration of a layer held in integers with which it has floats."""
    plain = {"dtype": _policy("keras", "DTypePolicy", {"name": _source(config.get("dtype"))})}
    return plain | ({"quantization_config": None} if "quantization_config" in config else {})


def _policy(module: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}

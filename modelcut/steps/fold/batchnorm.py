"""Puts batch normalizations into the weights of the layers before or after them.

In inference a batch normalization is y = s x + t for each channel, with s = γ / √(σ² + ε) and
t = β - s μ. After a layer that is linear, s scales the columns of its kernel, and the bias becomes
s b + t; before one, s scales the rows of the kernel W and the bias gains Σ t W. Both are exact but
for rounding (Jacob et al. 2018, section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from modelcut.graph import chains
from modelcut.graph.architecture import Architecture, Refusal
from modelcut.graph.keras.channel_values import activation
from modelcut.graph.keras.classes import Shape, get
from modelcut.graph.keras.saved_order import specs
from modelcut.graph.node import Path
from modelcut.model import edit
from modelcut.model.encoding import Dense, Encoding
from modelcut.model.model import Layer, Model, Source, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import NOT_FINITE, TARGET_KINDS, Context, Need, Outcome, Step

_NORM = re.compile(r"^(Sync)?BatchNormalization(V1|V2)?$")
_KERNEL = re.compile(r"^(Dense|(Depthwise)?Conv[123]D|Conv[123]DTranspose|SeparableConv[12]D)$")
_PLAIN = re.compile(r"^(Dense|Conv[123]D)$")
_THROUGH = re.compile(r"^(Flatten|Dropout|SpatialDropout[123]D|GlobalAveragePooling[123]D)$")
"""Layers that may stand between a normalization and the layer after it."""
_NONE = "no batch normalization is folded into its layer"


class Batchnorm(Step):
    """Fold batch normalizations into the linear layer before or after them, exact to rounding."""

    aims: ClassVar[frozenset[str]] = TARGET_KINDS | {"bias", "norm", "state"}
    absent: ClassVar[dict[str, str]] = {"budget": "it needs none, for the outputs stay the same"}

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"graph"}

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`; kernels are scaled when they are pulled."""
        architecture = self.architecture_of(model, context, "nothing tells which layer feeds which")
        chosen, skipped = self.select(model, context)
        names = {tensor.name for tensor in chosen}
        state = _State(architecture, {layer.path: layer for layer in model.layers}, context.index)
        facts: dict[str, Any] = {"layers": {}}
        for layer in model.layers:
            mine = [tensor for tensor in layer.tensors if tensor.name in names]
            if not mine:
                continue
            if not _NORM.match(layer.class_name):
                skipped.update({tensor.name: _NONE for tensor in mine})
                continue
            found = state.fold(layer)
            if isinstance(found, str):
                skipped.update({tensor.name: found for tensor in mine})
            else:
                facts["layers"][layer.name] = found
        if not facts["layers"]:
            return Outcome(model, facts, skipped)
        layers = [state.layers[old.path] for old in model.layers if old.path in state.layers]
        for tensor in (tensor for layer in layers for tensor in layer.tensors):
            if tensor.edits and tensor.edits[-1].step == context.index:
                skipped.pop(tensor.name, None)
        return Outcome(edit.in_architecture(model, layers, state.architecture), facts, skipped)


@dataclass
class _State:
    """The network with the normalizations folded so far."""

    architecture: Architecture
    layers: dict[Path, Layer]
    step: int

    def fold(self, layer: Layer) -> dict[str, Any] | str:
        """Folds one normalization: where to; or why it stays."""
        line = _Line.of(layer)
        if isinstance(line, str):
            return line
        if chains.call_count(self.architecture, layer.path) != 1:
            return "is called several times"
        axis = self._is_last(layer)
        if not axis:
            return "does not normalize the last axis"
        before = self._before(layer)
        ahead = "" if isinstance(before, str) else self._take_out(layer)
        if not isinstance(before, str) and not ahead:
            self._scale_outputs(before, line)
            return {"into": [before.name], "side": "before"}
        why = before if isinstance(before, str) else ahead
        after = self._after(layer, line)
        if isinstance(after, str):
            return f"{why}; {after}"
        ahead = self._take_out(layer)
        if ahead:
            return ahead
        for reader in after:
            self._scale_inputs(reader, line)
        return {"into": [reader.name for reader in after], "side": "after"}

    def _is_last(self, layer: Layer) -> bool:
        axis = layer.config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        if axis == -1:
            return True
        shape: Shape | None = self.architecture.input_shapes().get(layer.path)
        return shape is not None and axis == len(shape)

    def _before(self, layer: Layer) -> Layer | str:
        names = chains.sources(self.architecture, layer.path)
        path = (*layer.path[:-1], names[0]) if len(names) == 1 else ()
        found = self.layers.get(path)
        if found is None or not _KERNEL.match(found.class_name):
            return "does not follow a linear layer"
        if activation(found.config) != "linear":
            return f"follows the activation of {found.name}"
        if chains.consumers(self.architecture, found.path) != [layer.path[-1]]:
            return f"{found.name} is used elsewhere too"
        if chains.call_count(self.architecture, found.path) != 1:
            return f"{found.name} is called several times"
        return _unusable(found) or found

    def _after(self, layer: Layer, line: _Line) -> list[Layer] | str:
        """The layers that take up what it gives, all of which can."""
        names = chains.consumers(self.architecture, layer.path)
        if not names:
            return "is an output of its model"
        found = []
        for name in names:
            path = (*layer.path[:-1], name)
            reader = self._reader(path, layer.path[-1])
            if isinstance(reader, str):
                return reader
            reason = self._unfit(reader, line)
            if reason:
                return reason
            found.append(reader)
        return found

    def _reader(self, path: Path, fed_by: str) -> Layer | str:
        """The layer that takes something up, behind those that may stand between."""
        reader = self.layers.get(path)
        while reader is not None:
            if chains.sources(self.architecture, path) != [fed_by]:
                return f"{reader.name} is fed by others too"
            if not _THROUGH.match(reader.class_name):
                return reader
            if get(reader.config, "data_format") == "channels_first":
                break
            names = chains.consumers(self.architecture, path)
            if names is None or len(names) != 1:
                break
            fed_by, path = path[-1], (*path[:-1], names[0])
            reader = self.layers.get(path)
        return "is not followed by linear layers alone"

    def _unfit(self, reader: Layer, line: _Line) -> str:
        config = reader.config
        if not _PLAIN.match(reader.class_name) or get(config, "groups", default=1) != 1:
            return f"is not followed by linear layers alone ({reader.name})"
        padded = reader.class_name != "Dense" and get(config, "padding") != "valid"
        if padded and np.any(line.shift != 0):
            return f"{reader.name} pads with zeros, which are shifted too"
        kernel = reader.by_role.get("kernel")
        if kernel is None or kernel.in_axis is None:
            return f"{reader.name} has no kernel"
        if kernel.shape[kernel.in_axis] % line.scale.size:
            return f"{reader.name} takes other channels"
        return _unusable(reader)

    def _take_out(self, layer: Layer) -> str:
        try:
            self.architecture = chains.removed(self.architecture, layer.path)
        except Refusal as reason:
            return f"cannot be taken out: {reason}"
        del self.layers[layer.path]
        return ""

    def _scale_outputs(self, layer: Layer, line: _Line) -> None:
        kernel = next(t for t in layer.tensors if t.role in ("pointwise_kernel", "kernel",
                                                            "depthwise_kernel")
                      and not (t.role == "depthwise_kernel" and "pointwise_kernel"
                               in layer.by_role))  # fmt: skip
        shape = [1] * len(kernel.shape)
        if layer.class_name.startswith("Depthwise"):
            shape[-2:] = kernel.shape[-2:]
        else:
            shape[-1 if kernel.out_axis is None else kernel.out_axis] = -1
        scaled = kernel.then(self.step, _times(line.scale.reshape(shape)), kernel.kinds)
        bias = layer.by_role.get("bias")
        if bias is None:
            self._with(layer, {kernel.name: scaled}, line.shift)
            return
        moved = bias.then(self.step, _moved(line.scale, line.shift), bias.kinds)
        self._with(layer, {kernel.name: scaled, bias.name: moved}, None)

    def _scale_inputs(self, layer: Layer, line: _Line) -> None:
        layer = self.layers[layer.path]
        kernel = layer.by_role["kernel"]
        assert kernel.in_axis is not None
        repeats = kernel.shape[kernel.in_axis] // line.scale.size
        shape = [1] * len(kernel.shape)
        shape[kernel.in_axis] = -1
        scale = np.tile(line.scale, repeats).reshape(shape)
        shift = np.tile(line.shift, repeats).reshape(shape)
        changed = {kernel.name: kernel.then(self.step, _times(scale), kernel.kinds)}
        if not np.any(shift != 0):
            self._with(layer, changed, None)
            return
        values = kernel.pull()[0].astype(np.float64)
        axes = tuple(axis for axis in range(values.ndim) if axis != kernel.out_axis)
        added = (values * shift).sum(axis=axes)
        bias = layer.by_role.get("bias")
        if bias is None:
            self._with(layer, changed, added)
            return
        changed[bias.name] = bias.then(self.step, _moved(np.ones(1), added), bias.kinds)
        self._with(layer, changed, None)

    def _with(self, layer: Layer, changed: Mapping[str, Tensor], bias: np.ndarray | None) -> None:
        """Keeps the changed tensors, and a bias of its own where the layer had none."""
        tensors = [changed.get(tensor.name, tensor) for tensor in layer.tensors]
        if bias is not None:
            keys = {key: True for key in ("use_bias", "bias") if key in layer.config}
            keys = keys or {"use_bias": True}
            self.architecture = self.architecture.with_configs({layer.path: keys})
            node = next(n for n in self.architecture.nodes if n.path == layer.path)
            spec = next(spec for spec in specs(node) if spec.role == "bias")
            kernel = tensors[0]
            values = bias.astype(kernel.dtype)
            tensors.append(
                replace(
                    kernel,
                    name=f"{layer.name}/bias",
                    role="bias",
                    kind=spec.kind,
                    shape=values.shape,
                    source=Source(values.copy),
                    out_axis=None,
                    in_axis=None,
                    encoding=Dense(),
                    edits=(),
                    key="",
                )
            )
        self.layers[layer.path] = replace(layer, tensors=tuple(tensors))


@dataclass(frozen=True)
class _Line:
    """What a normalization computes: scale · x + shift, float64, (channels,)."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, layer: Layer) -> _Line | str:
        """Reads it from a layer, or tells why it cannot."""
        roles = layer.by_role
        if "moving_mean" not in roles or "moving_variance" not in roles:
            return "has no moving mean and variance"
        if layer.config.get("renorm") or layer.config.get("mode", 0) != 0:
            return "normalizes in another way than by moving mean and variance"
        if any(tensor.kinds != ("dense",) for tensor in layer.tensors):
            return "its values are quantized or pruned"
        mean, variance = (
            roles[role].pull()[0].astype(np.float64) for role in ("moving_mean", "moving_variance")
        )
        gamma, beta = (
            roles[role].pull()[0].astype(np.float64) if role in roles else default
            for role, default in (("gamma", np.ones(1)), ("beta", np.zeros(1)))
        )
        epsilon = layer.config.get("epsilon", 1e-3)
        scale = gamma / np.sqrt(np.maximum(variance + epsilon, 1e-300))
        shift = beta - scale * mean
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return NOT_FINITE
        return cls(scale, shift)


def _unusable(layer: Layer) -> str:
    """Why the weights of a layer cannot take up a normalization; "" where they can."""
    node = layer.node
    if node is None or get(node.config, "data_format") == "channels_first":
        return f"{layer.name} has its channels first"
    if "output_dim" in node.config or "nb_filter" in node.config:
        return f"{layer.name} is of Keras 1"
    registered = node.entry.get("registered_name")
    if isinstance(registered, str) and registered != layer.class_name:
        return f"{layer.name} is of its author's own class"
    for tensor in layer.tensors:
        if not set(tensor.kinds) <= {"dense", "sparse"} or tensor.dtype.kind not in "fV":
            return f"{tensor.name} is quantized already"
    return ""


def _times(scale: np.ndarray) -> Edit:
    def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
        del values

        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            own = scale[rows] if scale.shape[0] > 1 else scale
            # Zeros of a mask stay +0.
            result: np.ndarray = (part.astype(np.float64) * own + 0.0).astype(part.dtype)
            return result

        return Rewrite(encoding, block)

    return plan


def _moved(scale: np.ndarray, shift: np.ndarray) -> Edit:
    def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            own = [each[rows] if each.size > 1 else each for each in (scale, shift)]
            result: np.ndarray = (part.astype(np.float64) * own[0] + own[1]).astype(part.dtype)
            return result

        del values
        return Rewrite(encoding, block)

    return plan

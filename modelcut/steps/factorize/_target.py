"""A layer as what can be factorized: its kernel as a matrix, and the layers of a chain for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modelcut.graph import shapes
from modelcut.graph.architecture import Architecture, Dialect
from modelcut.graph.chains import Link
from modelcut.graph.keras import classes
from modelcut.graph.keras.classes import Shape
from modelcut.graph.keras.saved_order import specs
from modelcut.graph.node import Node, Path
from modelcut.model.encoding import Dense
from modelcut.model.model import Layer, Source, Tensor
from modelcut.steps.factorize._parts import Factors, Kind, Part

_CONVOLUTION = re.compile(r"^(Conv|Convolution|AtrousConvolution)([123])D$")
_RECURRENT = frozenset("SimpleRNN LSTM GRU".split())
_NO_RECURRENT = "is a recurrent kernel, and Keras has no layer with a factorized one"
_STARTS = ("batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length")
_WITHOUT = ("bias_regularizer", "bias_constraint", "activity_regularizer", "b_regularizer",
            "b_constraint", "kernel_constraint", "W_constraint", "embeddings_constraint",
            )  # fmt: skip
"""What a factor has none of."""


@dataclass(frozen=True)
class Target:
    """A layer whose kernel can be a product.

    Attributes:
        layer: the layer.
        kernels: its kernel; of a Bidirectional, those of both directions.
        kind: dense, conv, embedding, or own for a recurrent layer.
        inner: the layer itself, or the one that a TimeDistributed repeats.
        inputs: channels that go in.
        outputs: of the kernels together.
        size: kernel size of a convolution; () for others.
        given: shape of what goes in, without the batch axis; None: unknown.
        dialect: the generation of Keras that can load the file.
        version: version of Keras that wrote the file.
        macs: multiply-accumulates of the layer in the network; None: unknown.
    """

    layer: Layer
    kernels: tuple[Tensor, ...]
    kind: Kind
    inner: Node
    inputs: int
    outputs: int
    size: tuple[int, ...]
    given: Shape | None
    dialect: Dialect
    version: str
    macs: int | None

    @property
    def depth(self) -> int:
        """Rows of the kernel as a matrix."""
        return int(np.prod(self.size, dtype=np.int64)) * self.inputs

    @property
    def values(self) -> int:
        """Number of weights of the kernels."""
        return sum(kernel.size for kernel in self.kernels)

    @property
    def pointwise(self) -> bool:
        """Whether it is a convolution under whose kernel lies one place."""
        return self.kind == "conv" and all(n == 1 for n in self.size)

    @property
    def bias(self) -> Tensor | None:
        """The bias that the layer adds to the product, where it is one vector."""
        return self.layer.by_role.get("bias") if self.kind in ("dense", "conv") else None

    def matrix(self) -> np.ndarray:
        """The kernels side by side, (depth, outputs), in the dtype of the file."""
        found = [_canonical(tensor, len(self.size)) for tensor in self.kernels]
        flat = [values.reshape(self.depth, -1) for values in found]
        return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)

    def strides(self) -> tuple[int, ...]:
        """Strides of a convolution."""
        keys = ("strides", "subsample", "subsample_length")
        return tuple(n or 1 for n in _sizes(self.inner.config, keys, len(self.size)))

    def links(self, parts: Sequence[Part], names: Sequence[str]) -> list[Link]:
        """The layers of a chain; the last name is that of the layer."""
        made = []
        for index, (part, name) in enumerate(zip(parts, names, strict=True)):
            last = index == len(parts) - 1
            config = self.layer.config if self.kind == "own" and last else self.inner.config
            if index:
                config = {key: value for key, value in config.items() if key not in _STARTS}
            class_name, new = self._configured(part, config, last=last)
            if self.layer.class_name != "TimeDistributed":
                made.append(Link(name, class_name, {**new, "name": name}))
                continue
            own = str(self.inner.config.get("name", self.layer.path[-1]))
            new["name"] = own if last else f"{own}{name.removeprefix(names[-1])}"
            entry = {**self.inner.entry, "class_name": class_name, "config": new}
            wrapper = {**self.layer.config, "name": name, "layer": entry}
            made.append(Link(name, "TimeDistributed", wrapper))
        return made

    def _configured(
        self, part: Part, config: Mapping[str, Any], *, last: bool
    ) -> tuple[str, dict[str, Any]]:
        """Class and configuration of one layer of a chain."""
        old = self.inner.class_name
        if part.kind == "own":
            return self.layer.class_name, _without_starts(config)
        if part.kind == "depthwise":
            return self._depthwise(part, config)
        if part.kind == "dense" and self.kind != "dense":
            return "Dense", _plain_dense(config, part.outputs)
        new = dict(config)
        if part.kind == "embedding":
            new["output_dim"] = part.outputs
        elif part.kind == "dense":
            new.update({key: part.outputs for key in ("units", "output_dim") if key in new})
        else:
            _resize(new, part)
        return old, new if last else _linear(new, biased=part.kind != "embedding")

    def _depthwise(self, part: Part, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        new = _linear(dict(config))
        _resize(new, part)
        if self._grouped():
            return self.inner.class_name, {**new, "groups": part.outputs}
        initializer = new.pop("kernel_initializer", None)
        for key in ("filters", "groups", "kernel_regularizer", "kernel_constraint"):
            new.pop(key, None)
        own = {} if initializer is None else {"depthwise_initializer": initializer}
        return f"DepthwiseConv{len(self.size)}D", {**new, "depth_multiplier": 1, **own}

    def _grouped(self) -> bool:
        """Whether a depthwise convolution is one in groups here: Keras has no other for it."""
        new = self.dialect is Dialect.KERAS3 or _version(self.version) >= (2, 9)
        causal = classes.get(self.inner.config, "padding") == "causal"
        uneven = len(set(self.strides())) > 1  # TensorFlow's depthwise convolution is square
        return len(self.size) == 3 or uneven or (len(self.size) == 1 and (causal or not new))

    def no_depthwise(self) -> str:
        """Why there is no depthwise convolution for this layer; "" where there is one."""
        if self.dialect is Dialect.KERAS1:
            return "is of Keras 1, which has no depthwise convolution"
        old = self.dialect is Dialect.KERAS2 and _version(self.version) < (2, 4)
        if old and self._grouped():
            return f"would need a convolution in groups, which Keras {self.version} lacks"
        return ""

    def cost(self, parts: Sequence[Part]) -> tuple[int, int | None]:
        """Weights of a chain's kernels, and its multiply-accumulates in the network."""
        params = sum(part.values for part in parts)
        if self.macs is None or self.layer.node is None:
            return params, None
        before = shapes.macs(
            self.layer.node, [tensor.shape for tensor in self.layer.tensors], self.given
        )
        names = [f"{index}" for index in range(len(parts))]
        total, given = 0, self.given
        for part, link in zip(parts, self.links(parts, names), strict=True):
            node = link.node()
            weights = [self._stored_shape(part, link)]
            if part.kind == "own":
                weights = self._own_shapes(part)
            count = shapes.macs(node, weights, given)
            if count is None:
                return params, None
            total += count
            given = shapes.of_layer(node, [given])
        if not before:  # an embedding looks its rows up
            return params, total
        return params, round(total * (self.macs / before))

    def _own_shapes(self, part: Part) -> list[tuple[int, ...]]:
        names = {kernel.name for kernel in self.kernels}
        return [
            (part.inputs, *tensor.shape[1:]) if tensor.name in names else tensor.shape
            for tensor in self.layer.tensors
        ]

    def _stored_shape(self, part: Part, link: Link) -> tuple[int, ...]:
        if part.kind == "depthwise" and not _is_depthwise(link):
            return (*part.size, 1, part.inputs)
        return part.shape

    def layers(
        self,
        architecture: Architecture,
        parts: Sequence[Part],
        names: Sequence[str],
        factors: Factors,
        bias: Tensor | None,
    ) -> tuple[Layer, ...]:
        """The layers of a chain with their tensors, in the architecture that has them."""
        nodes = {node.path: node for node in architecture.nodes}
        links = self.links(parts, names)
        made = []
        above = self.layer.path[:-1]
        for part, link, values in zip(parts, links, factors.kernels, strict=False):
            path = (*above, link.name)
            tensor = self._tensor(nodes[path], self._stored(part, link, values))
            made.append(Layer(path, link.class_name, nodes[path].config, (tensor,), nodes[path]))
        node = nodes[self.layer.path]
        new = self._last(node, parts[-1], factors.last)
        if bias is not None:
            new["bias"] = bias
        if self.kind == "embedding":
            tensors = tuple(new.values())
        else:
            tensors = tuple(new.get(tensor.role, tensor) for tensor in self.layer.tensors)
        return (*made, Layer(node.path, node.class_name, node.config, tensors, node))

    def _last(self, node: Node, part: Part, last: np.ndarray) -> dict[str, Tensor]:
        """The kernels of the last layer, by role."""
        if self.kind == "embedding":
            tensor = self._tensor(node, last)
            return {tensor.role: tensor}
        widths = np.cumsum([kernel.shape[kernel.out_axis or -1] for kernel in self.kernels])
        if len(self.kernels) == 1:
            values = [last.reshape(part.shape)]
        else:
            values = np.split(last, widths[:-1], axis=1)
        return {
            kernel.role: _replaced(kernel, node.path, as_stored(own, kernel, len(self.size)))
            for kernel, own in zip(self.kernels, values, strict=True)
        }

    def _stored(self, part: Part, link: Link, values: np.ndarray) -> np.ndarray:
        if part.kind == "depthwise" and not _is_depthwise(link):
            return np.swapaxes(values, -1, -2)
        return values

    def _tensor(self, node: Node, values: np.ndarray) -> Tensor:
        """The one tensor of a layer of a chain; like the kernel before if the class is the same."""
        kernel = self.kernels[0]
        if node.class_name == self.layer.class_name and len(self.kernels) == 1:
            inner = node.wrapped[0][1] if node.class_name == "TimeDistributed" else node
            if inner.class_name == self.inner.class_name:
                return _replaced(kernel, node.path, as_stored(values, kernel, len(self.size)))
        spec = specs(node)[0]
        rank = values.ndim
        axes = [None if axis is None else axis % rank for axis in (spec.out_axis, spec.in_axis)]
        return replace(
            _replaced(kernel, node.path, values, spec.role),
            role=spec.role, kind=spec.kind, out_axis=axes[0], in_axis=axes[1],
        )  # fmt: skip


def target_of(
    layer: Layer, chosen: Sequence[Tensor], given: Shape | None, macs: int | None,
    architecture: Architecture,
) -> Target | str:  # fmt: skip
    """The layer as a target, or why it is none.

    Args:
        layer: a layer with a node in the architecture.
        chosen: its tensors that the step is aimed at.
        given: shape of what goes into it, without the batch axis.
        macs: its multiply-accumulates in the network.
        architecture: of the model.
    """
    node = layer.node
    if node is None or not layer.class_name:
        return "a layer without a class is not factorized"
    inner = node
    if layer.class_name in ("TimeDistributed", "Bidirectional") and node.wrapped:
        inner = node.wrapped[0][1]
    kind = _kind(layer.class_name, inner.class_name)
    found = _CONVOLUTION.match(inner.class_name)
    rank = int(found[2]) if found else 0
    if kind is None and inner.class_name.startswith("CuDNN"):
        return "has its kernel in the layout of cuDNN, whose rows are no inputs"
    if kind is None:
        return f"{layer.class_name} is not a Dense, Embedding, recurrent layer or plain convolution"
    if classes.get(inner.config, "groups", default=1) != 1:
        return "is a convolution in groups"
    wanted = [t for t in layer.tensors if t.role.rpartition("/")[2] in ("kernel", "embeddings")]
    kernels = tuple(tensor for tensor in wanted if tensor in chosen)
    if not kernels or len(kernels) < len(wanted):
        return "is not the kernel" if not kernels else "only one direction of two was selected"
    ranks = {"dense": 2, "embedding": 2, "own": 2, "conv": rank + 2}
    kernel = kernels[0]
    old = architecture.dialect is Dialect.KERAS1
    if old and kind in ("embedding", "own"):
        return "is of Keras 1, whose recurrent layers and Dense layers are others"
    old_line = old and rank == 1 and len(kernel.shape) == 4
    if old_line and (kernel.shape[1] != 1 or kernel.shape[3] != classes.filters(inner.config)):
        return "is stored in a layout of an early Keras 1"
    if len(kernel.shape) != ranks[kind] + old_line or 0 in kernel.shape:
        return "is not the kernel of such a layer"
    inputs = kernel.shape[kernel.in_axis if kernel.in_axis is not None else 0]
    if kind == "embedding":
        inputs = kernel.shape[0]
    outputs = sum(k.shape[-1 if k.out_axis is None else k.out_axis] for k in kernels)
    size = tuple(n or 1 for n in classes.kernel_size(inner.config, rank)) if rank else ()
    return Target(
        layer, kernels, kind, inner, inputs, outputs, size, given, architecture.dialect,
        architecture.keras_version, macs,
    )  # fmt: skip


def other_tensors(layer: Layer) -> dict[str, str]:
    """Tensors of a layer that are no factor's, each with the reason."""
    return {tensor.name: _NO_RECURRENT for tensor in layer.tensors if tensor.kind == "recurrent"}


def _kind(outer: str, inner: str) -> Kind | None:
    if outer == "Bidirectional":
        return "own" if inner in _RECURRENT else None
    if inner in ("Dense", "TimeDistributedDense"):
        return "dense"
    if _CONVOLUTION.match(inner):
        return "conv"
    if outer == "TimeDistributed":
        return None
    if inner == "Embedding":
        return "embedding"
    return "own" if inner in _RECURRENT else None


def _canonical(tensor: Tensor, rank: int) -> np.ndarray:
    """The kernel with the inputs on the axis before the last, and the outputs on the last."""
    values = tensor.pull()[0]
    if not rank:
        return values
    if len(values.shape) == rank + 3:  # Keras 1: (length, 1, inputs, outputs)
        return values[:, 0]
    if tensor.out_axis == 0:
        return np.ascontiguousarray(np.moveaxis(values, (1, 0), (-2, -1)))
    return values


def as_stored(values: np.ndarray, kernel: Tensor, rank: int) -> np.ndarray:
    """The inverse of `_canonical`."""
    if rank and len(kernel.shape) == rank + 3:
        return values[:, None]
    if rank and kernel.out_axis == 0:
        return np.moveaxis(values, (-2, -1), (1, 0))
    return values


def _replaced(kernel: Tensor, path: Path, values: np.ndarray, role: str = "") -> Tensor:
    name = f"{'/'.join(path)}/{role or kernel.role}"
    return replace(
        kernel, name=name, shape=values.shape, source=pinned(values), encoding=Dense(), edits=(),
        key="",
    )  # fmt: skip


def pinned(values: np.ndarray) -> Source:
    """A source of values that are kept."""
    kept = np.ascontiguousarray(values)
    return Source(kept.copy, lambda count: kept.ravel()[:: max(1, kept.size // count)])


def _is_depthwise(link: Link) -> bool:
    name = link.class_name
    if name == "TimeDistributed":
        name = str(link.config["layer"]["class_name"])
    return name.startswith("Depthwise")


def _sizes(config: Mapping[str, Any], keys: Sequence[str], rank: int) -> tuple[int | None, ...]:
    return classes.integers(classes.get(config, *keys, default=1), rank)


def _resize(config: dict[str, Any], part: Part) -> None:
    """The sizes of a convolution of a chain, in the keys that its configuration has."""
    rank = len(part.size)
    config.update({key: part.outputs for key in ("filters", "nb_filter") if key in config})
    if "kernel_size" in config:
        config["kernel_size"] = list(part.size)
    names = {1: ("filter_length",), 2: ("nb_row", "nb_col")}.get(
        rank, ("kernel_dim1", "kernel_dim2", "kernel_dim3")
    )
    for name, length in zip(names, part.size, strict=True):
        if name in config:
            config[name] = length
    for key in ("strides", "subsample", "subsample_length", "dilation_rate", "atrous_rate"):
        if config.get(key) is None:
            continue
        sizes = _sizes(config, (key,), rank)
        new = [n or 1 if own else 1 for n, own in zip(sizes, part.along, strict=True)]
        config[key] = new if isinstance(config[key], list) or rank > 1 else new[0]


def _linear(config: dict[str, Any], *, biased: bool = True) -> dict[str, Any]:
    """Without an activation and a bias, if the class has one: all but the last of a chain."""
    if "activation" in config:
        config["activation"] = "linear"
    config.update({key: None for key in _WITHOUT if key in config})
    keys = [key for key in ("use_bias", "bias") if key in config]
    if biased and not keys:  # the default, which is True, was left out
        keys = ["bias" if {"output_dim", "nb_filter"} & config.keys() else "use_bias"]
    config.update(dict.fromkeys(keys, False))
    return config


def _plain_dense(config: Mapping[str, Any], units: int) -> dict[str, Any]:
    own = {key: config[key] for key in ("trainable", "dtype") if key in config}
    return {**own, "units": units, "activation": "linear", "use_bias": False}


def _without_starts(config: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(config)
    for key in ("layer", "backward_layer"):
        inner = new.get(key)
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
            rest = {k: v for k, v in inner["config"].items() if k not in _STARTS}
            new[key] = {**inner, "config": rest}
    return new


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)

"""What each of Keras' layer classes does with channels: makes, carries, reads or joins them.

A rule takes the layer and what goes into it and gives what comes out, and registers on the way
which axes of its weights belong to which channels. A class without a rule is a barrier.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modelcut.graph.keras import layer_shapes
from modelcut.graph.keras.classes import POOL, Config, Shape, get, integer
from modelcut.graph.node import Node, Path

MAX_VALUES = 1 << 24
"""Values of one tensor whose channels are followed through a Reshape, Flatten or Permute."""

ELEMENTWISE = frozenset(
    """linear relu relu6 leaky_relu elu selu gelu silu swish mish tanh softsign sigmoid hard_sigmoid
    softplus exponential hard_silu hard_swish celu hard_tanh""".split()
)
"""Activations that treat each value by itself."""


class Barrier(Exception):  # noqa: N818 - no error: these channels are kept
    """A layer through which channels cannot be followed, with the reason."""


@dataclass(frozen=True)
class Value:
    """A tensor between layers, and which channel stands where on one of its axes.

    Attributes:
        shape: without the batch axis; None where it is unknown.
        axis: of the channels, the batch axis not counted; -1 for the last one of an unknown
            shape; meaningless without `ids`.
        ids: int64, shape (shape[axis],): the channel at each index, 0 for one that is kept;
            None where not even their number is known.
    """

    shape: Shape | None
    axis: int = -1
    ids: np.ndarray | None = None


class Channels(Protocol):
    """What a rule may ask of the walk over the network."""

    def new(self, count: int) -> np.ndarray:
        """Channels that have not been before."""

    def pin(self, ids: np.ndarray | None, why: str) -> None:
        """Keeps channels, for the reason given."""

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Makes channels the same, index by index."""

    def weight(self, path: Path, role: str) -> tuple[int, ...]:
        """Shape of a weight; raises `Barrier` where the layer has none of this role."""

    def roles(self, path: Path) -> frozenset[str]:
        """The roles of a layer's weights."""

    def slot(self, path: Path, role: str, axis: int, ids: np.ndarray, use: str) -> None:
        """An axis of a weight has these channels; raises `Barrier` where the lengths differ."""

    def free(self, path: Path, role: str) -> None:
        """A weight has no axis of channels."""

    def size(self, path: Path, key: str, index: int | None, ids: np.ndarray) -> None:
        """A number in the layer's configuration is how many of these channels there are."""


Rule = Callable[[Channels, Node, Sequence[Value]], Value]


def of(node: Node) -> Rule | None:
    """The rule of a layer's class; None where there is none."""
    name = node.class_name
    if node.is_operation:
        return None
    if name in _RULES:
        return _RULES[name]
    return next((rule for pattern, rule in _PATTERNS if pattern.match(name)), None)


def at(channels: Channels, value: Value, axis: int, why: str) -> np.ndarray | None:
    """The channels along an axis; where they lie along another one, they are kept."""
    if value.ids is not None and value.axis == axis:
        return value.ids
    channels.pin(value.ids, why)
    if value.shape is None:
        return None
    length = value.shape[axis] if axis < len(value.shape) else None
    return None if length is None else np.zeros(length, np.int64)


def activation(config: Config) -> str:
    """Name of a layer's activation: "linear" for none, "" for one that is no plain name."""
    found = config.get("activation")
    return "linear" if found is None else found if isinstance(found, str) else ""


def _first(config: Config) -> bool:
    return config.get("data_format") == "channels_first" or config.get("dim_ordering") == "th"


def _place(config: Config, value: Value) -> int:
    """The axis of channels that a layer of images or sequences means."""
    if value.shape is None:
        raise Barrier("has an input of unknown shape")
    return 0 if _first(config) else len(value.shape) - 1


def _name(node: Node) -> str:
    return f"{'/'.join(node.path)} ({node.class_name})"


def _plain_start(node: Node) -> None:
    """Initial values given number by number hold for one shape alone."""
    for key, value in node.config.items():
        inner = value.get("config") if isinstance(value, dict) else None
        values = inner.values() if isinstance(inner, dict) else ()
        if key.endswith("initializer") and any(isinstance(v, (list, dict)) for v in values):
            raise Barrier(f"has a {key} of a fixed shape")


def _incoming(channels: Channels, node: Node, value: Value, role: str, axis: int) -> np.ndarray:
    """The channels that a kernel reads along its axis; kept ones where they are not known."""
    place = -1
    if "Dense" not in node.class_name:
        place = _place(node.config, value)
    elif value.shape is not None:
        place = len(value.shape) - 1
    ids = at(channels, value, place, f"{_name(node)} reads along another axis")
    length = channels.weight(node.path, role)[axis]
    if ids is None:
        return np.zeros(length, np.int64)
    if ids.size != length:
        raise Barrier(f"reads {length} channels where {ids.size} come in")
    return ids


def _made(channels: Channels, node: Node, key: str, count: int) -> np.ndarray:
    """The channels that a layer makes; kept where its activation joins them."""
    ids = channels.new(count)
    if activation(node.config) not in ELEMENTWISE:
        channels.pin(
            ids, f"its activation ({activation(node.config) or 'a custom one'}) joins them"
        )
    channels.size(node.path, key, None, ids)
    return ids


def _key(config: Config, *names: str) -> str:
    found = next((name for name in names if integer(config.get(name)) is not None), None)
    if found is None:
        raise Barrier(f"has no {names[0]} in its configuration")
    return found


def _output(node: Node, value: Value, axis: int, ids: np.ndarray) -> Value:
    shape = None
    try:
        shape = layer_shapes.output_shape(node.class_name, node.config, [value.shape])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        shape = None
    if shape is None:
        assert value.shape is not None
        rank = len(value.shape)
        shape = tuple(int(ids.size) if i == axis else None for i in range(rank))
    return Value(shape, axis, ids)


def _dense(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    (value,) = values
    _plain_start(node)
    key, kernel = _key(node.config, "units", "output_dim"), channels.weight(node.path, "kernel")
    if len(kernel) != 2:
        raise Barrier(f"has a kernel of {len(kernel)} axes")
    channels.slot(node.path, "kernel", 0, _incoming(channels, node, value, "kernel", 0), "reads")
    ids = _made(channels, node, key, kernel[1])
    channels.slot(node.path, "kernel", 1, ids, "makes")
    if "bias" in channels.roles(node.path):
        channels.slot(node.path, "bias", 0, ids, "makes")
    if value.shape is None:
        return Value(None, -1, ids)
    return _output(node, value, len(value.shape) - 1, ids)


def _conv(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    (value,) = values
    config = node.config
    if config.get("groups", 1) != 1:
        raise Barrier("is a grouped convolution")
    _plain_start(node)
    place = _place(config, value)
    key, kernel = _key(config, "filters", "nb_filter"), channels.weight(node.path, "kernel")
    if len(kernel) < 3:
        raise Barrier(f"has a kernel of {len(kernel)} axes")
    inputs, outputs = len(kernel) - 2, len(kernel) - 1
    if "Transpose" in node.class_name or node.class_name.startswith("Deconvolution"):
        if "nb_filter" in config:
            raise Barrier("is a transposed convolution of Keras 1")
        inputs, outputs = outputs, inputs
    if "nb_filter" in config and config.get("dim_ordering") == "th":
        inputs, outputs = 1, 0
    read = _incoming(channels, node, value, "kernel", inputs)
    channels.slot(node.path, "kernel", inputs, read, "reads")
    ids = _made(channels, node, key, kernel[outputs])
    channels.slot(node.path, "kernel", outputs, ids, "makes")
    if "bias" in channels.roles(node.path):
        channels.slot(node.path, "bias", 0, ids, "makes")
    return _output(node, value, place, ids)


def _deep(channels: Channels, node: Node, value: Value, role: str) -> np.ndarray:
    """What comes out of the depthwise kernel: each channel as often as the multiplier says."""
    kernel = channels.weight(node.path, role)
    multiplier = integer(node.config.get("depth_multiplier", 1))
    if node.config.get("dim_ordering") == "th" or multiplier is None or len(kernel) < 3:
        raise Barrier("has a depthwise kernel of another layout")
    if kernel[-1] != multiplier:
        raise Barrier("has a depthwise kernel of another layout")
    ids = _incoming(channels, node, value, role, len(kernel) - 2)
    channels.slot(node.path, role, len(kernel) - 2, ids, "carries")
    return np.repeat(ids, multiplier)


def _depthwise(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    (value,) = values
    _plain_start(node)
    place = _place(node.config, value)
    roles = channels.roles(node.path)
    role = "depthwise_kernel" if "depthwise_kernel" in roles else "kernel"
    ids = _deep(channels, node, value, role)
    if activation(node.config) not in ELEMENTWISE:
        channels.pin(ids, f"{_name(node)} has an activation that joins them")
    if "bias" in roles:
        channels.slot(node.path, "bias", 0, ids, "carries")
    return _output(node, value, place, ids)


def _separable(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    (value,) = values
    _plain_start(node)
    place = _place(node.config, value)
    key = _key(node.config, "filters", "nb_filter")
    wide = channels.weight(node.path, "pointwise_kernel")
    between = _deep(channels, node, value, "depthwise_kernel")
    channels.slot(node.path, "pointwise_kernel", len(wide) - 2, between, "reads")
    ids = _made(channels, node, key, wide[-1])
    channels.slot(node.path, "pointwise_kernel", len(wide) - 1, ids, "makes")
    if "bias" in channels.roles(node.path):
        channels.slot(node.path, "bias", 0, ids, "makes")
    return _output(node, value, place, ids)


def _embedding(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    (value,) = values
    _plain_start(node)
    if value.shape is None:
        raise Barrier("has an input of unknown shape")
    channels.pin(value.ids, f"{_name(node)} looks them up")
    width = channels.weight(node.path, "embeddings")[1]
    ids = channels.new(width)
    channels.slot(node.path, "embeddings", 1, ids, "makes")
    channels.size(node.path, "output_dim", None, ids)
    return Value((*value.shape, width), len(value.shape), ids)


def _axis(config: Config, value: Value, default: int = -1) -> int:
    """The one axis that a configuration names, the batch axis not counted."""
    axis = config.get("axis", default)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if value.shape is None or not isinstance(axis, int) or isinstance(axis, bool):
        raise Barrier("names no single axis")
    rank = len(value.shape)
    if axis == 0 or not -rank <= axis <= rank:
        raise Barrier("names an axis that is not there")
    return axis - 1 if axis > 0 else axis + rank


def _norm(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Normalization with a weight a channel; over channels too, where it is of layers."""
    (value,) = values
    _plain_start(node)
    axis = _axis(node.config, value)
    if node.class_name.startswith("BatchNormalization") and node.config.get("mode", 0) != 0:
        raise Barrier("normalizes each sample by itself")
    roles = sorted(channels.roles(node.path))
    ids = at(channels, value, axis, f"{_name(node)} is over another axis")
    if ids is None:
        raise Barrier("has an input of unknown shape")
    for role in roles:
        if len(channels.weight(node.path, role)) == 1:
            channels.slot(node.path, role, 0, ids, "carries")
        else:
            channels.free(node.path, role)  # a single number, as of renorm
    return Value(value.shape, axis, ids)


def _prelu(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    (value,) = values
    _plain_start(node)
    shape = channels.weight(node.path, "alpha")
    if value.shape is None or value.ids is None or len(shape) != len(value.shape):
        raise Barrier("has an input of unknown shape")
    if shape[value.axis] == value.ids.size:
        channels.slot(node.path, "alpha", value.axis, value.ids, "carries")
    elif shape[value.axis] == 1:
        channels.free(node.path, "alpha")
    else:
        raise Barrier("has slopes that do not go with its input")
    return value


def _same(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    del channels, node
    return values[0]


def _activation(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    del channels
    if activation(node.config) not in ELEMENTWISE:
        raise Barrier("joins channels")
    return values[0]


def _softmax(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    del channels
    if _axis(node.config, values[0]) == values[0].axis:
        raise Barrier("joins channels")
    return values[0]


def _rescaling(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    del channels
    if not all(isinstance(node.config.get(k, 0), (int, float)) for k in ("scale", "offset")):
        raise Barrier("has a number for each channel in its configuration")
    return values[0]


def _spatial(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Pooling, padding, cropping, upsampling: all but the axis of channels."""
    (value,) = values
    axis = _place(node.config, value)
    ids = at(channels, value, axis, f"{_name(node)} works along their axis")
    if ids is None or value.shape is None:
        raise Barrier("has an input of unknown shape")
    shape = layer_shapes.output_shape(node.class_name, node.config, [value.shape])
    if shape is None:
        raise Barrier("has an output of unknown shape")
    if axis:
        axis = len(shape) - 1
    return Value(shape, axis, ids)


def _merge(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    name, config = node.class_name, node.config
    mode = config.get("mode") if name == "Merge" else name
    if mode in ("Concatenate", "concat"):
        return _concatenate(channels, node, values)
    if name == "Merge" and mode not in ("sum", "mul", "ave", "max"):
        raise Barrier("joins channels")
    shapes = [value.shape for value in values if value.shape is not None]
    if len(shapes) < len(values) or len({len(shape) for shape in shapes}) != 1:
        raise Barrier("has inputs of unknown or different shapes")
    shape = layer_shapes.output_shape(name, config, shapes)
    axis = next((v.axis for v in values if v.ids is not None and v.ids.any()), values[0].axis)
    if shape is None or shape[axis] is None:
        raise Barrier("has an output of unknown shape")
    return Value(shape, axis, _joined(channels, node, values, axis, shape[axis] or 0))


def _joined(
    channels: Channels, node: Node, values: Sequence[Value], axis: int, length: int
) -> np.ndarray:
    found: np.ndarray | None = None
    for value in values:
        ids = at(channels, value, axis, f"{_name(node)} joins them along another axis")
        if ids is None:
            raise Barrier("has an input of unknown shape")
        if ids.size != length:  # one channel for all
            channels.pin(ids, f"{_name(node)} repeats it over all channels of another")
        elif found is None:
            found = ids
        else:
            channels.join(found, ids)
    if found is None:
        raise Barrier("has inputs that do not go together")
    return found


def _concatenate(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    shapes = [value.shape for value in values]
    shape = layer_shapes.output_shape(node.class_name, node.config, shapes)
    if shape is None:
        raise Barrier("has inputs of unknown shape")
    key = "axis" if node.class_name != "Merge" else "concat_axis"
    along = _axis({"axis": node.config.get(key, -1)}, values[0])
    axis = next((v.axis for v in values if v.ids is not None and v.ids.any()), values[0].axis)
    if along != axis:
        length = shape[axis]
        if length is None:
            raise Barrier("has inputs of unknown shape")
        return Value(shape, axis, _joined(channels, node, values, axis, length))
    parts = [
        at(channels, value, axis, f"{_name(node)} joins them along another axis")
        for value in values
    ]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        raise Barrier("has inputs of unknown shape")
    return Value(shape, axis, np.concatenate(known))


def _places(value: Value) -> np.ndarray:
    """The channel of each value of one sample."""
    if value.shape is None or value.ids is None or None in value.shape:
        raise Barrier("has an input of unknown shape")
    shape = tuple(n or 0 for n in value.shape)
    if math.prod(shape) > MAX_VALUES:
        raise Barrier("has too large an input")
    along = [1] * len(shape)
    along[value.axis] = -1
    return np.broadcast_to(value.ids.reshape(along), shape)


def _placed(places: np.ndarray) -> tuple[int, np.ndarray]:
    """The one axis along which the channels of an array lie."""
    for axis in range(places.ndim - 1, -1, -1):
        line = np.moveaxis(places, axis, -1)
        first = line.reshape(-1, line.shape[-1])[0]
        if (line == first).all() and places.size:
            return axis, np.array(first)
    raise Barrier("mixes channels with other axes")


def _flatten(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    del channels
    places = _places(values[0])
    if _first(node.config) and places.ndim > 1:
        places = np.moveaxis(places, 0, -1)
    flat = np.ascontiguousarray(places).ravel()
    return Value((int(flat.size),), 0, flat)


def _reshape(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    places = _places(values[0])
    target = node.config.get("target_shape")
    if not isinstance(target, list) or not all(isinstance(n, int) for n in target):
        raise Barrier("has no target shape")
    try:
        places = places.reshape(target)
    except ValueError:
        raise Barrier("has a target shape that does not fit") from None
    axis, ids = _placed(places)
    if target[axis] != -1:
        channels.size(node.path, "target_shape", axis, ids)
    return Value(tuple(places.shape), axis, ids)


def _permute(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    del channels
    (value,) = values
    dims: Any = node.config.get("dims")
    if value.shape is None or not layer_shapes.permutes(dims, len(value.shape)):
        raise Barrier("has no plain list of axes")
    shape = tuple(value.shape[d - 1] for d in dims)
    return Value(shape, dims.index(value.axis % len(shape) + 1), value.ids)


def _repeat(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    del channels
    (value,) = values
    if value.shape is None or len(value.shape) != 1:
        raise Barrier("has an input of unknown shape")
    return Value((integer(get(node.config, "n")), *value.shape), 1, value.ids)


_GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}


def _recurrent(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Units of a recurrent layer: once in each gate, and as rows of the recurrent kernel."""
    config, path = node.config, node.path
    if len(values) != 1 or config.get("return_state") or config.get("stateful"):
        raise Barrier("passes its state on")
    if not {activation({"activation": config.get(key, "tanh")})
            for key in ("activation", "recurrent_activation")} <= ELEMENTWISE:  # fmt: skip
        raise Barrier("has an activation that joins units")
    (value,) = values
    if value.shape is None or len(value.shape) != 2:
        raise Barrier("has an input of unknown shape")
    _plain_start(node)
    gates, key = _GATES[node.class_name], _key(config, "units", "output_dim")
    units = channels.weight(path, "recurrent_kernel")[0]
    wide = channels.weight(path, "kernel")
    if len(wide) != 2 or wide[1] != gates * units:
        raise Barrier("has a kernel of another layout")
    read = at(channels, value, 1, f"{_name(node)} reads along another axis")
    read = np.zeros(wide[0], np.int64) if read is None else read
    if read.size != wide[0]:
        raise Barrier(f"reads {wide[0]} channels where {read.size} come in")
    channels.slot(path, "kernel", 0, read, "reads")
    ids = channels.new(units)
    channels.size(path, key, None, ids)
    each = np.tile(ids, gates)
    channels.slot(path, "recurrent_kernel", 0, ids, "reads")
    channels.slot(path, "kernel", 1, each, "makes")
    channels.slot(path, "recurrent_kernel", 1, each, "makes")
    if "bias" in channels.roles(path):
        channels.slot(path, "bias", len(channels.weight(path, "bias")) - 1, each, "makes")
    if config.get("return_sequences"):
        return Value((value.shape[0], units), 1, ids)
    return Value((units,), 0, ids)


_RULES: dict[str, Rule] = {
    "Dense": _dense,
    "Embedding": _embedding,
    "PReLU": _prelu,
    "Activation": _activation,
    "Softmax": _softmax,
    "Rescaling": _rescaling,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    **dict.fromkeys(_GATES, _recurrent),
    **dict.fromkeys(
        """ActivityRegularization AlphaDropout Dropout ELU GaussianDropout GaussianNoise Identity
        LeakyReLU ReLU SpatialDropout1D SpatialDropout2D SpatialDropout3D
        ThresholdedReLU""".split(),
        _same,
    ),
    **dict.fromkeys(
        "Add Average Maximum Minimum Multiply Subtract Merge Concatenate".split(), _merge
    ),
}
_PATTERNS: tuple[tuple[re.Pattern[str], Rule], ...] = (
    (re.compile(r"^(Atrous)?(Conv|Convolution)[123]D(Transpose)?$"), _conv),
    (re.compile(r"^DepthwiseConv(olution)?[12]D$"), _depthwise),
    (re.compile(r"^SeparableConv(olution)?[12]D$"), _separable),
    (re.compile(r"^(BatchNormalization(V1|V2)?|SyncBatchNormalization)$"), _norm),
    (re.compile(r"^(LayerNormalization|RMSNormalization)$"), _norm),
    (POOL, _spatial),
    (re.compile(r"^(ZeroPadding|Cropping|UpSampling)[123]D$"), _spatial),
)

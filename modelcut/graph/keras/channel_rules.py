"""What each of Keras' layer classes does with channels: makes, carries, reads or joins them.

A rule takes the layer and what goes into it and gives what comes out, and registers on the way
which axes of its weights belong to which channels. A class without a rule is a barrier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from modelcut.graph.keras import channel_moves, layer_shapes
from modelcut.graph.keras.channel_values import (
    ELEMENTWISE,
    Barrier,
    Channels,
    Rule,
    Value,
    activation,
    at,
    axis_of,
    place_of,
    title,
)
from modelcut.graph.keras.classes import POOL, Config, integer
from modelcut.graph.node import Node


def joins(rule: Rule) -> bool:
    """Whether a rule is of layers that take several inputs."""
    return rule is channel_moves.merge


def of(node: Node) -> Rule | None:
    """The rule of a layer's class; None where there is none."""
    name = node.class_name
    if node.is_operation:
        return None
    if name in _RULES:
        return _RULES[name]
    return next((rule for pattern, rule in _PATTERNS if pattern.match(name)), None)


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
        place = place_of(node.config, value)
    elif value.shape is not None:
        place = len(value.shape) - 1
    ids = at(channels, value, place, f"{title(node)} reads along another axis")
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
    place = place_of(config, value)
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
    place = place_of(node.config, value)
    roles = channels.roles(node.path)
    role = "depthwise_kernel" if "depthwise_kernel" in roles else "kernel"
    ids = _deep(channels, node, value, role)
    if activation(node.config) not in ELEMENTWISE:
        channels.pin(ids, f"{title(node)} has an activation that joins them")
    if "bias" in roles:
        channels.slot(node.path, "bias", 0, ids, "carries")
    return _output(node, value, place, ids)


def _separable(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    (value,) = values
    _plain_start(node)
    place = place_of(node.config, value)
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
    channels.pin(value.ids, f"{title(node)} looks them up")
    width = channels.weight(node.path, "embeddings")[1]
    ids = channels.new(width)
    channels.slot(node.path, "embeddings", 1, ids, "makes")
    channels.size(node.path, "output_dim", None, ids)
    return Value((*value.shape, width), len(value.shape), ids)


def _norm(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Normalization with a weight a channel; over channels too, where it is of layers."""
    (value,) = values
    _plain_start(node)
    axis = axis_of(node.config, value)
    if node.class_name.startswith("BatchNormalization") and node.config.get("mode", 0) != 0:
        raise Barrier("normalizes each sample by itself")
    roles = sorted(channels.roles(node.path))
    ids = at(channels, value, axis, f"{title(node)} is over another axis")
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
    read = at(channels, value, 1, f"{title(node)} reads along another axis")
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
    "Activation": channel_moves.activated,
    "Softmax": channel_moves.softmax,
    "Rescaling": channel_moves.rescaling,
    "Flatten": channel_moves.flatten,
    "Reshape": channel_moves.reshape,
    "Permute": channel_moves.permute,
    "RepeatVector": channel_moves.repeat,
    **dict.fromkeys(_GATES, _recurrent),
    **dict.fromkeys(
        """ActivityRegularization AlphaDropout Dropout ELU GaussianDropout GaussianNoise Identity
        LeakyReLU ReLU SpatialDropout1D SpatialDropout2D SpatialDropout3D
        ThresholdedReLU""".split(),
        channel_moves.same,
    ),
    **dict.fromkeys(
        "Add Average Maximum Minimum Multiply Subtract Merge Concatenate".split(),
        channel_moves.merge,
    ),
}
_PATTERNS: tuple[tuple[re.Pattern[str], Rule], ...] = (
    (re.compile(r"^(Atrous)?(Conv|Convolution)[123]D(Transpose)?$"), _conv),
    (re.compile(r"^DepthwiseConv(olution)?[12]D$"), _depthwise),
    (re.compile(r"^SeparableConv(olution)?[12]D$"), _separable),
    (re.compile(r"^(BatchNormalization(V1|V2)?|SyncBatchNormalization)$"), _norm),
    (re.compile(r"^(LayerNormalization|RMSNormalization)$"), _norm),
    (POOL, channel_moves.spatial),
    (re.compile(r"^(ZeroPadding|Cropping|UpSampling)[123]D$"), channel_moves.spatial),
)

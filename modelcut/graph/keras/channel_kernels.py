"""Rules of the layers with a kernel: dense, convolutions of every kind, embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from modelcut.graph.keras import layer_shapes
from modelcut.graph.keras.channel_values import (
    Barrier,
    Channels,
    Value,
    at,
    key_of,
    pin_joined,
    place_of,
    plain_start,
    ranked,
    title,
)
from modelcut.graph.keras.classes import Shape, integer
from modelcut.graph.node import Node


def incoming(channels: Channels, node: Node, value: Value, axis: int, length: int) -> np.ndarray:
    """The channels along an axis that a kernel reads; kept ones where they are not known."""
    ids = at(channels, value, axis, f"{title(node)} reads along another axis")
    if ids is None:
        return np.zeros(length, np.int64)
    if ids.size != length:
        raise Barrier(f"reads {length} channels where {ids.size} come in")
    return ids


def last(value: Value) -> int:
    """The last axis."""
    return -1 if value.shape is None else len(value.shape) - 1


def _made(channels: Channels, node: Node, key: str, count: int) -> np.ndarray:
    """The channels that a layer makes; kept where its activation joins them."""
    ids = pin_joined(channels, node, channels.new(count))
    channels.size(node.path, key, None, ids)
    return ids


def _biased(channels: Channels, node: Node, ids: np.ndarray, use: str = "makes") -> None:
    if "bias" in channels.roles(node.path):
        channels.slot(node.path, "bias", 0, ids, use)


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


def dense(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Dense`: reads the last axis, and makes it."""
    (value,) = values
    plain_start(node)
    key, kernel = key_of(node.config, "units", "output_dim"), channels.weight(node.path, "kernel")
    if len(kernel) != 2:
        raise Barrier(f"has a kernel of {len(kernel)} axes")
    read = incoming(channels, node, value, last(value), kernel[0])
    channels.slot(node.path, "kernel", 0, read, "reads")
    ids = _made(channels, node, key, kernel[1])
    channels.slot(node.path, "kernel", 1, ids, "makes")
    _biased(channels, node, ids)
    if value.shape is None:
        return Value(None, -1, ids)
    return _output(node, value, last(value), ids)


def conv(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Convolutions, transposed and grouped ones too."""
    config, kernel = node.config, channels.weight(node.path, "kernel")
    plain_start(node)
    if len(kernel) < 3:
        raise Barrier(f"has a kernel of {len(kernel)} axes")
    value = ranked(values[0], _rank(node))
    place, key = place_of(config, value), key_of(config, "filters", "nb_filter")
    inputs, outputs = len(kernel) - 2, len(kernel) - 1
    if "Transpose" in node.class_name or node.class_name.startswith("Deconvolution"):
        if "nb_filter" in config:
            raise Barrier("is a transposed convolution of Keras 1")
        inputs, outputs = outputs, inputs
    if "nb_filter" in config and config.get("dim_ordering") == "th":
        inputs, outputs = 1, 0
    groups = integer(config.get("groups", 1))
    if groups is None or groups < 1 or kernel[outputs] % groups:
        raise Barrier("has groups that do not divide its filters")
    read = incoming(channels, node, value, place, kernel[inputs] * groups)
    if groups > 1:
        return _grouped(channels, node, value, place, read, groups)
    channels.slot(node.path, "kernel", inputs, read, "reads")
    ids = _made(channels, node, key, kernel[outputs])
    channels.slot(node.path, "kernel", outputs, ids, "makes")
    _biased(channels, node, ids)
    return _output(node, value, place, ids)


def _rank(node: Node) -> int:
    """How many axes, channels among them, the class name says that goes in."""
    found = re.search(r"([123])D", node.class_name)
    return int(found[1]) + 1 if found else 0


def _grouped(
    channels: Channels, node: Node, value: Value, place: int, read: np.ndarray, groups: int
) -> Value:
    """A convolution whose groups keep to one size.

    Either whole groups are removed, with all that goes into them and comes out, or the same
    channels of every group: whatever leaves the finer choice.
    """
    kernel = channels.weight(node.path, "kernel")
    wide, key = len(kernel) - 1, key_of(node.config, "filters")
    each, made = kernel[wide - 1], kernel[wide] // groups
    why = f"{title(node)} keeps all its groups at one size"
    if "Transpose" in node.class_name:
        raise Barrier("is a transposed convolution with groups")
    if groups >= each:
        first = read[::each].copy()
        for number in range(1, each):
            channels.join(first, read[number::each], why)
        ids = pin_joined(channels, node, np.repeat(first, made))
        channels.free(node.path, "kernel")
        channels.size(node.path, "groups", None, first)
        channels.size(node.path, key, None, ids)
        use = "carries"
    else:
        for number in range(1, groups):
            channels.join(read[:each], read[number * each :][:each], why)
        channels.slot(node.path, "kernel", wide - 1, read[:each].copy(), "reads")
        ids = _made(channels, node, key, made * groups)
        for number in range(1, groups):
            channels.join(ids[:made], ids[number * made :][:made], why)
        use = "makes"
    channels.slot(node.path, "kernel", wide, ids, use)
    _biased(channels, node, ids, use)
    return _output(node, value, place, ids)


def _deep(channels: Channels, node: Node, value: Value, role: str) -> np.ndarray:
    """What comes out of the depthwise kernel: each channel as often as the multiplier says."""
    kernel = channels.weight(node.path, role)
    multiplier = integer(node.config.get("depth_multiplier", 1))
    if node.config.get("dim_ordering") == "th" or multiplier is None or len(kernel) < 3:
        raise Barrier("has a depthwise kernel of another layout")
    if kernel[-1] != multiplier:
        raise Barrier("has a depthwise kernel of another layout")
    axis = len(kernel) - 2
    ids = incoming(channels, node, value, place_of(node.config, value), kernel[axis])
    channels.slot(node.path, role, axis, ids, "carries")
    return np.repeat(ids, multiplier)


def depthwise(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Depthwise convolutions: each channel by itself."""
    value = ranked(values[0], _rank(node))
    plain_start(node)
    roles = channels.roles(node.path)
    role = "depthwise_kernel" if "depthwise_kernel" in roles else "kernel"
    ids = pin_joined(channels, node, _deep(channels, node, value, role))
    _biased(channels, node, ids, "carries")
    return _output(node, value, place_of(node.config, value), ids)


def separable(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """A depthwise convolution, and one of kernel size 1 after it."""
    value = ranked(values[0], _rank(node))
    plain_start(node)
    key = key_of(node.config, "filters", "nb_filter")
    wide = channels.weight(node.path, "pointwise_kernel")
    between = _deep(channels, node, value, "depthwise_kernel")
    channels.slot(node.path, "pointwise_kernel", len(wide) - 2, between, "reads")
    ids = _made(channels, node, key, wide[-1])
    channels.slot(node.path, "pointwise_kernel", len(wide) - 1, ids, "makes")
    _biased(channels, node, ids)
    return _output(node, value, place_of(node.config, value), ids)


def embedding(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Embedding`: the width is of channels."""
    (value,) = values
    plain_start(node)
    if value.shape is None:
        raise Barrier("has an input of unknown shape")
    channels.pin(value.ids, f"{title(node)} looks them up")
    width = channels.weight(node.path, "embeddings")[1]
    ids = channels.new(width)
    channels.slot(node.path, "embeddings", 1, ids, "makes")
    channels.size(node.path, "output_dim", None, ids)
    return Value((*value.shape, width), len(value.shape), ids)


_EINSUM = re.compile(r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?")


def einsum(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`EinsumDense`: of the axes that it makes, the last one is of channels."""
    (value,) = values
    plain_start(node)
    path, config = node.path, node.config
    found = _EINSUM.fullmatch(str(config.get("equation")).replace(" ", ""))
    if found is None or value.shape is None:
        raise Barrier("has an equation that is not known")
    left, right = bool(found[1]), bool(found[3])
    if (left, right) != (bool(found[5]), bool(found[7])) or (left and right):
        raise Barrier("has an equation that is not known")
    given, kernel, made = found[2], found[4], found[6]
    if any(len(set(labels)) != len(labels) for labels in (given, kernel, made)):
        raise Barrier("has an equation with a diagonal")
    # The batch axis is among the axes of the equation; so is whatever the dots stand for.
    extra = len(value.shape) + 1 - len(given)
    if extra < 0 or (extra and not (left or right)):
        raise Barrier("has an equation for another number of axes")
    dots = "".join(chr(0x2460 + n) for n in range(extra))
    given, whole = (dots + given, dots + made) if left else (given + dots, made + dots)
    if given[0] != whole[0] or given[0] in kernel:
        raise Barrier("mixes samples")
    if any(label not in whole and label not in kernel for label in given):
        raise Barrier("sums over an axis")
    label = given[value.axis + 1] if value.alive else ""
    if label in kernel and label:
        use = "carries" if label in whole else "reads"
        assert value.ids is not None
        channels.slot(path, "kernel", kernel.index(label), value.ids, use)
    shape = _einsum_shape(channels, node, value, (given, kernel, whole))
    new = [one for one in whole if one in kernel and one not in given]
    if label and label in whole:
        axis, ids = whole.index(label) - 1, value.ids
    elif not new:
        return Value(shape)
    else:
        axis = whole.index(new[-1]) - 1
        ids = channels.new(shape[axis] or 0)
        channels.slot(path, "kernel", kernel.index(new[-1]), ids, "makes")
        label = new[-1]
    assert ids is not None
    pin_joined(channels, node, ids)
    channels.free(path, "kernel")
    if label in made:
        _einsum_sizes(channels, node, made, label, ids, dotted=left)
    if "bias" in channels.roles(path):
        channels.free(path, "bias")
    return Value(shape, axis, ids)


def _einsum_shape(
    channels: Channels, node: Node, value: Value, labels: tuple[str, str, str]
) -> Shape:
    assert value.shape is not None
    given, kernel, whole = labels
    weight = channels.weight(node.path, "kernel")
    if len(weight) != len(kernel):
        raise Barrier("has a kernel of another shape than its equation")
    sizes: dict[str, int | None] = dict(zip(given, (None, *value.shape), strict=True))
    sizes |= dict(zip(kernel, weight, strict=True))
    return tuple(sizes.get(label) for label in whole[1:])


def _einsum_sizes(
    channels: Channels, node: Node, made: str, label: str, ids: np.ndarray, *, dotted: bool
) -> None:
    """The bias, and the number in `output_shape`, which leaves out the batch and the dots."""
    path, config = node.path, node.config
    said, axes = config.get("output_shape"), config.get("bias_axes") or ""
    place = made.index(label) - (not dotted)
    if isinstance(said, list) and place < len(said):
        if said[place] is not None:
            channels.size(path, "output_shape", place, ids)
    elif isinstance(said, int) and place == 0:
        channels.size(path, "output_shape", None, ids)
    else:
        raise Barrier("has an output_shape that does not go with its equation")
    if "bias" in channels.roles(path) and label in axes:
        first = min(made.index(one) for one in axes)
        channels.slot(path, "bias", made.index(label) - first, ids, "makes")

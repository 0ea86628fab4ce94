"""Rules of the layers without weights: what becomes of the channels that go in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelcut.graph.keras import layer_shapes
from modelcut.graph.keras.channel_values import (
    ELEMENTWISE,
    MAX_VALUES,
    Barrier,
    Channels,
    Value,
    activation,
    at,
    axis_of,
    channels_first,
    place_of,
    ranked,
    title,
)
from modelcut.graph.keras.classes import Shape, get, integer
from modelcut.graph.node import Node

_SLOPES = ("alpha", "negative_slope", "theta", "threshold", "max_value")
_RANK = re.compile(r"([123])D")


def same(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """All values by themselves: the channels that go in come out."""
    del channels
    for key in _SLOPES:
        said = node.config.get(key)
        while isinstance(said, dict):  # a number as NumPy has it
            said = said.get("value", (said.get("config") or {}).get("value", []))
        if isinstance(said, list):
            raise Barrier("has a number for each channel in its configuration")
    return values[0]


def activated(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Activation`: as `same`, where the function treats each value by itself."""
    del channels
    if activation(node.config) not in ELEMENTWISE:
        raise Barrier("joins channels")
    return values[0]


def softmax(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Softmax`: over another axis than that of the channels."""
    del channels
    if axis_of(node.config, values[0]) == values[0].axis:
        raise Barrier("joins channels")
    return values[0]


def rescaling(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Rescaling` by one number for all channels."""
    del channels
    if not all(isinstance(node.config.get(k, 0), (int, float)) for k in ("scale", "offset")):
        raise Barrier("has a number for each channel in its configuration")
    return values[0]


def spatial(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Pooling, padding, cropping, upsampling: all but the axis of channels."""
    found = _RANK.search(node.class_name)
    value = ranked(values[0], int(found[1]) + 1 if found else 3)
    axis = place_of(node.config, value)
    ids = at(channels, value, axis, f"{title(node)} works along their axis")
    if ids is None or value.shape is None:
        raise Barrier("has an input of unknown shape")
    shape = layer_shapes.output_shape(node.class_name, node.config, [value.shape])
    if shape is None:
        raise Barrier("has an output of unknown shape")
    if axis:
        axis = len(shape) - 1
    return Value(shape, axis, ids)


def merge(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """The layers of several inputs: channels are joined index by index, or put in a row."""
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
    return joined(channels, node, values, shape)


def joined(channels: Channels, node: Node, values: Sequence[Value], shape: Shape | None) -> Value:
    """What comes out where values are joined one by one, after broadcasting to a shape."""
    axis = _axis_of_channels(values)
    if shape is None or shape[axis] is None:
        raise Barrier("has an output of unknown shape")
    return Value(shape, axis, _joined(channels, node, values, axis, shape[axis] or 0))


def _axis_of_channels(values: Sequence[Value]) -> int:
    """Where channels lie, if they do anywhere."""
    return next((value.axis for value in values if value.alive), values[0].axis)


def _joined(
    channels: Channels, node: Node, values: Sequence[Value], axis: int, length: int
) -> np.ndarray:
    found: np.ndarray | None = None
    for value in values:
        ids = at(channels, value, axis, f"{title(node)} joins them along another axis")
        if ids is None:
            raise Barrier("has an input of unknown shape")
        if ids.size != length:  # one channel for all
            channels.pin(ids, f"{title(node)} repeats it over all channels of another")
        elif found is None:
            found = ids
        else:
            channels.join(found, ids, f"{title(node)} joins them with channels that are kept")
    if found is None:
        raise Barrier("has inputs that do not go together")
    return found


def _concatenate(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    shapes = [value.shape for value in values]
    shape = layer_shapes.output_shape(node.class_name, node.config, shapes)
    if shape is None:
        raise Barrier("has inputs of unknown shape")
    key = "axis" if node.class_name != "Merge" else "concat_axis"
    along = axis_of({"axis": node.config.get(key, -1)}, values[0])
    return in_a_row(channels, node, values, shape, along)


def in_a_row(
    channels: Channels, node: Node, values: Sequence[Value], shape: Shape, along: int
) -> Value:
    """What comes out where values are put one after the other along an axis."""
    axis = _axis_of_channels(values)
    if along != axis:
        length = shape[axis]
        if length is None:
            raise Barrier("has inputs of unknown shape")
        return Value(shape, axis, _joined(channels, node, values, axis, length))
    parts = [
        at(channels, value, axis, f"{title(node)} joins them along another axis")
        for value in values
    ]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        raise Barrier("has inputs of unknown shape")
    if sum(part.size for part in known) > MAX_VALUES:
        raise Barrier("has too many channels")
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


def flatten(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Flatten`: each channel once for each position."""
    del channels
    places = _places(values[0])
    if channels_first(node.config) and places.ndim > 1:
        places = np.moveaxis(places, 0, -1)
    flat = np.ascontiguousarray(places).ravel()
    return Value((int(flat.size),), 0, flat)


def reshape(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Reshape`: channels that lie along one axis afterwards, too."""
    result, said = reshaped(values[0], node.config.get("target_shape"))
    if said and result.ids is not None:
        channels.size(node.path, "target_shape", result.axis, result.ids)
    return result


def reshaped(value: Value, target: Any) -> tuple[Value, bool]:
    """A tensor with its values in another shape, and whether that says the number of channels."""
    if not isinstance(target, list) or not all(isinstance(n, int) and n >= -1 for n in target):
        raise Barrier("has no target shape")
    ids, shape = value.ids, value.shape
    if shape and ids is not None and value.axis == len(shape) - 1 and target[-1:] == [ids.size]:
        found = tuple(None if n == -1 else n for n in target)  # channels stay the last axis
        if None not in shape and target.count(-1) == 1:
            rest = math.prod(n for n in target if n != -1)
            whole = math.prod(n or 0 for n in shape)
            if not rest or whole % rest:
                raise Barrier("has a target shape that does not fit")
            found = tuple(whole // rest if n == -1 else n for n in target)
        return Value(found, len(found) - 1, ids), True
    places = _places(value)
    try:
        places = places.reshape(target)
    except ValueError:
        raise Barrier("has a target shape that does not fit") from None
    axis, ids = _placed(places)
    return Value(tuple(places.shape), axis, ids), target[axis] != -1


def resized(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Resizing` and `CenterCrop`: of images, height and width alone."""
    value = ranked(values[0], 3)
    axis = place_of(node.config, value)
    ids = at(channels, value, axis, f"{title(node)} works along their axis")
    if ids is None or value.shape is None or len(value.shape) != 3:
        raise Barrier("has an input of unknown shape")
    size = (integer(node.config.get("height")), integer(node.config.get("width")))
    return Value((value.shape[0], *size) if axis == 0 else (*size, value.shape[-1]), axis, ids)


def permute(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`Permute`: the axis of the channels moves."""
    del channels
    (value,) = values
    dims: Any = node.config.get("dims")
    if value.shape is None or not layer_shapes.permutes(dims, len(value.shape)):
        raise Barrier("has no plain list of axes")
    shape = tuple(value.shape[d - 1] for d in dims)
    return Value(shape, dims.index(value.axis % len(shape) + 1), value.ids)


def repeat(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`RepeatVector`: a new first axis."""
    del channels
    (value,) = values
    if value.shape is None or len(value.shape) != 1:
        raise Barrier("has an input of unknown shape")
    return Value((integer(get(node.config, "n")), *value.shape), 1, value.ids)

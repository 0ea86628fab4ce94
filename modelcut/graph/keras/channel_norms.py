"""Rules of normalization, and of layers with a number for each channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelcut.graph.keras.channel_values import (
    Barrier,
    Channels,
    Value,
    at,
    axis_of,
    plain_start,
    title,
)
from modelcut.graph.keras.classes import integer
from modelcut.graph.node import Node


def _along(channels: Channels, node: Node, value: Value, axis: int) -> np.ndarray:
    ids = at(channels, value, axis, f"{title(node)} is over another axis")
    if ids is None:
        raise Barrier("has an input of unknown shape")
    for role in sorted(channels.roles(node.path)):
        if len(channels.weight(node.path, role)) == 1:
            channels.slot(node.path, role, 0, ids, "carries")
        else:
            channels.free(node.path, role)  # a single number, as of renorm
    return ids


def batch(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Batch normalization: each channel by itself."""
    (value,) = values
    plain_start(node)
    if value.shape is None and node.config.get("axis", -1) == -1:
        return Value(None, -1, _along(channels, node, value, -1))
    axis = axis_of(node.config, value)
    if node.config.get("mode", 0) != 0:
        raise Barrier("normalizes each sample by itself")
    return Value(value.shape, axis, _along(channels, node, value, axis))


def layer(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Layer and RMS normalization: over the channels that are left."""
    (value,) = values
    plain_start(node)
    axis = axis_of(node.config, value)
    ids = _along(channels, node, value, axis)
    channels.mixes(node.path, ids)
    return Value(value.shape, axis, ids)


def group(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """Group normalization: whole groups are removed, so that the others stay what they are."""
    (value,) = values
    plain_start(node)
    axis, groups = axis_of(node.config, value), node.config.get("groups", 32)
    ids = _along(channels, node, value, axis)
    if groups == -1:
        return Value(value.shape, axis, ids)
    number = integer(groups)
    if not number or ids.size % number:
        raise Barrier("has groups that do not divide its channels")
    if number == 1:
        channels.mixes(node.path, ids)
        return Value(value.shape, axis, ids)
    each = ids.size // number
    why = f"{title(node)} keeps all its groups at one size"
    first = ids[::each].copy()
    for place in range(1, each):
        channels.join(first, ids[place::each], why)
    channels.size(node.path, "groups", None, first)
    return Value(value.shape, axis, ids)


def prelu(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`PReLU`: a slope for each channel, or for all."""
    (value,) = values
    plain_start(node)
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


def layer_scale(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`LayerScale` of ConvNeXt: a factor for each channel of the last axis."""
    (value,) = values
    if value.shape is None:
        raise Barrier("has an input of unknown shape")
    axis = len(value.shape) - 1
    ids = _along(channels, node, value, axis)
    channels.size(node.path, "projection_dim", None, ids)
    return Value(value.shape, axis, ids)

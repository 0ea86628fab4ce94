"""The rule of functions called as layers: Keras 3's operations, tf_keras' TensorFlow functions.

One that is not in the tables of `functions` is a barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from modelcut.graph.keras import channel_moves
from modelcut.graph.keras.arguments import Arguments, Given, of_call
from modelcut.graph.keras.channel_values import (
    MAX_VALUES,
    Barrier,
    Channels,
    Value,
    at,
    title,
    whole_axis,
)
from modelcut.graph.keras.classes import Shape
from modelcut.graph.keras.functions import OF_KERAS, OF_TENSORFLOW, PLACES, TENSORFLOW
from modelcut.graph.node import Node


def shapes(node: Node, sources: Sequence[Shape | None], call: Any) -> list[Shape | None]:
    """Shapes of what a function gives, without the batch axis, as far as they can be told.

    Args:
        node: of the layer that calls it.
        sources: the shapes of what goes in.
        call: the call, as the file has it.
    """
    values = [Value(None) if shape is None else _kept(shape) for shape in sources]
    try:
        found = operation(cast("Channels", _Unfollowed(call)), node, values)
    except (Barrier, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return [None]
    return [value.shape for value in (found if isinstance(found, list) else [found])]


@dataclass(frozen=True)
class _Unfollowed:
    """What the rule of functions asks, where only shapes are wanted."""

    call: Any

    def _nothing(self, *_: Any) -> None:
        """Nothing is kept, joined or counted."""

    pin = join = size = argument = _nothing


@dataclass(frozen=True)
class _Called:
    """One call of a function.

    Attributes:
        name: of the function or class.
        node: of the layer.
        given: its arguments.
        values: all tensors among them.
    """

    name: str
    node: Node
    given: Arguments
    values: Sequence[Value]

    def said(self, *names: str) -> Any:
        """The first of these arguments that is there, in the call or in the configuration."""
        places = PLACES.get(self.name, ())
        for name in names:
            if name in self.given.kwargs:
                return self.given.kwargs[name]
            if name in self.node.config:
                return self.node.config[name]
            if name in places and places.index(name) < len(self.given.args):
                return self.given.args[places.index(name)]
        return None

    @property
    def first(self) -> Value:
        """The one tensor of a function of one, of known rank."""
        if len(self.values) != 1 or self.values[0].shape is None:
            raise Barrier("has inputs that are not known")
        return self.values[0]

    def axis(self, said: Any, rank: int) -> int:
        """An axis of the sample that an argument names."""
        if isinstance(said, bool) or not isinstance(said, int):
            raise Barrier("names no single axis")
        return whole_axis(said, rank)


def operation(channels: Channels, node: Node, values: Sequence[Value]) -> Value | list[Value]:
    """A function called as a layer."""
    if channels.call is None:
        raise Barrier("is called in an unknown way")
    if node.class_name in TENSORFLOW:
        name, kinds = node.config.get("function"), OF_TENSORFLOW
    else:
        name, kinds = node.class_name, OF_KERAS
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        shown = name if isinstance(name, str) and name != node.class_name else ""
        raise Barrier(f"is a function {shown} whose channels are not followed".replace("  ", " "))
    return _BY_KIND[kind](channels, _Called(name, node, of_call(channels.call), values))


_OF_LAYERS = frozenset(("dtype", "build_config"))
"""What a configuration says of any layer."""


def _plain(value: Any) -> bool:
    """Whether an argument is one number, a text or nothing."""
    return value is None or isinstance(value, (int, float, str, bool))


def _each(channels: Channels, call: _Called) -> Value:
    """Each value by itself, with plain numbers as further arguments."""
    del channels
    if len(call.values) != 1:
        raise Barrier("has inputs that are not known")
    more = (value for key, value in call.node.config.items() if key not in _OF_LAYERS)
    rest = [*call.given.args, *call.given.kwargs.values(), *more]
    if not all(_plain(item) or isinstance(item, Given) for item in rest):
        raise Barrier("has an argument that is not a plain number")
    return call.values[0]


def _pair(channels: Channels, call: _Called) -> Value:
    """Two tensors value by value, or one and a plain number."""
    if len(call.values) == 1:
        return _each(channels, call)
    shapes = [value.shape for value in call.values]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != 2 or len(shapes) != 2 or len(known[0]) != len(known[1]):
        raise Barrier("has inputs of unknown or different shapes")
    shape = tuple(_broadcast(*sizes) for sizes in zip(*known, strict=True))
    return channel_moves.joined(channels, call.node, call.values, shape)


def _broadcast(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        found = other if one is None else one
        return found if found != 1 else None
    if one != other and 1 not in (one, other):
        raise Barrier("has inputs that do not go together")
    return max(one, other)


def _reduce(channels: Channels, call: _Called) -> Value:
    """A mean, sum, … over other axes than those of the batch and the channels."""
    del channels
    value, said = call.first, call.said("axis")
    assert value.shape is not None
    rank = len(value.shape)
    axes = {call.axis(one, rank) for one in (said if isinstance(said, list) else [said])}
    if value.alive and value.axis % rank in axes:
        raise Barrier("joins channels")
    keep = call.said("keepdims") is True
    return _without(value, axes, keep=keep)


def _without(value: Value, axes: set[int], *, keep: bool = False) -> Value:
    """Without some axes, which are not of channels; or with length 1 there."""
    assert value.shape is not None
    rank = len(value.shape)
    place = value.axis % rank if rank else -1
    if keep:
        shape: Shape = tuple(1 if n in axes else size for n, size in enumerate(value.shape))
    else:
        shape = tuple(size for n, size in enumerate(value.shape) if n not in axes)
    if value.ids is None or place in axes:
        return _kept(shape)
    return Value(shape, place if keep else place - sum(n < place for n in axes), value.ids)


def _kept(shape: Shape) -> Value:
    """A tensor of which all is kept."""
    length = shape[-1] if shape else None
    if length is None or not 0 <= length <= MAX_VALUES:
        return Value(shape)
    return Value(shape, len(shape) - 1, np.zeros(length, np.int64))


def _softmax(channels: Channels, call: _Called) -> Value:
    del channels
    value, said = call.first, call.said("axis")
    assert value.shape is not None
    along = call.axis(-1 if said is None else said, len(value.shape))
    if value.alive and along == value.axis % len(value.shape):
        raise Barrier("joins channels")
    return value


def _reshape(channels: Channels, call: _Called) -> Value:
    """Of each sample by itself: the batch axis is -1, and all others are numbers."""
    said = call.said("newshape", "shape")
    if not isinstance(said, list) or len(said) < 2 or said[0] not in (-1, None) or -1 in said[1:]:
        raise Barrier("has a target shape that may mix samples")
    value = call.first
    result, told = channel_moves.reshaped(value, said[1:])
    before, after = _count(value.shape), _count(result.shape)
    if before is None or before != after:
        raise Barrier("has a target shape that may mix samples")
    if told and result.alive:
        assert result.ids is not None
        if "newshape" in call.node.config:
            channels.size(call.node.path, "newshape", result.axis + 1, result.ids)
        elif "shape" in call.given.kwargs:
            channels.argument(call.node.path, "shape", result.axis + 1, result.ids)
        else:
            raise Barrier("has a target shape that cannot follow")
    return result


def _count(shape: Shape | None) -> int | None:
    if shape is None or None in shape:
        return None
    total = 1
    for size in shape:
        total *= size or 0
    return total


def _transpose(channels: Channels, call: _Called) -> Value:
    del channels
    value, order = call.first, call.said("axes", "perm")
    assert value.shape is not None
    rank = len(value.shape)
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(rank + 1))):
        raise Barrier("has no plain list of axes")
    if order[0] != 0:
        raise Barrier("moves the batch axis")
    shape = tuple(value.shape[one - 1] for one in order[1:])
    return Value(shape, order.index(value.axis % rank + 1) - 1, value.ids)


def _concatenate(channels: Channels, call: _Called) -> Value:
    shapes = [value.shape for value in call.values if value.shape is not None]
    if len(shapes) < len(call.values) or len({len(shape) for shape in shapes}) != 1:
        raise Barrier("has inputs of unknown or different shapes")
    args = [*call.given.args, *call.given.kwargs.values()]
    tensors = args[0] if args else None
    if not isinstance(tensors, list) or not all(isinstance(one, Given) for one in tensors):
        raise Barrier("has inputs that are not tensors")
    along = call.axis(call.said("axis"), len(shapes[0]))
    sizes = [shape[along] for shape in shapes]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    shape = tuple(
        total if n == along else next((one for one in each if one is not None), None)
        for n, each in enumerate(zip(*shapes, strict=True))
    )
    return channel_moves.in_a_row(channels, call.node, call.values, shape, along)


def _expand(channels: Channels, call: _Called) -> Value:
    del channels
    value, said = call.first, call.said("axis")
    assert value.shape is not None
    new = call.axis(said, len(value.shape) + 1)
    shape = (*value.shape[:new], 1, *value.shape[new:])
    place = value.axis % len(value.shape)
    return Value(shape, place + (new <= place), value.ids)


def _squeeze(channels: Channels, call: _Called) -> Value:
    value, said = call.first, call.said("axis")
    assert value.shape is not None
    rank = len(value.shape)
    axes = {call.axis(one, rank) for one in (said if isinstance(said, list) else [said])}
    if value.axis % rank in axes:
        channels.pin(value.ids, f"{title(call.node)} drops their axis")
    return _without(value, axes)


def _split(channels: Channels, call: _Called) -> list[Value]:
    """Into equal parts; along the axis of channels, all parts lose the same ones."""
    value = call.first
    count, said = call.said("indices_or_sections", "num_or_size_splits"), call.said("axis")
    assert value.shape is not None
    along = call.axis(said, len(value.shape))
    size = value.shape[along]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1 or size is None:
        raise Barrier("splits into parts of different sizes")
    if size % count or count > 1000:
        raise Barrier("splits into parts of different sizes")
    each = size // count
    shape = tuple(each if n == along else one for n, one in enumerate(value.shape))
    if value.ids is None or value.axis % len(value.shape) != along:
        return [Value(shape, value.axis, value.ids)] * count
    parts = [value.ids[n * each :][:each] for n in range(count)]
    for part in parts[1:]:
        channels.join(parts[0], part, f"{title(call.node)} splits them from others that are kept")
    return [Value(shape, along, part) for part in parts]


def _slice(channels: Channels, call: _Called) -> Value:
    """Parts of other axes than those of the batch and the channels."""
    value, said = call.first, call.said("slice_spec", "key")
    assert value.shape is not None
    items = said if isinstance(said, list) else [said]
    whole = slice(None, None, None)
    if len(items) > len(value.shape) + 1 or not items or items[0] != whole:
        raise Barrier("takes a part of the batch, or in an unknown way")
    rank, sizes, gone = len(value.shape), list(value.shape), set()
    for axis, item in enumerate(items[1:]):
        if item == whole:
            continue
        if value.alive and axis == value.axis % rank:
            channels.pin(value.ids, f"{title(call.node)} takes some of them by number")
            value = Value(value.shape)
        if isinstance(item, int) and not isinstance(item, bool):
            gone.add(axis)
        elif isinstance(item, slice) and all(_plain(x) for x in (item.start, item.stop, item.step)):
            size = sizes[axis]
            sizes[axis] = None if size is None else len(range(size)[item])
        else:
            raise Barrier("takes a part in an unknown way")
    result = Value(tuple(sizes), value.axis, value.ids)
    if result.ids is not None and result.ids.size != sizes[result.axis]:
        result = _kept(tuple(sizes))
    return _without(result, gone)


def _resize(channels: Channels, call: _Called) -> Value:
    """Of images with the channels last."""
    value, size = call.first, call.said("size")
    if value.shape is None or len(value.shape) != 3 or not isinstance(size, list):
        raise Barrier("has an input or a size that is not known")
    if call.said("data_format") == "channels_first" or call.said("preserve_aspect_ratio"):
        raise Barrier("resizes in another way")
    ids = at(channels, value, 2, f"{title(call.node)} works along their axis")
    height, width = (n if isinstance(n, int) else None for n in size)
    return Value((height, width, value.shape[2]), 2, ids)


def _pad(channels: Channels, call: _Called) -> Value:
    value, said = call.first, call.said("paddings", "pad_width")
    assert value.shape is not None
    rank = len(value.shape)
    if not isinstance(said, list) or len(said) != rank + 1 or said[0] != [0, 0]:
        raise Barrier("pads in an unknown way")
    sizes: list[int | None] = []
    for axis, (pair, size) in enumerate(zip(said[1:], value.shape, strict=True)):
        before, after = pair
        if before + after and axis == value.axis % rank and value.alive:
            channels.pin(value.ids, f"{title(call.node)} adds others to them")
            value = Value(value.shape)
        sizes.append(None if size is None else size + before + after)
    shape = tuple(sizes)
    if value.ids is None or value.ids.size != shape[value.axis]:
        return _kept(shape)
    return Value(shape, value.axis, value.ids)


_BY_KIND: dict[str, Callable[[Channels, _Called], Value | list[Value]]] = {
    "each": _each,
    "pair": _pair,
    "reduce": _reduce,
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "expand": _expand,
    "squeeze": _squeeze,
    "split": _split,
    "slice": _slice,
    "resize": _resize,
    "pad": _pad,
}

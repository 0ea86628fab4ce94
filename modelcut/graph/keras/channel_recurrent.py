"""Rules of recurrent layers and their cells, and of the layers that hold another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelcut.graph.keras import calls, layer_shapes
from modelcut.graph.keras.channel_values import (
    ELEMENTWISE,
    Barrier,
    Channels,
    Rule,
    Value,
    activation,
    at,
    channels_first,
    key_of,
    plain_start,
    title,
)
from modelcut.graph.node import Node

GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}
"""The layers of cuDNN are not among them: their kernels hold the gates in another layout."""

_STATES = {"SimpleRNN": 1, "LSTM": 2, "GRU": 1}
_INPUTS = frozenset(("", "sequences", "sequence", "inputs", "initial_state", "mask"))
"""Arguments of a call that may be tensors; "" for one by its place."""


def recurrent(channels: Channels, node: Node, values: Sequence[Value]) -> Value | list[Value]:
    """Units of a recurrent layer: once in each gate, and as rows of the recurrent kernel."""
    first, states = _given(channels, values)
    _sequence(node, first)
    ids = _cell(channels, node, first, node.class_name)
    return _passed(channels, node, first, [ids] * _STATES[node.class_name], states)


def _given(channels: Channels, values: Sequence[Value]) -> tuple[Value, list[Value]]:
    """The sequence, and the states that are passed in."""
    if len(values) == 1:
        return values[0], []
    names = calls.keywords(channels.call)
    if len(names) != len(values) or not set(names) <= _INPUTS:
        raise Barrier("has inputs that are not known")
    states = []
    for name, value in zip(names[1:], values[1:], strict=True):
        if name == "mask":
            channels.pin(value.ids, "a mask is made of them")
        else:
            states.append(value)
    return values[0], states


def _sequence(node: Node, value: Value) -> None:
    if node.config.get("stateful") or node.config.get("time_major"):
        raise Barrier("keeps its state from one batch to the next, or takes time first")
    if value.shape is None:
        raise Barrier("has an input of unknown shape")


def _cell(channels: Channels, node: Node, value: Value, kind: str) -> np.ndarray:
    """The units of one cell, whose kernels are registered; `value` is what it reads."""
    config, path = node.config, node.path
    names = ("activation", "recurrent_activation")
    if not {activation({"activation": config.get(k, "tanh")}) for k in names} <= ELEMENTWISE:
        raise Barrier("has an activation that joins units")
    if value.shape is None:
        raise Barrier("has an input of unknown shape")
    plain_start(node)
    gates, key = GATES[kind], key_of(config, "units", "output_dim")
    wide, units = channels.weight(path, "kernel"), channels.weight(path, "recurrent_kernel")[0]
    if len(wide) != 2 or wide[1] != gates * units:
        raise Barrier("has a kernel of another layout")
    _read(channels, node, value, len(value.shape) - 1, 0)
    ids = channels.new(units)
    channels.size(path, key, None, ids)
    each = np.tile(ids, gates)
    channels.slot(path, "recurrent_kernel", 0, ids, "reads")
    channels.slot(path, "kernel", 1, each, "makes")
    channels.slot(path, "recurrent_kernel", 1, each, "makes")
    if "bias" in channels.roles(path):
        channels.slot(path, "bias", len(channels.weight(path, "bias")) - 1, each, "makes")
    return ids


def _read(channels: Channels, node: Node, value: Value, along: int, axis: int) -> None:
    length = channels.weight(node.path, "kernel")[axis]
    read = at(channels, value, along, f"{title(node)} reads along another axis")
    read = np.zeros(length, np.int64) if read is None else read
    if read.size != length:
        raise Barrier(f"reads {length} channels where {read.size} come in")
    channels.slot(node.path, "kernel", axis, read, "reads")


def _passed(
    channels: Channels,
    node: Node,
    first: Value,
    own: list[np.ndarray],
    states: Sequence[Value],
) -> Value | list[Value]:
    """The output of a layer and its states, with those that come in; `own`: each state's units."""
    if states:
        if len(states) != len(own):
            raise Barrier("has inputs that are not known")
        for ids, state in zip(own, states, strict=True):
            if state.ids is None or state.ids.size != ids.size:
                channels.pin(ids, f"{title(node)} is given a state that is kept")
                channels.pin(state.ids, f"{title(node)} is given another state")
            else:
                channels.join(ids, state.ids, f"{title(node)} is given a state that is kept")
        channels.shape(node.path, "sequences_shape", first)
        channels.shape(node.path, "initial_state_shape", *states)
    assert first.shape is not None
    units = own[0] if len(own) == 1 or node.class_name != "RNN" else own[-1]
    size = int(units.size)
    out = Value((size,), 0, units)
    if node.config.get("return_sequences"):
        out = Value((first.shape[0], size), 1, units)
    if node.config.get("return_state"):
        return [out, *(Value((int(ids.size),), 0, ids) for ids in own)]
    return out


def of_cells(channels: Channels, node: Node, values: Sequence[Value]) -> Value | list[Value]:
    """`RNN`: one cell, or several of which each reads the units of the one before."""
    (value,) = values
    _sequence(node, value)
    if value.shape is None or len(value.shape) != 2:
        raise Barrier("has an input of unknown shape")
    (cell,) = (inner for _, inner in node.wrapped)
    step = Value(value.shape[1:], value.axis - 1, value.ids)
    if value.axis != 1:
        channels.pin(value.ids, f"{title(node)} reads along another axis")
        step = Value(value.shape[1:])
    channels.inner(cell.path, node.path, "", [step])
    own: list[np.ndarray] = []
    stack = cell.class_name == "StackedRNNCells"
    parts = cell.wrapped if stack else [("", cell)]
    for role, inner in parts:
        kind = inner.class_name.removesuffix("Cell")
        if kind == inner.class_name or kind not in GATES:
            raise Barrier(f"has a cell ({inner.class_name}) whose channels are not followed")
        if stack:
            prefix = f"{role}/" if len(parts) > 1 else ""
            channels.inner(inner.path, cell.path, prefix, [step])
        ids = _cell(channels, inner, step, kind)
        own += [ids] * _STATES[kind]
        step = Value((int(ids.size),), 0, ids)
    if cell.config.get("reverse_state_order") or (stack and node.config.get("return_state")):
        raise Barrier("passes the states of several cells on")
    return _passed(channels, node, value, own, [])


def conv_lstm(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
    """`ConvLSTM`: filters instead of units."""
    (value,) = values
    config, path = node.config, node.path
    _sequence(node, value)
    if config.get("return_state"):
        raise Barrier("passes its state on")
    names = ("activation", "recurrent_activation")
    if not {activation({"activation": config.get(k, "tanh")}) for k in names} <= ELEMENTWISE:
        raise Barrier("has an activation that joins units")
    plain_start(node)
    assert value.shape is not None
    rank, wide = len(value.shape), channels.weight(path, "kernel")
    filters = channels.weight(path, "recurrent_kernel")[-2]
    if len(wide) != rank or wide[-1] != 4 * filters:
        raise Barrier("has a kernel of another layout")
    first = channels_first(config)
    _read(channels, node, value, 1 if first else rank - 1, rank - 2)
    ids = channels.new(filters)
    each = np.tile(ids, 4)
    channels.size(path, key_of(config, "filters"), None, ids)
    channels.slot(path, "recurrent_kernel", rank - 2, ids, "reads")
    channels.slot(path, "kernel", rank - 1, each, "makes")
    channels.slot(path, "recurrent_kernel", rank - 1, each, "makes")
    if "bias" in channels.roles(path):
        channels.slot(path, "bias", 0, each, "makes")
    shape = layer_shapes.output_shape(node.class_name, config, [value.shape])
    if shape is None:
        raise Barrier("has an output of unknown shape")
    frame = len(shape) - (rank - 1)  # the axis of time, where there is one
    return Value(shape, frame if first else len(shape) - 1, ids)


def each_step(rule_of: Rule) -> Rule:
    """The rule of `TimeDistributed`, given that of any layer or submodel inside of it."""

    def rule(channels: Channels, node: Node, values: Sequence[Value]) -> Value:
        (value,) = values
        ((_, inner),) = node.wrapped
        if value.shape is None or len(value.shape) < 2:
            raise Barrier("has an input of unknown shape")
        step = Value(value.shape[1:], value.axis - 1, value.ids)
        if value.axis == 0:
            channels.pin(value.ids, f"{title(node)} takes them one by one")
            step = Value(value.shape[1:])
        channels.inner(inner.path, node.path, "", [step])
        found = rule_of(channels, inner, [step])
        (out,) = found if isinstance(found, list) else [found]
        if out.shape is None:
            return out
        return Value((value.shape[0], *out.shape), out.axis % len(out.shape) + 1, out.ids)

    return rule


def both_ways(rule_of: Rule) -> Rule:
    """The rule of `Bidirectional`, given that of any layer: both have the same units."""

    def rule(channels: Channels, node: Node, values: Sequence[Value]) -> Value | list[Value]:
        (value,) = values
        runs: list[list[Value]] = []
        for role, inner in node.wrapped:
            channels.inner(inner.path, node.path, f"{role}/", values)
            found = rule_of(channels, inner, [value])
            runs.append(found if isinstance(found, list) else [found])
        there, back = runs
        for one, other in zip(there, back, strict=True):
            if one.ids is None or other.ids is None or one.ids.size != other.ids.size:
                raise Barrier("has another layer for each direction")
            channels.join(one.ids, other.ids, f"{title(node)} joins both directions")
        mode = node.config.get("merge_mode", "concat")
        one, other = there[0], back[0]
        assert one.ids is not None
        assert other.ids is not None
        assert one.shape is not None
        if mode == "concat":
            if one.axis != len(one.shape) - 1:
                raise Barrier("joins channels along another axis")
            ids = np.concatenate([one.ids, other.ids])
            merged = [Value((*one.shape[:-1], int(ids.size)), one.axis, ids)]
        elif mode in ("sum", "mul", "ave"):
            merged = [one]
        elif mode is None:
            merged = [one, other]
        else:
            raise Barrier("merges both directions in an unknown way")
        return [*merged, *there[1:], *back[1:]]

    return rule

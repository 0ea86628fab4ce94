"""Rules of attention: heads, and the widths of keys and values, go by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelcut.graph.keras import calls
from modelcut.graph.keras.channel_kernels import incoming, last
from modelcut.graph.keras.channel_values import (
    Barrier,
    Channels,
    Value,
    plain_start,
    title,
)
from modelcut.graph.keras.classes import integer
from modelcut.graph.node import Node

_SCALED = "its values are quantized, so that they cannot be scaled as the width of keys shrinks"


def multi_head(channels: Channels, node: Node, values: Sequence[Value]) -> Value | list[Value]:
    """`MultiHeadAttention` and `GroupedQueryAttention`.

    A head that is removed is a term less in the output. Without some of the width of queries and
    keys, the scores are what is left of their sums, if the queries grow by as much as the layer's
    own factor of one over the root of the width.
    """
    path, config = node.path, node.config
    plain_start(node)
    given = _given(channels, values)
    query, value, key = given["query"], given["value"], given["key"]
    for name, one in (("query", query), ("value", value), ("key", key)):
        channels.shape(path, f"{name}_shape", one)
    grouped = node.class_name != "MultiHeadAttention"
    asked, heads, width = channels.weight(path, "query/kernel")
    known, shared = channels.weight(path, "key/kernel")[:2]
    value_width = channels.weight(path, "value/kernel")[2]
    out = channels.weight(path, "attention_output/kernel")[2]
    if not shared or heads % shared:
        raise Barrier("has heads that do not go together")
    own = channels.new(shared)
    every = np.repeat(own, heads // shared)
    wide = channels.new(width)
    wide_values = wide if grouped else channels.new(value_width)
    made = channels.new(out)
    _project(channels, node, "query", query, asked, every, wide, "reads")
    _project(channels, node, "key", key, known, own, wide, "makes")
    entering = channels.weight(path, "value/kernel")[0]
    _project(channels, node, "value", value, entering, own, wide_values, "makes")
    _output(channels, node, every, wide_values, made)
    if not (channels.scaled(path, "query/kernel", wide) and _scaled_bias(channels, node, wide)):
        channels.pin(wide, _SCALED)
    if grouped:
        channels.size(path, "num_query_heads", None, every)
        channels.size(path, "num_key_value_heads", None, own)
        channels.size(path, "head_dim", None, wide)
    else:
        channels.size(path, "num_heads", None, every)
        channels.size(path, "key_dim", None, wide)
        if integer(config.get("value_dim")):
            channels.size(path, "value_dim", None, wide_values)
        else:  # as wide as the keys
            channels.join(wide, wide_values, f"{title(node)} has one width for both")
    _width(channels, node, query, made)
    if query.shape is None:
        raise Barrier("has an input of unknown shape")
    result = Value((*query.shape[:-1], out), len(query.shape) - 1, made)
    if not _tells_scores(channels.call):
        return result
    channels.pin(own, f"{title(node)} gives the scores of each head")
    return [result, Value(None)]


def _given(channels: Channels, values: Sequence[Value]) -> dict[str, Value]:
    """The inputs by name, however they were given."""
    names = calls.keywords(channels.call) if channels.call is not None else [""]
    if len(names) != len(values):
        raise Barrier("has inputs that are not known")
    plain = iter(("query", "value", "key", "query_mask", "value_mask"))
    found = {name or next(plain, ""): v for name, v in zip(names, values, strict=True)}
    for name in found.keys() - {"query", "value", "key"}:
        mask = found[name].shape
        # One for all heads: of (queries, keys), or of one of them.
        if not name.endswith("_mask") or mask is None or len(mask) > 2:
            raise Barrier(f"has an input ({name}) that is not followed")
        channels.pin(found[name].ids, "a mask is made of them")
    if "query" not in found or "value" not in found:
        raise Barrier("has inputs that are not known")
    return {"key": found["value"], **found}


def _project(
    channels: Channels,
    node: Node,
    part: str,
    value: Value,
    length: int,
    heads: np.ndarray,
    width: np.ndarray,
    use: str,
) -> None:
    read = incoming(channels, node, value, last(value), length)
    channels.slot(node.path, f"{part}/kernel", 0, read, "reads")
    channels.slot(node.path, f"{part}/kernel", 1, heads, "makes")
    channels.slot(node.path, f"{part}/kernel", 2, width, use)
    if f"{part}/bias" in channels.roles(node.path):
        channels.slot(node.path, f"{part}/bias", 0, heads, "makes")
        channels.slot(node.path, f"{part}/bias", 1, width, use)


def _output(
    channels: Channels, node: Node, heads: np.ndarray, width: np.ndarray, made: np.ndarray
) -> None:
    path, role = node.path, "attention_output/kernel"
    channels.slot(path, role, 0, heads, "reads")
    channels.slot(path, role, 1, width, "reads")
    channels.slot(path, role, 2, made, "makes")
    if "attention_output/bias" in channels.roles(path):
        channels.slot(path, "attention_output/bias", 0, made, "makes")


def _scaled_bias(channels: Channels, node: Node, wide: np.ndarray) -> bool:
    role = "query/bias"
    if role not in channels.roles(node.path):
        return True
    return channels.scaled(node.path, role, wide)


def _width(channels: Channels, node: Node, query: Value, made: np.ndarray) -> None:
    """What comes out is as wide as the queries, or as the configuration says."""
    said = node.config.get("output_shape")
    why = f"{title(node)} gives as many channels as it is asked with"
    if said is None:
        if query.ids is None or query.ids.size != made.size:
            channels.pin(made, why)
            channels.pin(query.ids, why)
        else:
            channels.join(made, query.ids, why)
    elif isinstance(said, list) and len(said) == 1:
        channels.size(node.path, "output_shape", 0, made)
    elif isinstance(said, int):
        channels.size(node.path, "output_shape", None, made)
    else:
        raise Barrier("gives an output of several axes")


def _tells_scores(call: object) -> bool:
    """Whether a call asks for the scores too, in whatever dialect."""
    stack: list[object] = [call]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if item.get("return_attention_scores"):
                return True
            stack.extend(item.values())
        elif isinstance(item, list):
            if any(each is True for each in item):  # Keras 3 writes arguments by place, too
                return True
            stack.extend(item)
    return False

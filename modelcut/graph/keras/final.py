"""The last activation of a network with one output, as far as the architecture tells it."""

from __future__ import annotations

from modelcut.graph.keras.calls import (
    Entry,
    calls,
    config_of,
    ends,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.keras.channel_values import activation

_ACTIVATED = frozenset("Dense Activation Conv1D Conv2D Conv3D Convolution2D".split())
_CLASSES = {"Softmax": "softmax", "Sigmoid": "sigmoid", "ReLU": "relu"}
_PASSES = frozenset(
    "Reshape Flatten Permute Dropout Identity GlobalAveragePooling1D GlobalAveragePooling2D "
    "GlobalAveragePooling3D AveragePooling1D AveragePooling2D AveragePooling3D".split()
)
"""Layers that keep probabilities such."""
_KNOWN = frozenset("linear softmax sigmoid hard_sigmoid log_softmax tanh relu".split())


def final_layer(model: Entry) -> tuple[str, str] | None:
    """Name of the layer that gives the output, and the last activation behind it.

    Args:
        model: the JSON object of a model.

    Returns:
        "linear" where nothing follows the sums. None for several outputs, and where it takes the
        engine to tell: a layer of several calls, a wrapper, an activation of another's own.
    """
    entries = {name_of(entry): entry for entry in layer_list(model) or []}
    if not entries:
        return None
    if not is_functional(model):
        order = list(entries)
        name = order[-1]
        before = dict(zip(order[1:], order, strict=False))
    else:
        found = config_of(model).get("output_layers")
        last = [] if isinstance(found, dict) else ends(found)
        if len(last) != 1:
            return None
        name = last[0].name
        before = {}
        for each, entry in entries.items():
            feeds = calls(entry)
            if len(feeds) == 1 and len(feeds[0]) == 1:
                before[each] = feeds[0][0].name
    seen = _behind(entries, before, name)
    return None if seen is None else (name, seen)


def _behind(entries: dict[str, Entry], before: dict[str, str], name: str) -> str | None:
    for _ in range(len(entries)):
        entry = entries.get(name)
        if entry is None or len(calls(entry)) > 1:
            return None
        if layer_list(entry) is not None:
            inner = final_layer(entry)
            return inner[1] if inner else None
        kind = entry.get("class_name")
        if kind in _ACTIVATED:
            found = activation(config_of(entry))
            return found if found in _KNOWN else None
        if kind in _CLASSES:
            return _CLASSES[kind]
        if kind not in _PASSES or name not in before:
            return None
        name = before[name]
    return None

"""One layer of an architecture: what it wraps, its weights in order, and where `.keras` files them.

A legacy HDF5 file lists a layer's weights trained ones first; a `.keras` file gives each object
that owns weights a group of its own, named after its attribute or its class
(keras/src/saving/saving_lib.py, `_walk_saveable` and `_save_container_state`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelcut import layers
from modelcut.topology import Entry, Graph, calls, config_of, is_functional, layer_list, name_of

Path = tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One layer of the architecture.

    Attributes:
        path: names from the outermost submodel down to the layer.
        class_name: as written.
        config: of the layer; not to be changed.
        inbound: a call each: names of the layers, in the same submodel, that feed it.
        entry: the whole JSON object of the layer; not to be changed.
    """

    path: Path
    class_name: str
    config: Mapping[str, Any]
    inbound: tuple[tuple[str, ...], ...] = ()
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_model(self) -> bool:
        """Whether it is a submodel, whose layers have nodes of their own."""
        return layer_list(self.entry) is not None

    @property
    def is_operation(self) -> bool:
        """Whether it is a bare Keras 3 operation, which `model.layers` leaves out."""
        return ".ops." in str(self.entry.get("module"))

    @property
    def wrapped(self) -> list[tuple[str, Node]]:
        """The layers inside a wrapper (TimeDistributed, Bidirectional, RNN), each with its role."""
        parts = []
        for role, key in _WRAPPED:
            inner = self.config.get(key)
            cells = inner if isinstance(inner, list) else [inner]
            for index, cell in enumerate(cells):
                if isinstance(cell, dict) and isinstance(cell.get("class_name"), str):
                    name = role if len(cells) == 1 else f"{role}{index}"
                    parts.append((name, node_of(cell, (*self.path, name))))
        if self.class_name == "Bidirectional" and parts:
            inner = next((node for role, node in parts if role == "layer"), parts[0][1])
            back = next((node for role, node in parts if role == "backward"), inner)
            return [("forward", inner), ("backward", back)]
        return parts


_WRAPPED = (("layer", "layer"), ("backward", "backward_layer"), ("cell", "cell"), ("cell", "cells"))


def node_of(entry: Entry, path: Path) -> Node:
    """The node of a layer's JSON object."""
    inbound = tuple(tuple(ref.name for ref in call) for call in calls(entry))
    return Node(path, str(entry["class_name"]), config_of(entry), inbound, entry)


def snake_case(name: str) -> str:
    """A class name as Keras files it: TimeDistributed -> time_distributed."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def layer_order(model: Entry, where: str) -> list[str]:
    """Names of the layers of a model in the order in which Keras's `model.layers` has them."""
    if is_functional(model):
        return Graph(model, where).order()
    entries = layer_list(model) or []
    return [name_of(e) for e in entries if e.get("class_name") != "InputLayer"]


def filed(model: Entry, where: str, path: Path = (), base: str = "") -> Iterator[tuple[Node, str]]:
    """The leaves below a model in Keras's order, each with its group: "layers/dense_1".

    Keras counts the layers of each class name, in the order of `model.layers`.
    """
    by_name = {name_of(e): e for e in layer_list(model) or []}
    used: dict[str, int] = {}
    for name in layer_order(model, where):
        node = node_of(by_name[name], (*path, name))
        if node.is_operation:
            continue
        snake = snake_case(_CLASSES.get(node.class_name, node.class_name))
        count = used[snake] = used.get(snake, -1) + 1
        place = f"{base}layers/{snake}{f'_{count}' if count else ''}"
        if node.is_model:
            yield from filed(node.entry, where, node.path, f"{place}/")
        else:
            yield node, place


_CLASSES = {"Model": "Functional", "GroupQueryAttention": "GroupedQueryAttention"}
"""Classes whose name in Keras's code is not the one that a file says."""


@dataclass(frozen=True)
class Slot:
    """A weight of a layer, wrapped ones too.

    Attributes:
        spec: what it is; its role is prefixed where a wrapper holds several ("forward/kernel").
        places: its dataset in a `.keras` file below the layer's own group; Keras versions differ
            in some names, one of these it is.
        frozen: it is not trained, or its layer is not.
    """

    spec: layers.WeightSpec
    places: tuple[str, ...]
    frozen: bool


def specs(node: Node) -> list[layers.WeightSpec]:
    """All weights of a layer, wrapped ones too (roles "forward/kernel"), in Keras's order.

    Raises:
        KeyError: a class is not known.
    """
    return [slot.spec for slot in slots(node)]


def slots(node: Node) -> list[Slot]:
    """The weights of a layer as legacy HDF5 lists them: what is trained, then what is not.

    Raises:
        KeyError: a class is not known.
    """
    if node.is_model:
        found = [
            slot
            for leaf, place in filed(node.entry, "a wrapped model")
            for slot in _below(slots(leaf), f"{place}/", f"{'/'.join(leaf.path)}/")
        ]
    elif node.class_name in layers.WRAPPERS and node.wrapped:
        found = _wrapped_slots(node)
    else:
        own = layers.weights(node.class_name, node.config)
        found = _own(node, own)
    return sorted(found, key=lambda slot: slot.frozen)


def _own(node: Node, own: list[layers.WeightSpec]) -> list[Slot]:
    counts: dict[tuple[str, ...], int] = {}
    result = []
    for spec in own:
        groups = _groups(node.class_name, spec.role)
        index = counts[groups] = counts.get(groups, -1) + 1
        frozen = node.config.get("trainable") is False or spec.kind == "state"
        result.append(Slot(spec, tuple(f"{group}vars/{index}" for group in groups), frozen))
    return result


_WITH_CELL = re.compile(r"^(SimpleRNN|LSTM|GRU|ConvLSTM[123]D)$")
_ATTENTION = {"query": "query", "key": "key", "value": "value", "attention_output": "output"}


def _groups(class_name: str, role: str) -> tuple[str, ...]:
    """Which objects inside a layer may own a weight: paths that end in "/", or "" for itself."""
    part = _ATTENTION.get(role.partition("/")[0])
    if part and "Attention" in class_name:
        return (f"{part}_dense/", f"_{part}_dense/")
    return ("cell/",) if _WITH_CELL.match(class_name) else ("",)


def _wrapped_slots(node: Node) -> list[Slot]:
    wrapped = node.wrapped
    result: list[Slot] = []
    used: dict[str, int] = {}
    for role, inner in wrapped:
        if node.class_name == "Bidirectional":
            place = f"{role}_layer/"
        elif node.class_name == "StackedRNNCells":
            snake = snake_case(inner.class_name)
            count = used[snake] = used.get(snake, -1) + 1
            place = f"cells/{snake}{f'_{count}' if count else ''}/"
        else:
            place = f"{role}/"
        # TimeDistributed and RNN own one layer: its weights need no prefix.
        below = _below(slots(inner), place, "" if len(wrapped) == 1 else f"{role}/")
        still = node.config.get("trainable") is False
        result += [replace(slot, frozen=slot.frozen or still) for slot in below]
    if node.class_name == "SpectralNormalization":
        # Its own first variable is the wrapped kernel again.
        own = layers.weights(node.class_name, node.config)
        result += [Slot(spec, ("vars/1",), frozen=True) for spec in own]
    return result


def _below(found: list[Slot], place: str, prefix: str) -> list[Slot]:
    return [
        replace(
            slot,
            spec=replace(slot.spec, role=prefix + slot.spec.role),
            places=tuple(place + own for own in slot.places),
        )
        for slot in found
    ]

"""One layer of an architecture: what it wraps, its weights in order, and where `.keras` files them.

A legacy HDF5 file lists a layer's weights trained ones first; a `.keras` file gives each object
that owns weights a group of its own, named after its attribute or its class
(keras/src/saving/saving_lib.py, `_walk_saveable` and `_save_container_state`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcut.graph.keras import operations
from modelcut.graph.keras.calls import (
    Entry,
    calls,
    config_of,
    layer_list,
)

Path = tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One layer of the architecture.

    Attributes:
        path: names from the outermost submodel down to the layer.
        class_name: class name, as written in the file.
        config: configuration of the layer; not to be changed.
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
        return ".ops." in str(self.entry.get("module")) or bool(operations.module_of(self.entry))

    @property
    def wrapped(self) -> list[tuple[str, Node]]:
        """The layers inside a wrapper (TimeDistributed, Bidirectional, RNN), each with its role."""
        parts = []
        for role, key in WRAPPED:
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


WRAPPED = (("layer", "layer"), ("backward", "backward_layer"), ("cell", "cell"), ("cell", "cells"))
"""The roles of layers inside of others, each with the key of the configuration that has them."""


def node_of(entry: Entry, path: Path) -> Node:
    """The node of a layer's JSON object."""
    inbound = tuple(tuple(ref.name for ref in call) for call in calls(entry))
    return Node(path, str(entry["class_name"]), config_of(entry), inbound, entry)

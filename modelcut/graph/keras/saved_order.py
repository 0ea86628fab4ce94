"""The order and the names under which Keras saves the weights of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from modelcut.graph.keras import classes, quantized
from modelcut.graph.keras.calls import (
    CallGraph,
    Entry,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.node import Node, Path, node_of


def snake_case(name: str) -> str:
    """A class name as Keras files it: TimeDistributed -> time_distributed."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def layer_order(model: Entry, where: str) -> list[str]:
    """Names of the layers of a model in the order in which Keras's `model.layers` has them."""
    if is_functional(model):
        return CallGraph(model, where).order()
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
            in some names, one of these it is. Empty: such a file does not keep it.
        frozen: it is not trained, or its layer is not.
    """

    spec: classes.WeightSpec
    places: tuple[str, ...]
    frozen: bool


def specs(node: Node) -> list[classes.WeightSpec]:
    """All weights of a layer, wrapped ones too (roles "forward/kernel"), in Keras's order.

    Raises:
        KeyError: a class is not known.
    """
    return [slot.spec for slot in slots(node)]


def slots(node: Node, form: int = 0) -> list[Slot]:
    """The weights of a layer as legacy HDF5 lists them: what is trained, then what is not.

    Args:
        node: node of the layer in the architecture.
        form: which of several, where Keras' quantization leaves open what there is; see `FORMS`.

    Raises:
        KeyError: a class is not known.
    """
    if node.is_model:
        found = [
            slot
            for leaf, place in filed(node.entry, "a wrapped model")
            for slot in _below(slots(leaf, form), f"{place}/", f"{'/'.join(leaf.path)}/")
        ]
    elif node.class_name in classes.WRAPPERS and node.wrapped:
        found = _wrapped_slots(node, form)
    else:
        found = _own(node, classes.weights(node.class_name, node.config), form)
    return sorted(found, key=lambda slot: slot.frozen)


def is_known(node: Node) -> bool:
    """Whether the weights of a layer, and of those that it wraps, are known by their classes."""
    try:
        slots(node)
    except KeyError:
        return False
    return True


def _own(node: Node, own: list[classes.WeightSpec], form: int) -> list[Slot]:
    known = quantized.forms(node.class_name, node.config)
    attends = bool(known) and not quantized.is_changed(node.class_name, node.config)
    chosen = known[min(form, len(known)) - 1] if attends and form else None
    if known and not attends:
        chosen = known[min(form, len(known) - 1)]
    if chosen is not None:
        return [_changed(node, part) for part in chosen]
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


def _wrapped_slots(node: Node, form: int) -> list[Slot]:
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
        below = _below(slots(inner, form), place, "" if len(wrapped) == 1 else f"{role}/")
        still = node.config.get("trainable") is False
        result += [replace(slot, frozen=slot.frozen or still) for slot in below]
    if node.class_name == "SpectralNormalization":
        # Its own first variable is the wrapped kernel again.
        own = classes.weights(node.class_name, node.config)
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


FORMS = 5
"""How many `form`s of `slots` can differ; later ones are those before again."""


def fitting(node: Node, roles: Sequence[str]) -> list[Slot]:
    """The weights of a layer in the form that has those of these roles, else in its first one.

    Args:
        node: node of the layer in the architecture.
        roles: roles of the weights that it has, in order.

    Raises:
        KeyError: a class is not known.
    """
    every = (slots(node, form) for form in range(FORMS))
    found = next((one for one in every if [slot.spec.role for slot in one] == list(roles)), None)
    return slots(node) if found is None else found


def _changed(node: Node, part: quantized.Part) -> Slot:
    """The slot of a weight of a layer that Keras has quantized, or given LoRA factors."""
    groups = _groups(node.class_name, part.spec.role) if part.place is not None else ()
    frozen = part.frozen or node.config.get("trainable") is False
    return Slot(part.spec, tuple(f"{group}vars/{part.place}" for group in groups), frozen)

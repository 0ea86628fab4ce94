"""Architectures edited: a layer replaced by several in sequence, or taken out.

What the edit does not touch stays as it was. Refused, with the reason, is whatever would leave a
network that Keras builds otherwise: layers that are shared with another part of the model, called
on several tensors, or whose name the outputs of the model have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelcut.graph import shapes
from modelcut.graph.architecture import Architecture, Refusal
from modelcut.graph.keras.calls import (
    Entry,
    Ref,
    calls,
    config_of,
    ends,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.keras.classes import Shape
from modelcut.graph.node import Node, Path

_STARTS = ("batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length")
"""What the first layer of a model says about the model's input."""


@dataclass(frozen=True)
class Link:
    """One layer of a chain.

    Attributes:
        name: its name; of the last, that of the layer which is replaced.
        class_name: class name.
        config: its configuration; without what it says of the model's input, which is added.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]

    def node(self, path: Path = ()) -> Node:
        """The layer as a node, for its shapes and its work."""
        entry = {"class_name": self.class_name, "config": self.config}
        return Node((*path, self.name), self.class_name, self.config, (), entry)


def free_names(architecture: Architecture, path: Path, count: int) -> list[str]:
    """Names for layers beside the one at `path`: NAME_factor, NAME_factor2 …"""
    taken = architecture.names(path[:-1])
    found: list[str] = []
    number = 1
    while len(found) < count:
        name = f"{path[-1]}_factor{'' if number == 1 else number}"
        found += [name] if name not in taken else []
        number += 1
    return found


def replaced(architecture: Architecture, path: Path, chain: Sequence[Link]) -> Architecture:
    """The architecture with a layer replaced by several in sequence.

    The last keeps the name, so that its consumers stay untouched; the first takes over the calls.

    Args:
        architecture: that has the layer.
        path: path of the layer: names from the outermost submodel down.
        chain: the layers in its place.

    Raises:
        Refusal: the layer cannot be replaced so.
    """
    old = _entry_at(architecture, path)
    _check_own(old)
    config = config_of(old)
    kept = chain[-1].class_name == old["class_name"]
    if not kept and any(len(call) > 1 for call in calls(old)):
        raise Refusal("it is not called on one tensor")
    named = _own_keys(str(old["class_name"]))
    started = {k: v for k, v in config.items() if k in _STARTS and k not in named and v is not None}
    sizes = _Sizes(old, chain, architecture.input_shapes().get(path))
    made = []
    for index, link in enumerate(chain):
        same = link.class_name == old["class_name"]
        entry = dict(old) if same else {k: v for k, v in old.items() if k in _KEPT}
        entry["class_name"] = link.class_name
        if isinstance(entry.get("registered_name"), str):
            entry["registered_name"] = link.class_name
        rest = {k: v for k, v in link.config.items() if k not in started}
        entry["config"] = {**started, **link.config} if index == 0 else rest
        if "name" in old:
            entry["name"] = link.name
        if isinstance(old.get("build_config"), dict):
            entry["build_config"] = sizes.built(old["build_config"], index, same=same)
            entry["config"] = sizes.within(entry["config"], index)
        nodes = old.get("inbound_nodes")
        if isinstance(nodes, list):
            before = chain[index - 1].name if index else ""
            entry["inbound_nodes"] = [
                _relinked(node, before, number, sizes, index, last=index == len(chain) - 1 and same)
                for number, node in enumerate(nodes)
            ]
        made.append(entry)
    parent = layer_list(architecture.model_at(path[:-1])) or []
    entries = [new for e in parent for new in (made if e is old else [e])]
    return architecture.with_layers(path[:-1], entries)


def removed(architecture: Architecture, path: Path) -> Architecture:
    """The architecture without a layer: its consumers take what went into it.

    Raises:
        Refusal: the layer cannot be taken out.
    """
    old = _entry_at(architecture, path)
    _check_own(old)
    parent = architecture.model_at(path[:-1])
    entries = layer_list(parent) or []
    if not is_functional(parent):
        return architecture.with_layers(path[:-1], _without(old, entries, top=len(path) == 1))
    name = path[-1]
    sources = []
    for call in calls(old):
        if len(call) != 1:
            raise Refusal("it is not called on one tensor")
        sources.append(call[0])
    by_name = {name_of(entry): entry for entry in entries}
    if any(ref.name == name for ref in ends(config_of(parent).get("output_layers"))):
        if len(path) == 1:
            raise Refusal("its name is that of an output of the network")
        if any(
            layer_list(by_name[ref.name]) is not None
            or by_name[ref.name].get("class_name") == "InputLayer"
            for ref in sources
        ):
            raise Refusal("its submodel would give what another part of the network has made")
    new = [
        {**entry, "inbound_nodes": _moved(entry["inbound_nodes"], name, sources)}
        if isinstance(entry.get("inbound_nodes"), list)
        else entry
        for entry in entries
        if entry is not old
    ]
    outputs = _moved(config_of(parent).get("output_layers"), name, sources)
    return architecture.with_layers(path[:-1], new, {"output_layers": outputs})


_KEPT = ("name", "module", "registered_name", "class_name", "inbound_nodes")
"""What a layer's JSON object says that holds for another of Keras' own classes too."""


def _entry_at(architecture: Architecture, path: Path) -> Entry:
    entries: list[Entry] = layer_list(architecture.model_at(path[:-1])) or []
    return next(entry for entry in entries if name_of(entry) == path[-1])


def _check_own(entry: Entry) -> None:
    if "shared_object_id" in entry:
        raise Refusal("it is shared with another part of the model")
    registered = entry.get("registered_name")
    if isinstance(registered, str) and registered != entry["class_name"]:
        raise Refusal("its class is its author's own")


def _own_keys(class_name: str) -> tuple[str, ...]:
    """Keys that for this class say nothing of the model's input."""
    return ("input_dim",) if class_name == "Embedding" else ()


def _without(old: Entry, entries: Sequence[Entry], *, top: bool) -> list[Any]:
    """The layers of a sequential model without one; what it said of the input goes to the next."""
    place = next(index for index, entry in enumerate(entries) if entry is old)
    layers = [entry for entry in entries if entry.get("class_name") != "InputLayer"]
    if len(layers) == 1:
        raise Refusal("it is the only layer of its model")
    if top and place == len(entries) - 1:
        raise Refusal("its name is that of an output of the network")
    started = {k: v for k, v in config_of(old).items() if k in _STARTS and v is not None}
    rest = [dict(entry) for entry in entries if entry is not old]
    if place == 0 and started:
        following = rest[0]
        if layer_list(following) is not None or following["class_name"] == "Embedding":
            raise Refusal("it says what goes into the model")
        following["config"] = {**started, **following["config"]}
    return rest


class _Sizes:
    """What goes into each layer of a chain."""

    def __init__(self, old: Entry, chain: Sequence[Link], given: Shape | None) -> None:
        self._chain = chain
        self._policy = config_of(old).get("dtype")
        built = old.get("build_config")
        said = shapes.built({"build_config": built}) if isinstance(built, dict) else None
        self._given = self._through(said if said is not None else given)
        self._batch: Any = None
        if isinstance(built, dict) and isinstance(built.get("input_shape"), list):
            self._batch = (built["input_shape"] or [None])[0]

    def _through(self, given: Shape | None) -> list[Shape | None]:
        found = [given]
        for link in self._chain[:-1]:
            found.append(shapes.of_layer(link.node(), [found[-1]]))
        return found

    def built(self, config: Mapping[str, Any], index: int, *, same: bool) -> dict[str, Any]:
        """The build configuration of a layer of the chain."""
        shape = self._given[index]
        if not isinstance(config.get("input_shape"), list) or shape is None:
            raise Refusal("its build configuration has no input shape")
        own = {"input_shape": [self._batch, *shape]}
        return {**config, **own} if same else own

    def within(self, config: Mapping[str, Any], index: int) -> dict[str, Any]:
        """A wrapper's configuration with the wrapped layers built for what they are given."""
        new = dict(config)
        shape = self._given[index]
        assert shape is not None
        each = self._chain[index].class_name == "TimeDistributed"
        for key in ("layer", "backward_layer"):
            inner = new.get(key)
            if isinstance(inner, dict) and isinstance(inner.get("build_config"), dict):
                said = [self._batch, *(shape[1:] if each else shape)]
                new[key] = {**inner, "build_config": {**inner["build_config"], "input_shape": said}}
        return new

    def of_call(self, said: Any, index: int) -> Any:
        """The shape, with its batch axis, of what a call is given, by what the first is given."""
        given = shapes.without_batch(said)
        if given is None:
            return said
        shape = self._through(given)[index]
        if shape is None:
            raise Refusal("the shape of its output is not known")
        return [said[0], *shape]

    @property
    def dtype(self) -> str:
        """Of what a layer of the chain gives."""
        name = policy_name(self._policy)
        return name.removeprefix("mixed_") if name else "float32"


def policy_name(dtype: Any) -> str:
    """The name of a dtype policy in a configuration; "" where it is not told."""
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        dtype = inner.get("name") if isinstance(inner, dict) else None
    return dtype if isinstance(dtype, str) else ""


def _relinked(node: Any, before: str, number: int, sizes: _Sizes, index: int, *, last: bool) -> Any:
    """A call of a layer of a chain: of the first on the old one's tensor, else on `before`."""
    if isinstance(node, dict):
        tensors = node.get("args", [])
        if len(_calls_of({"args": tensors})) != 1 or "config" not in tensors[0]:
            raise Refusal("it is not called on one tensor")
        rest = {"kwargs": node.get("kwargs", {}) if last else {}}
        if not before:
            return {**node, **rest}
        config = tensors[0]["config"]
        said = {"shape": sizes.of_call(config.get("shape"), index), "dtype": sizes.dtype}
        tensor = {
            **tensors[0],
            "config": {**config, **said, "keras_history": [before, number, 0]},
        }
        return {**node, "args": [tensor], **rest}
    flat = isinstance(node, list) and bool(node) and isinstance(node[0], str)
    item = node if flat else node[0] if isinstance(node, list) and len(node) == 1 else None
    if not isinstance(item, list) or len(_calls_of([item[:3]])) != 1:
        raise Refusal("it is not called on one tensor")
    start = [before, number, 0] if before else item[:3]
    new = [*start, *(item[3:] if last else [{}] * len(item[3:]))]
    return new if flat else [new]


def _calls_of(node: Any) -> list[Ref]:
    return calls({"inbound_nodes": [node]})[0]


def _moved(item: Any, name: str, sources: Sequence[Ref]) -> Any:
    """Calls and outputs with each tensor of a layer replaced by what went into that layer."""
    if isinstance(item, dict):
        history = config_of(item).get("keras_history")
        if isinstance(history, list) and history[:1] == [name]:
            source = list(sources[history[1]][:3])
            return {**item, "config": {**item["config"], "keras_history": source}}
        return {key: _moved(value, name, sources) for key, value in item.items()}
    if not isinstance(item, list):
        return item
    if len(item) in (3, 4) and item[0] == name and isinstance(item[1], int):
        rest = [_moved(value, name, sources) for value in item[3:]]
        return [*sources[item[1]][:3], *rest]
    return [_moved(value, name, sources) for value in item]


def consumers(architecture: Architecture, path: Path) -> list[str] | None:
    """Names of the layers that take what a layer of a model gives; None: an output takes it too."""
    parent = architecture.model_at(path[:-1])
    entries: list[Entry] = layer_list(parent) or []
    if not is_functional(parent):
        names = [name_of(entry) for entry in entries]
        place = names.index(path[-1])
        return [names[place + 1]] if place + 1 < len(names) else None
    if any(ref.name == path[-1] for ref in ends(config_of(parent).get("output_layers"))):
        return None
    return [name_of(entry) for entry in entries if path[-1] in set(_fed_by(entry))]


def sources(architecture: Architecture, path: Path) -> list[str]:
    """Names of the layers, of the same model, that feed the calls of a layer."""
    parent = architecture.model_at(path[:-1])
    entries: list[Entry] = layer_list(parent) or []
    if not is_functional(parent):
        names = [name_of(entry) for entry in entries]
        place = names.index(path[-1])
        return names[place - 1 : place] if place else []
    entry = next(entry for entry in entries if name_of(entry) == path[-1])
    return list(_fed_by(entry))


def _fed_by(entry: Entry) -> Iterator[str]:
    return (ref.name for call in calls(entry) for ref in call)


def call_count(architecture: Architecture, path: Path) -> int:
    """How often its own model calls a layer."""
    entry = _entry_at(architecture, path)
    parent = architecture.model_at(path[:-1])
    return len(calls(entry)) if is_functional(parent) else 1

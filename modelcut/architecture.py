"""The architecture of a file: a JSON graph of layers, in the dialect of the Keras that wrote it.

Read once, kept to the letter, edited by structural copying: what an edit does not touch stays as
it was, and without an edit the text is the original byte for byte.

Keras orders a model's layers anew when it loads one (by depth in the graph), and loads legacy
HDF5 weights by that order; `.keras` weights are filed by class names counted in that order. So
`order` follows Keras's own rule (keras/src/ops/function.py, `map_graph`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from modelcut import layers
from modelcut.errors import InputError
from modelcut.safety import load_json

Path = tuple[str, ...]
MAX_LAYERS = 100_000


class Dialect(str, Enum):
    """Which Keras can load a file."""

    KERAS1 = "keras1"
    KERAS2 = "keras2"
    KERAS3 = "keras3"


class Refusal(Exception):  # noqa: N818 - not an error of the user's
    """An edit that this architecture does not allow, with the reason."""


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
        return _layer_list(self.entry) is not None

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
                    parts.append((name, _node(cell, (*self.path, name))))
        if self.class_name == "Bidirectional" and parts:
            inner = next((node for role, node in parts if role == "layer"), parts[0][1])
            back = next((node for role, node in parts if role == "backward"), inner)
            return [("forward", inner), ("backward", back)]
        return parts


_WRAPPED = (("layer", "layer"), ("backward", "backward_layer"), ("cell", "cell"), ("cell", "cells"))


@dataclass(frozen=True)
class Architecture:
    """An architecture as text, and what modelcut reads in it.

    Attributes:
        text: JSON; as it was read unless it was edited.
        dialect: which Keras can load it.
        keras_version: as the file says, or "1".
        root: the parsed text; not to be changed.
        nodes: all layers that may own weights, submodels flattened, in the order of the file.
    """

    text: str
    dialect: Dialect
    keras_version: str
    root: Mapping[str, Any] = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str | bytes, keras_version: str | None, where: str) -> Architecture:
        """Reads a model configuration.

        Args:
            text: JSON.
            keras_version: as the file says.
            where: the file, for messages.

        Raises:
            InputError: broken JSON, or not a model that hangs together.
        """
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        root = load_json(text, where=where, what="model configuration")
        version = keras_version or _version_in(root)
        if not isinstance(root, dict) or _layer_list(root) is None:
            raise InputError(f"{where}: the model configuration is not that of a layered model")
        dialect = _dialect(root, version)
        return cls(text, dialect, version, root, tuple(_flatten(root, (), where)))

    def model_at(self, path: Path) -> Mapping[str, Any]:
        """The JSON object of a (sub)model; () is the whole."""
        entry = self.root
        for name in path:
            entry = next(e for e in _layer_list(entry) or [] if _name(e) == name)
        return entry

    def order(self, path: Path = ()) -> list[str]:
        """Names of the layers of a (sub)model in the order of Keras's `model.layers`."""
        entry = self.model_at(path)
        entries = _layer_list(entry) or []
        if entry.get("class_name") == "Sequential" or "output_layers" not in _config(entry):
            return [_name(e) for e in entries if e.get("class_name") != "InputLayer"]
        return _depth_order(entry, ".".join(path) or "the model")

    def store_paths(self) -> dict[Path, str]:
        """Where the weights of each layer lie in a `.keras` file: "layers/dense_1"."""
        return dict(self._store_paths((), ""))

    def _store_paths(self, path: Path, base: str) -> Iterator[tuple[Path, str]]:
        by_name = {_name(e): e for e in _layer_list(self.model_at(path)) or []}
        used: dict[str, int] = {}
        for name in self.order(path):
            entry = by_name[name]
            if ".ops." in str(entry.get("module")):
                continue
            snake = snake_case(str(entry.get("class_name")))
            if _layer_list(entry) is not None and snake == "model":
                snake = "functional"
            count = used.get(snake, 0)
            used[snake] = count + 1
            place = f"{base}layers/{snake}{f'_{count}' if count else ''}"
            if _layer_list(entry) is not None:
                yield from self._store_paths((*path, name), f"{place}/")
            else:
                yield (*path, name), place

    def leaves(self, path: Path) -> list[Node]:
        """The layers below a submodel, nested ones too, in Keras's order; or the layer itself."""
        found = [node for node in self.nodes if node.path == path]
        if found:
            return found
        return [leaf for name in self.order(path) for leaf in self.leaves((*path, name))]

    def inputs(self) -> list[tuple[str, layers.Shape | None, str]]:
        """Name, shape without the batch axis, and dtype of each input, as far as it is said."""
        result = []
        for entry in _layer_list(self.root) or []:
            config = _config(entry)
            shape = config.get("batch_shape", config.get("batch_input_shape"))
            if entry.get("class_name") == "InputLayer" or (not result and shape is not None):
                clean = tuple(shape[1:]) if isinstance(shape, list) else None
                dtype = config.get("dtype")
                result.append((_name(entry), clean, dtype if isinstance(dtype, str) else "float32"))
        return result

    def shapes(self) -> dict[Path, layers.Shape | None]:
        """Shape of each layer's output without the batch axis, as far as it can be told."""
        known: dict[Path, layers.Shape | None] = {}
        _infer(self.root, (), None, known)
        return known

    def split(
        self,
        path: Path,
        first: tuple[str, Mapping[str, Any]],
        second: Mapping[str, Any],
        width: int,
    ) -> Architecture:
        """Replaces one layer by two in sequence.

        The second keeps the name, so that its consumers stay untouched; the first takes over the
        inbound calls of the old one.

        Args:
            path: of the layer.
            first: name and configuration of the new layer, of the same class.
            second: configuration of the one that stays.
            width: last axis of what goes from the first to the second.

        Raises:
            Refusal: the layer cannot be replaced so.
        """
        parent = self.model_at(path[:-1])
        old = next(e for e in _layer_list(parent) or [] if _name(e) == path[-1])
        pair = _split_entry(old, first, second, width)
        entries = [new for e in _layer_list(parent) or [] for new in (pair if e is old else [e])]
        return self._with_model(path[:-1], entries)

    def _with_model(self, path: Path, entries: list[Any]) -> Architecture:
        root = _replaced(self.root, path, entries)
        nodes = tuple(_flatten(root, (), "edited"))
        return replace(self, text=json.dumps(root), root=root, nodes=nodes)

    def names(self, path: Path = ()) -> set[str]:
        """Names of the layers of a (sub)model."""
        return {_name(entry) for entry in _layer_list(self.model_at(path)) or []}


def snake_case(name: str) -> str:
    """A class name as Keras files it: TimeDistributed -> time_distributed."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def specs(node: Node) -> list[layers.WeightSpec]:
    """All weights of a layer, wrapped ones too (roles "forward/kernel"), in Keras's order.

    Raises:
        KeyError: a class is not known.
    """
    if node.is_model:
        parts = [
            (f"{leaf.path[-1]}/", specs(leaf))
            for leaf in _flatten(node.entry, (), "a wrapped model")
        ]
        return _prefixed(parts)
    wrapped = node.wrapped
    if node.class_name in layers.WRAPPERS and wrapped:
        # TimeDistributed and RNN own one layer: its weights need no prefix.
        alone = len(wrapped) == 1
        return _prefixed([("" if alone else f"{role}/", specs(n)) for role, n in wrapped])
    return layers.weights(node.class_name, node.config)


def _prefixed(parts: list[tuple[str, list[layers.WeightSpec]]]) -> list[layers.WeightSpec]:
    return [replace(spec, role=prefix + spec.role) for prefix, part in parts for spec in part]


def _config(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    config = entry.get("config")
    return config if isinstance(config, dict) else {}


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name", _config(entry).get("name"))
    return name if isinstance(name, str) else ""


def _layer_list(entry: Mapping[str, Any]) -> list[Any] | None:
    """The layers of a model's JSON object; None for a plain layer."""
    config = entry.get("config")
    if isinstance(config, list):
        return config
    found = config.get("layers") if isinstance(config, dict) else None
    named = isinstance(entry.get("class_name"), str)
    return found if isinstance(found, list) and named else None


def _version_in(root: Any) -> str:
    version = root.get("keras_version") if isinstance(root, dict) else None
    return version if isinstance(version, str) else "1"


def _dialect(root: Mapping[str, Any], version: str) -> Dialect:
    if version.startswith("1"):
        old = isinstance(root.get("config"), list) or "keras_version" not in root
        return Dialect.KERAS1 if old else Dialect.KERAS2
    major = version.partition(".")[0]
    return Dialect.KERAS3 if major.isdigit() and int(major) >= 3 else Dialect.KERAS2


def _node(entry: Mapping[str, Any], path: Path) -> Node:
    return Node(path, str(entry["class_name"]), _config(entry), _inbound(entry), entry)


def _flatten(model: Mapping[str, Any], path: Path, where: str) -> Iterator[Node]:
    """The layers of a model, depth first; checks that the graph hangs together on the way."""
    seen: set[str] = set()
    entries = _layer_list(model) or []
    if not entries:
        raise InputError(
            f"{where}: the model {'/'.join(path) or ''} has no layers".replace("  ", " ")
        )
    if len(entries) > MAX_LAYERS:
        raise InputError(f"{where}: more than {MAX_LAYERS} layers")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
            raise InputError(f"{where}: layer {index + 1} has no class name that is a text")
        if not isinstance(entry.get("config"), (dict, list)):
            raise InputError(f"{where}: layer {index + 1} has no configuration")
        name = _name(entry)
        if not name:
            name = f"{snake_case(entry['class_name'])}_{index + 1}"
            entry = {**entry, "name": name}
            entries[index] = entry
        if name in seen:
            raise InputError(f"{where}: two layers are called {name!r}")
        seen.add(name)
    for entry in entries:
        for call in _inbound(entry):
            missing = [source for source in call if source not in seen]
            if missing:
                raise InputError(
                    f"{where}: layer {_name(entry)!r} is fed by {missing[0]!r}, which is not there"
                )
    for key in ("input_layers", "output_layers"):
        for name in _ends(_config(model).get(key)):
            if name[0] not in seen:
                raise InputError(f"{where}: {key} names {name[0]!r}, which is not there")
    if "output_layers" in _config(model):
        _depth_order(model, where)
    for entry in entries:
        below = (*path, _name(entry))
        if _layer_list(entry) is not None:
            yield from _flatten(entry, below, where)
        else:
            yield _node(entry, below)


def _ends(value: Any) -> list[tuple[str, int]]:
    """Names and call indices in `input_layers` or `output_layers`, whatever their nesting."""
    if isinstance(value, dict):
        return [end for item in value.values() for end in _ends(item)]
    if not isinstance(value, list):
        return []
    if value and isinstance(value[0], str):
        index = value[1] if len(value) > 1 and isinstance(value[1], int) else 0
        return [(value[0], index)]
    return [end for item in value for end in _ends(item)]


def _calls(entry: Mapping[str, Any]) -> list[list[tuple[str, int]]]:
    """Per call of a layer: (name, call index) of each tensor that goes in."""
    nodes = entry.get("inbound_nodes")
    if not isinstance(nodes, list):
        return []
    calls = []
    for node in nodes:
        if isinstance(node, dict):
            calls.append(list(_histories(node)))
        elif isinstance(node, list):
            items = [node] if node and isinstance(node[0], str) else node
            calls.append([end for item in items for end in _old_item(item)])
    return calls


def _old_item(item: Any) -> Iterator[tuple[str, int]]:
    """One `[name, node, tensor, kwargs]` of Keras 1 and 2; kwargs may hold further tensors."""
    if not isinstance(item, list) or not item:
        return
    if not isinstance(item[0], str):
        for part in item:
            yield from _old_item(part)
        return
    yield item[0], item[1] if len(item) > 1 and isinstance(item[1], int) else 0
    if len(item) > 3 and isinstance(item[3], dict):
        for value in item[3].values():
            if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
                yield value[0], value[1] if isinstance(value[1], int) else 0


def _histories(value: Any) -> Iterator[tuple[str, int]]:
    """The `keras_history` entries of a Keras 3 call, in order."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            history = item.get("keras_history")
            if isinstance(history, list) and history and isinstance(history[0], str):
                yield history[0], history[1] if isinstance(history[1], int) else 0
            else:
                stack.extend(reversed(list(item.values())))
        elif isinstance(item, list):
            stack.extend(reversed(item))


def _inbound(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(name for name, _ in call) for call in _calls(entry))


def _depth_order(model: Mapping[str, Any], where: str) -> list[str]:
    """Layer names by decreasing depth, then by first visit from the outputs."""
    entries = {_name(e): e for e in _layer_list(model) or []}
    calls = {name: _calls(entry) or [[]] for name, entry in entries.items()}
    Call = tuple[str, int]  # noqa: N806 - a type
    indices: dict[str, int] = {}
    finished: list[Call] = []
    state: dict[Call, int] = {}
    config = _config(model)

    def parents(call: Call) -> list[Call]:
        name, index = call
        found = calls[name][index] if index < len(calls[name]) else []
        return [(n, i) if i < len(calls[n]) else (n, 0) for n, i in found]

    for output in _ends(config.get("output_layers")):
        stack = [((output[0], min(output[1], len(calls[output[0]]) - 1)), False)]
        while stack:
            call, leaving = stack.pop()
            if leaving:
                state[call] = 2
                finished.append(call)
                continue
            if state.get(call) == 2:
                continue
            if state.get(call) == 1:
                raise InputError(f"{where}: the layers form a cycle through {call[0]!r}")
            state[call] = 1
            indices.setdefault(call[0], len(indices))
            stack.append((call, True))
            for parent in reversed(parents(call)):
                if state.get(parent) == 1:
                    raise InputError(f"{where}: the layers form a cycle through {parent[0]!r}")
                if state.get(parent) != 2:
                    stack.append((parent, False))
    node_depth: dict[Call, int] = {}
    depth: dict[str, int] = {}
    for call in reversed(finished):
        here = max(node_depth.setdefault(call, 0), depth.get(call[0], 0))
        depth[call[0]] = node_depth[call] = here
        for parent in parents(call):
            node_depth[parent] = max(here + 1, node_depth.get(parent, 0))
    for name, _ in _ends(config.get("input_layers")):
        depth.setdefault(name, 0)
        indices.setdefault(name, -1)
    return sorted(depth, key=lambda name: (-depth[name], indices[name]))


def _infer(
    model: Mapping[str, Any],
    path: Path,
    given: list[layers.Shape | None] | None,
    known: dict[Path, layers.Shape | None],
) -> layers.Shape | None:
    """Fills in output shapes, and returns that of the model's first output."""
    entries = {_name(e): e for e in _layer_list(model) or []}
    shapes: dict[str, layers.Shape | None] = {}
    functional = "output_layers" in _config(model)
    order = _depth_order(model, "shapes") if functional else list(entries)
    starts = iter(given or [])
    previous: layers.Shape | None = next(starts, None) if not functional else None
    for name in order:
        entry, config = entries[name], _config(entries[name])
        batch = config.get("batch_shape", config.get("batch_input_shape"))
        own = tuple(batch[1:]) if isinstance(batch, list) and batch else None
        if entry.get("class_name") == "InputLayer":
            shape = next(starts, None) or own if functional else previous or own
        else:
            sources = [shapes.get(source) for source in (_inbound(entry) or ((),))[0]]
            if not functional:
                sources = [previous if previous is not None else own]
            shape = _shape_of(entry, (*path, name), sources or [own], known)
        shapes[name] = previous = shape
        known[(*path, name)] = shape
    ends = _ends(_config(model).get("output_layers"))
    return shapes.get(ends[0][0]) if ends else previous


def _shape_of(
    entry: Mapping[str, Any],
    path: Path,
    sources: list[layers.Shape | None],
    known: dict[Path, layers.Shape | None],
) -> layers.Shape | None:
    if _layer_list(entry) is not None:
        return _infer(entry, path, sources, known)
    node = _node(entry, path)
    if node.class_name == "TimeDistributed" and node.wrapped and sources[0]:
        inner = _shape_of(node.wrapped[0][1].entry, (*path, "layer"), [sources[0][1:]], known)
        return None if inner is None else (sources[0][0], *inner)
    if node.class_name == "Bidirectional" and node.wrapped:
        inner = _shape_of(node.wrapped[0][1].entry, (*path, "layer"), sources, known)
        if inner and node.config.get("merge_mode", "concat") == "concat" and inner[-1] is not None:
            return (*inner[:-1], 2 * inner[-1])
        return inner
    try:
        return layers.output_shape(node.class_name, node.config, sources)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None  # a configuration of the wrong types: whoever runs it will say so


def _replaced(entry: Mapping[str, Any], path: Path, entries: list[Any]) -> dict[str, Any]:
    """A copy of a model's JSON object with the layers of the submodel at `path` replaced."""
    below = entries
    if path:
        below = [
            _replaced(e, path[1:], entries) if _name(e) == path[0] else e
            for e in _layer_list(entry) or []
        ]
    config = entry["config"]
    return {**entry, "config": below if isinstance(config, list) else {**config, "layers": below}}


def _split_entry(
    old: Mapping[str, Any],
    first: tuple[str, Mapping[str, Any]],
    second: Mapping[str, Any],
    width: int,
) -> list[dict[str, Any]]:
    name, config = first
    one = {**old, "config": dict(config)}
    if "name" in old:
        one["name"] = name
    two = {**old, "config": dict(second)}
    if isinstance(old.get("build_config"), dict):
        shape = old["build_config"].get("input_shape")
        if not isinstance(shape, list):
            raise Refusal("its build configuration has no input shape")
        two["build_config"] = {**old["build_config"], "input_shape": [*shape[:-1], width]}
    nodes = old.get("inbound_nodes")
    if isinstance(nodes, list):
        two["inbound_nodes"] = [_relinked(node, name, i, width) for i, node in enumerate(nodes)]
    return [one, two]


def _relinked(node: Any, name: str, index: int, width: int) -> Any:
    """The call of the second layer on the `index`-th output of the first."""
    if isinstance(node, dict):
        tensors = [arg for arg in node.get("args", []) if isinstance(arg, dict)]
        if len(tensors) != 1 or "config" not in tensors[0]:
            raise Refusal("it is not called on one tensor")
        config = tensors[0]["config"]
        shape = config.get("shape")
        shape = [*shape[:-1], width] if isinstance(shape, list) else shape
        tensor = {
            **tensors[0],
            "config": {**config, "shape": shape, "keras_history": [name, index, 0]},
        }
        return {**node, "args": [tensor]}
    if isinstance(node, list) and node and isinstance(node[0], str):
        return [name, index, 0, *node[3:]]
    if not isinstance(node, list) or len(node) != 1:
        raise Refusal("it is not called on one tensor")
    return [[name, index, 0, *node[0][3:]]]

"""The architecture of a file: a JSON graph of layers, in the dialect of the Keras that wrote it.

Read once, kept to the letter, edited by structural copying: what an edit does not touch stays as
it was, and without an edit the text is the original byte for byte.

Keras orders a model's layers anew when it loads one (by depth in the graph), and loads legacy
HDF5 weights by that order; `.keras` weights are filed by class names counted in that order. So
`order` follows Keras's own rule (`topology.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

from modelcut.errors import InputError
from modelcut.graph import shapes
from modelcut.graph.keras import classes
from modelcut.graph.keras.calls import (
    CallGraph,
    Entry,
    config_of,
    ends,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.keras.saved_order import filed, layer_order, snake_case, specs
from modelcut.graph.node import Node, Path, node_of
from modelcut.safety import load_json, printable

__all__ = [
    "Architecture", "Dialect", "Node", "Path", "Refusal", "dialect_of", "is_own_class",
    "snake_case", "specs",
]  # fmt: skip

MAX_LAYERS = 100_000


class Dialect(str, Enum):
    """Which Keras can load a file."""

    KERAS1 = "keras1"
    KERAS2 = "keras2"
    KERAS3 = "keras3"


class Refusal(Exception):  # noqa: N818 - not an error of the user's
    """An edit that this architecture does not allow, with the reason."""


@dataclass(frozen=True)
class Architecture:
    """An architecture as text, and what modelcut reads in it.

    Attributes:
        text: JSON; as it was read unless it was edited.
        dialect: the generation of Keras that can load it.
        keras_version: version of Keras that wrote the file, as the file says, or "1".
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
            text: the architecture as JSON.
            keras_version: version of Keras that wrote the file.
            where: name of the file in messages.

        Raises:
            InputError: broken JSON, or not a model that hangs together.
        """
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        root = load_json(text, where=where, what="model configuration")
        version = keras_version or _version_in(root)
        if not isinstance(root, dict) or layer_list(root) is None:
            raise InputError(f"{where}: the model configuration is not that of a layered model")
        dialect = _dialect(root, version)
        nodes = tuple(_flatten(root, (), where))
        joined = Counter("/".join(node.path) for node in nodes)
        double = next((name for name, count in joined.items() if count > 1), None)
        if double is not None:  # a layer "a/b" beside the layer "b" of a submodel "a"
            raise InputError(f"{where}: two layers are called {printable(double)!r}")
        return cls(text, dialect, version, root, nodes)

    def model_at(self, path: Path) -> Mapping[str, Any]:
        """The JSON object of a (sub)model; () is the whole."""
        entry = self.root
        for name in path:
            entry = next(e for e in layer_list(entry) or [] if name_of(e) == name)
        return entry

    def order(self, path: Path = ()) -> list[str]:
        """Names of the layers of a (sub)model in the order of Keras's `model.layers`."""
        return layer_order(self.model_at(path), "/".join(path) or "the model")

    def store_paths(self) -> dict[Path, str]:
        """Where the weights of each layer lie in a `.keras` file: "layers/dense_1"."""
        return {node.path: place for node, place in filed(self.root, "the model")}

    def has_own_models(self) -> bool:
        """Whether it, or a submodel, is of a class of its author's, which may own more weights."""
        models = {node.path[:depth] for node in self.nodes for depth in range(len(node.path))}
        return any(self.model_at(path)["class_name"] not in classes.MODELS for path in models)

    def leaves(self, path: Path) -> list[Node]:
        """The layers below a submodel, nested ones too, in Keras's order; or the layer itself."""
        if path in self._by_path:
            return [self._by_path[path]]
        return [leaf for name in self.order(path) for leaf in self.leaves((*path, name))]

    @cached_property
    def _by_path(self) -> dict[Path, Node]:
        return {node.path: node for node in self.nodes}

    def inputs(self) -> list[tuple[str, classes.Shape | None, str]]:
        """Name, shape without the batch axis, and dtype of each input, as far as it is said."""
        entries = {name_of(entry): entry for entry in layer_list(self.root) or []}
        if is_functional(self.root):
            starts = [entries[ref.name] for ref in ends(config_of(self.root).get("input_layers"))]
        else:
            starts = list(entries.values())[:1]
        found = shapes.infer(self.root)
        result = []
        for entry in starts:
            name, dtype = name_of(entry), config_of(entry).get("dtype")
            own = shapes.declared(config_of(entry)) if "InputLayer" in entry["class_name"] else None
            shape = own if own is not None else found[0].get((name,))
            result.append((name, shape, dtype if isinstance(dtype, str) else "float32"))
        return result

    def shapes(self) -> dict[Path, classes.Shape | None]:
        """Shape of each layer's output without the batch axis, as far as it can be told."""
        return shapes.infer(self.root)[1]

    def input_shapes(self) -> dict[Path, classes.Shape | None]:
        """Shape of what goes into each layer first, without the batch axis, where it is known."""
        return shapes.infer(self.root)[0]

    def with_configs(self, changes: Mapping[Path, Mapping[str, Any]]) -> Architecture:
        """This architecture with some keys of the configurations of some layers replaced.

        Args:
            changes: path of a layer -> keys and their new values.
        """
        return self.with_root(_configured(self.root, (), changes))

    def with_root(self, root: Mapping[str, Any]) -> Architecture:
        """This architecture with another JSON object in its place."""
        nodes = tuple(_flatten(root, (), "edited"))
        return replace(self, text=json.dumps(root), root=root, nodes=nodes)

    def with_layers(
        self, path: Path, entries: list[Any], more: Mapping[str, Any] | None = None
    ) -> Architecture:
        """This architecture with the layers of a (sub)model replaced.

        Args:
            path: path of the model; () is the whole.
            entries: JSON objects of its layers.
            more: further keys of its configuration, replaced.
        """
        return self.with_root(_replaced(self.root, path, entries, more or {}))

    def names(self, path: Path = ()) -> set[str]:
        """Names of the layers of a (sub)model."""
        return {name_of(entry) for entry in layer_list(self.model_at(path)) or []}


def is_own_class(root: Any) -> bool:
    """Whether a model's JSON object is of a class of its author's, whose layers it does not list.

    Keras writes such a model's class, its module and what its `get_config` says.
    """
    if not isinstance(root, dict) or layer_list(root) is not None:
        return False
    name = root.get("class_name")
    return isinstance(name, str) and name not in classes.MODELS and "config" in root


def dialect_of(version: str | None) -> Dialect:
    """The dialect of a file of weights alone, by the version of Keras that it names."""
    if version is None:
        return Dialect.KERAS1
    return Dialect.KERAS3 if version.partition(".")[0] not in ("0", "1", "2") else Dialect.KERAS2


def _version_in(root: Any) -> str:
    version = root.get("keras_version") if isinstance(root, dict) else None
    return version if isinstance(version, str) else "1"


def _dialect(root: Mapping[str, Any], version: str) -> Dialect:
    major = version.partition(".")[0]
    if version == "1":  # the file says none: Keras 1 did not, and what has been stripped of it
        return _dialect_seen(root)
    if major == "1":
        return Dialect.KERAS1
    return Dialect.KERAS3 if major.isdigit() and int(major) >= 3 else Dialect.KERAS2


_OLD_KEYS = frozenset("output_dim nb_filter border_mode init W_regularizer input_dtype".split())


def _dialect_seen(model: Entry) -> Dialect:
    """The dialect that the first telling layer speaks; Keras 1 where none tells."""
    for entry in layer_list(model) or []:
        config = config_of(entry)
        nodes = entry.get("inbound_nodes")
        history = isinstance(nodes, list) and any(
            isinstance(n, dict) and "args" in n for n in nodes
        )
        if history or "batch_shape" in config or isinstance(config.get("dtype"), dict):
            return Dialect.KERAS3
        if "kernel_initializer" in config or "module" in entry:
            return Dialect.KERAS2
        if entry.get("class_name") != "Embedding" and _OLD_KEYS & config.keys():
            return Dialect.KERAS1
    return Dialect.KERAS1


def _flatten(model: Mapping[str, Any], path: Path, where: str) -> Iterator[Node]:
    """The layers of a model, depth first; checks that the graph hangs together on the way."""
    seen: set[str] = set()
    entries = layer_list(model) or []
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
        name = name_of(entry)
        if not name:
            name = f"{snake_case(entry['class_name'])}_{index + 1}"
            entry = {**entry, "name": name}
            entries[index] = entry
        if name in seen:
            raise InputError(f"{where}: two layers are called {printable(name)!r}")
        seen.add(name)
    if is_functional(model):
        CallGraph(model, where).order()
    for entry in entries:
        below = (*path, name_of(entry))
        if layer_list(entry) is not None:
            yield from _flatten(entry, below, where)
        else:
            yield node_of(entry, below)


def _replaced(
    entry: Mapping[str, Any], path: Path, entries: list[Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of a model's JSON object with the layers of the submodel at `path` replaced."""
    below = entries
    if path:
        below = [
            _replaced(e, path[1:], entries, more) if name_of(e) == path[0] else e
            for e in layer_list(entry) or []
        ]
    config = entry["config"]
    if isinstance(config, list):
        return {**entry, "config": below}
    return {**entry, "config": {**config, "layers": below, **({} if path else more)}}


def _configured(
    entry: Mapping[str, Any], path: Path, changes: Mapping[Path, Mapping[str, Any]]
) -> dict[str, Any]:
    """A copy of a layer's JSON object, with what `changes` has for it and the layers below it."""
    below, config = layer_list(entry), entry["config"]
    if below is None:
        return {**entry, "config": {**config, **changes.get(path, {})}}
    parts = [_configured(e, (*path, name_of(e)), changes) for e in below]
    return {**entry, "config": parts if isinstance(config, list) else {**config, "layers": parts}}

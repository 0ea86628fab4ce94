"""Architectures edited: channels of dependency groups removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from modelcut.graph.architecture import Architecture
from modelcut.graph.groups import Dependencies
from modelcut.graph.keras.calls import (
    CallGraph,
    Entry,
    Ref,
    config_of,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.keras.channel_values import Value
from modelcut.graph.node import WRAPPED, Path

Kept: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
"""From the channels at some indices to a boolean mask of those indices: which are kept."""


def keeping(gone: np.ndarray) -> Kept:
    """The test for channels that are not among those removed.

    Args:
        gone: int64, shape (n,), no 0 among them: numbers of channels.
    """
    table = np.ones(int(gone.max(initial=0)) + 1, bool)
    table[gone] = False

    def kept(ids: np.ndarray) -> np.ndarray:
        mask = np.ones(ids.shape, bool)
        known = ids < table.size
        mask[known] = table[ids[known]]
        return mask

    return kept


def without_channels(architecture: Architecture, found: Dependencies, kept: Kept) -> Architecture:
    """The architecture of the network without some channels.

    Sizes in configurations follow, and every shape that the file says: of inputs of layers and
    submodels, and of the tensors of Keras 3 calls.

    Args:
        architecture: that `found` was found in.
        found: its dependency groups.
        kept: which channels remain; of a group, all places of a channel are removed or none.
    """
    return architecture.with_root(_Edit(found, kept).model(architecture.root, ()))


class _Edit:
    def __init__(self, found: Dependencies, kept: Kept) -> None:
        self._found = found
        self._kept = kept
        self._shaped: dict[Path, set[str]] = {}
        for path, key in found.shapes:
            self._shaped.setdefault(path, set()).add(key)
        self._sizes: dict[tuple[Path, int | None], list[tuple[str, int | None, int]]] = {}
        for size in found.sizes:
            count = int(kept(size.ids).sum())
            if count != size.ids.size:
                known = self._sizes.setdefault((size.path, size.call), [])
                known.append((size.key, size.index, count))

    def model(self, model: Entry, path: Path) -> dict[str, Any]:
        entries = layer_list(model) or []
        graph = CallGraph(model, "the model") if is_functional(model) else None
        layers = [self._entry(entry, (*path, name_of(entry)), graph) for entry in entries]
        config = model["config"]
        config = layers if isinstance(config, list) else {**config, "layers": layers}
        return {**model, "config": config}

    def _entry(self, entry: Entry, path: Path, graph: CallGraph | None) -> dict[str, Any]:
        new = dict(entry) if layer_list(entry) is None else self.model(entry, path)
        given = self._found.given.get(path, ())
        if isinstance(new["config"], dict):
            new["config"] = self._config(new["config"], path, given, str(entry["class_name"]))
        built = new.get("build_config")
        if isinstance(built, dict) and given:
            new["build_config"] = self._built(built, path, given)
        nodes = new.get("inbound_nodes")
        if graph is not None and isinstance(nodes, list):
            nodes = [self._called(node, path, index) for index, node in enumerate(nodes)]
            new["inbound_nodes"] = self._tensors(nodes, path[:-1], graph)
        return new

    def _built(
        self, built: Mapping[str, Any], path: Path, given: Sequence[Value]
    ) -> dict[str, Any]:
        """What Keras builds a layer from: its input's shape, or several by name."""
        new = dict(built)
        for key, value in built.items():
            if key == "shapes_dict" and isinstance(value, dict):
                new[key] = self._built(value, path, given)
            elif (path, key) in self._found.shapes:
                new[key] = self._shapes(value, self._found.shapes[path, key])
            elif key == "input_shape":
                new[key] = self._shapes(value, given)
        return new

    def _called(self, node: Any, path: Path, index: int) -> Any:
        """A call whose keyword arguments follow."""
        for key, place, count in self._sizes.get((path, index), ()):
            node = _with_argument(node, key, place, count)
        return node

    def _wrapped(self, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """A configuration whose layers inside of the layer follow."""
        new = dict(config)
        for role, key in WRAPPED:
            inner = config.get(key)
            if isinstance(inner, list):
                new[key] = [
                    self._inside(each, (*path, role if len(inner) == 1 else f"{role}{n}"))
                    for n, each in enumerate(inner)
                ]
            elif isinstance(inner, dict):
                new[key] = self._inside(inner, (*path, role))
        return new

    def _inside(self, entry: Any, path: Path) -> Any:
        if isinstance(entry, dict) and path in self._found.given:
            return self._entry(entry, path, None)
        return entry

    def _config(
        self, config: Mapping[str, Any], path: Path, given: Sequence[Value], kind: str
    ) -> dict[str, Any]:
        new = self._wrapped(config, path)
        for key, index, count in self._sizes.get((path, None), ()):
            if index is None:
                new[key] = count
            else:
                new[key] = [count if i == index else n for i, n in enumerate(new[key])]
        if not given:
            return new
        for key in new.keys() & self._shaped.get(path, ()):
            new[key] = self._shapes(new[key], self._found.shapes[path, key])
        for key in ("batch_input_shape", "batch_shape", "build_input_shape"):
            if key in new:
                new[key] = self._shape(new[key], given[0])
        if isinstance(new.get("input_shape"), list):
            new["input_shape"] = self._shape([None, *new["input_shape"]], given[0])[1:]
        value = given[0]
        if value.ids is None or kind == "Embedding":
            return new
        last = value.shape is None or value.axis == len(value.shape) - 1
        if last and new.get("input_dim") == value.ids.size:
            new["input_dim"] = int(self._kept(value.ids).sum())
        return new

    def _shapes(self, said: Any, given: Sequence[Value]) -> Any:
        """One shape, or one for each input."""
        if isinstance(said, list) and said and all(isinstance(item, list) for item in said):
            pairs = zip(said, (*given, *[Value(None)] * len(said)), strict=False)
            return [self._shape(shape, value) for shape, value in pairs]
        return self._shape(said, given[0])

    def _shape(self, said: Any, value: Value) -> Any:
        """A shape of the file, with the batch axis, after the removal."""
        if value.ids is None or not isinstance(said, list) or not said:
            return said
        axis = len(said) - 1
        if value.shape is not None:
            axis = value.axis + 1
        known = value.shape is None or len(said) == len(value.shape) + 1
        if not known or said[axis] != value.ids.size:
            return said
        count = int(self._kept(value.ids).sum())
        return [count if i == axis else n for i, n in enumerate(said)]

    def _tensors(self, item: Any, path: Path, graph: CallGraph) -> Any:
        """The calls of a layer; Keras 3 writes the shape of each tensor into them."""
        if isinstance(item, list):
            return [self._tensors(each, path, graph) for each in item]
        if not isinstance(item, dict):
            return item
        config = config_of(item)
        history = config.get("keras_history")
        if not (isinstance(history, list) and len(history) == 3 and isinstance(history[0], str)):
            return {key: self._tensors(value, path, graph) for key, value in item.items()}
        name, call, tensor = history
        value = self._found.values.get((path, graph.call_of(Ref(name, call, tensor), ""), tensor))
        if value is None or "shape" not in config:
            return item
        return {**item, "config": {**config, "shape": self._shape(config["shape"], value)}}


def _with_argument(node: Any, key: str, index: int | None, count: int) -> Any:
    """A call of tf_keras, of whose tensors each says the keyword arguments, with one changed."""
    if isinstance(node, dict):
        if isinstance(node.get(key), list) and index is not None:
            return {**node, key: [count if i == index else n for i, n in enumerate(node[key])]}
        return node
    if isinstance(node, list):
        return [_with_argument(item, key, index, count) for item in node]
    return node

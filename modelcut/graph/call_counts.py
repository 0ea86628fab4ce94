"""How often each layer is called in one inference, and with what: what its work is counted from."""

from __future__ import annotations

from collections import Counter
from typing import Any

from modelcut.graph import shapes
from modelcut.graph.keras import layer_shapes
from modelcut.graph.keras.calls import (
    Call,
    CallGraph,
    Entry,
    Ref,
    config_of,
    is_functional,
    keywords,
    layer_list,
    name_of,
)
from modelcut.graph.keras.classes import Shape
from modelcut.graph.node import Node, Path, node_of

Sources = tuple["Shape | None", ...]
Calls = Counter[tuple[Path, Sources]]
"""A layer and the shapes that go into one call of it, without the batch axis -> such calls."""

MAX_KINDS = 200_000
"""So many pairs of a layer and its input shapes are looked at."""


class TooManyError(Exception):
    """The calls of a network are too many kinds to be counted."""


def calls(root: Entry, given: Sources = ()) -> Calls:
    """Counts the calls of all layers that the outputs of a network need.

    Args:
        root: the network.
        given: shapes of its inputs, without the batch axis, where the file does not say them.

    What a submodel does with inputs of the same shapes is worked out once, so that the work is
    bounded by what the file holds, however often submodels are called.

    Raises:
        InputError: the layers do not hang together.
        TooManyError: layers are called with too many shapes.
    """
    return _Counting().model(root, (), given)[1]


def total(root: Entry) -> int:
    """How many calls of layers one inference has, and outputs of models, both at each call of one.

    Nothing is followed twice, so that it is told at once of what would take forever to run.

    Raises:
        InputError: the layers do not hang together.
    """
    if not is_functional(root):
        return 1 + sum(_of_entry(entry) for entry in layer_list(root) or [])
    graph = CallGraph(root, "the model")
    count = len(graph.outputs)
    known: dict[str, int] = {}
    for name, _ in graph.sequence():
        if name not in known:
            known[name] = _of_entry(graph.entries[name])
        count += known[name]
    return count


def _of_entry(entry: Entry) -> int:
    """One call of a layer, with those inside of a submodel, or of one that it holds."""
    if layer_list(entry) is not None:
        return total(entry)
    held = [inner.entry for _, inner in node_of(entry, ()).wrapped]
    return 1 + sum(_of_entry(inner) for inner in held)


class _Counting:
    def __init__(self) -> None:
        self._done: dict[tuple[Path, Sources], tuple[list[Shape | None], Calls]] = {}
        self._nodes: dict[Path, Node] = {}
        self._kinds = 0

    def model(self, model: Entry, path: Path, given: Sources) -> tuple[list[Shape | None], Calls]:
        """The shapes of a model's outputs, and the calls of its layers, of one call of it."""
        key = (path, given)
        if key not in self._done:
            found: Calls = Counter()
            functional = is_functional(model)
            outputs = (self._functional if functional else self._stacked)(model, path, given, found)
            self._done[key] = outputs, found
        return self._done[key]

    def _stacked(
        self, model: Entry, path: Path, given: Sources, found: Calls
    ) -> list[Shape | None]:
        shape = given[0] if given else shapes.built(model)
        for index, entry in enumerate(layer_list(model) or []):
            if entry.get("class_name") == "InputLayer":
                shape = shape if shape is not None else shapes.declared(config_of(entry))
                continue
            if shape is None and index == 0:
                shape = shapes.built(entry)
            shape = self._call(entry, (*path, name_of(entry)), (shape,), found)[0]
        return [shape]

    def _functional(
        self, model: Entry, path: Path, given: Sources, found: Calls
    ) -> list[Shape | None]:
        graph = CallGraph(model, "shapes")
        fed = dict(zip((ref.name for ref in graph.inputs), given, strict=False))
        said = {
            (graph.call_of(ref, ""), ref.tensor): shapes.without_batch(ref.shape)
            for known in graph.calls.values()
            for call in known
            for ref in call
        }
        made: dict[Call, list[Shape | None]] = {}

        def shape_of(ref: Ref, *, end: bool = False) -> Shape | None:
            call = graph.call_of(ref, "", end=end)
            outputs = made.get(call, [])
            known = outputs[ref.tensor] if ref.tensor < len(outputs) else None
            return known if known is not None else said.get((call, ref.tensor))

        for name, index in graph.sequence():
            entry = graph.entries[name]
            if entry.get("class_name") == "InputLayer":
                shape = fed.get(name)
                shape = shape if shape is not None else shapes.declared(config_of(entry))
                made[name, index] = [shape]
                continue
            sources = tuple(shape_of(ref) for ref in graph.calls[name][index])
            sources = _in_order(entry, index, sources)
            call = shapes.call_at(entry, index)
            made[name, index] = self._call(entry, (*path, name), sources, found, call)
        return [shape_of(ref, end=True) for ref in graph.outputs]

    def _call(
        self, entry: Entry, path: Path, sources: Sources, found: Calls, call: Any = None
    ) -> list[Shape | None]:
        """Shapes of the outputs of one call, which is added to those found."""
        if layer_list(entry) is not None:
            outputs, inside = self.model(entry, path, sources)
        else:
            node = self._nodes.get(path) or self._nodes.setdefault(path, node_of(entry, path))
            outputs = shapes.of_call(node, sources, call)
            inside = Counter({(path, sources): 1})
        self._kinds += len(inside)
        if self._kinds > MAX_KINDS:
            raise TooManyError
        found.update(inside)
        return outputs or [None]


def _in_order(entry: Entry, index: int, sources: Sources) -> Sources:
    """The inputs of an attention as query, value, key, however they were given; others as given."""
    nodes = entry.get("inbound_nodes")
    if entry.get("class_name") not in layer_shapes.MULTI_HEAD or not isinstance(nodes, list):
        return sources
    names = keywords(nodes[index]) if index < len(nodes) else []
    if len(names) != len(sources):
        return sources
    plain = iter(("query", "value", "key"))
    by_name = {name or next(plain, ""): shape for name, shape in zip(names, sources, strict=True)}
    return tuple(by_name[name] for name in ("query", "value", "key") if name in by_name)

"""Who feeds whom inside one model of an architecture's JSON, and the order that follows from it.

Reads the calls of Keras 1 and 2 (`["dense", 0, 0, {}]`), of tf.keras (the same inside any
structure, constants, tensors among the keyword arguments) and of Keras 3 (`keras_history`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from modelcut.errors import InputError
from modelcut.graph.keras.classes import MODELS
from modelcut.safety import printable

Entry = Mapping[str, Any]
"""The JSON object of one layer or model."""

_CONSTANT = "_CONSTANT_VALUE"


class Ref(NamedTuple):
    """A tensor: which output of which call of which layer.

    Attributes:
        name: name of the layer.
        call: index of the call, as written in the file; see `CallGraph.call_of`.
        tensor: index of the output.
        shape: with the batch axis, where the file says it (Keras 3).
    """

    name: str
    call: int
    tensor: int
    shape: Any = None


def config_of(entry: Entry) -> Mapping[str, Any]:
    """The configuration of a layer; {} where it is a list."""
    config = entry.get("config")
    return config if isinstance(config, dict) else {}


def name_of(entry: Entry) -> str:
    """The name of a layer; "" where it has none."""
    name = entry.get("name", config_of(entry).get("name"))
    return name if isinstance(name, str) else ""


def layer_list(entry: Entry) -> list[Any] | None:
    """The layers of a model's JSON object; None for a plain layer.

    A layer of its author's own may list layers too. What tells it from a model that was built: a
    layer says that it is trainable, a model which layers feed which, or what shape goes in.
    """
    config = entry.get("config")
    if isinstance(config, list):
        return config
    name = entry.get("class_name")
    if not isinstance(config, dict) or not isinstance(name, str):
        return None
    found = config.get("layers")
    layer = name not in MODELS and "trainable" in config
    model = "output_layers" in config or "build_input_shape" in config
    return found if isinstance(found, list) and (model or not layer) else None


def is_functional(model: Entry) -> bool:
    """Whether a model says by itself which layers feed which."""
    return "output_layers" in config_of(model)


def ends(value: Any) -> list[Ref]:
    """The tensors of `input_layers` or `output_layers`, in Keras's order: dicts by sorted keys."""
    return [Ref(item[0], _index(item[1]), _index(item[2])) for item in _leaves(value)]


def calls(entry: Entry) -> list[list[Ref]]:
    """Per call of a layer: the tensors that go in, in the order in which Keras visits them."""
    nodes = entry.get("inbound_nodes")
    if not isinstance(nodes, list):
        return []
    return [list(_histories(n) if _is_keras3(n) else _old_refs(n)) for n in nodes]


def keywords(node: Any) -> list[str]:
    """For each tensor of a call, in the order of `calls`, its keyword; "" where it has none."""
    if _is_keras3(node):
        named = node.get("kwargs")
        named = named if isinstance(named, dict) else {}
        found = [""] * len(list(_histories({"args": node["args"]})))
        return found + [k for k in sorted(named) for _ in _histories({"args": [named[k]]})]
    found, kwargs = [], None
    for item in _leaves(node):
        kwargs = item[3] if len(item) == 4 else None
        found += [""] * (item[0] != _CONSTANT)
    for key, value in kwargs.items() if isinstance(kwargs, dict) else ():
        found += [key for ref in ends(value) if ref.name != _CONSTANT]
    return found


def _is_keras3(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("args"), list)


def _index(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _leaves(value: Any) -> Iterator[list[Any]]:
    """The `[name, call, tensor, …]` lists in a structure; dicts in the order of their keys."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _leaves(value[key])
    elif isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int):
            yield value
        else:
            for item in value:
                yield from _leaves(item)


def _old_refs(node: Any) -> Iterator[Ref]:
    kwargs: Any = {}
    for item in _leaves(node):
        kwargs = item[3] if len(item) == 4 else {}
        if item[0] != _CONSTANT:
            yield Ref(item[0], _index(item[1]), _index(item[2]))
    # tf.keras visits keyword arguments as they were given, and sorts dicts only inside of them.
    for value in kwargs.values() if isinstance(kwargs, dict) else ():
        yield from (ref for ref in ends(value) if ref.name != _CONSTANT)


def _histories(node: Mapping[str, Any]) -> Iterator[Ref]:
    """The `keras_history` entries of a Keras 3 call: positional arguments first."""
    stack: list[Any] = [node.get("kwargs"), node.get("args")]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            config = config_of(item)
            history = config.get("keras_history")
            if isinstance(history, list) and len(history) == 3 and isinstance(history[0], str):
                yield Ref(history[0], _index(history[1]), _index(history[2]), config.get("shape"))
            else:
                stack.extend(item[key] for key in sorted(item, reverse=True))
        elif isinstance(item, list):
            stack.extend(reversed(item))


Call = tuple[str, int]


class CallGraph:
    """The calls of one functional model.

    Attributes:
        entries: the layers by name.
        calls: per layer, per call, the tensors that go in; a layer without calls (an input) has
            one that takes nothing.
        outputs: the output tensors of the model.
        inputs: the input tensors of the model.
    """

    def __init__(self, model: Entry, where: str) -> None:
        """Reads and checks a model.

        Raises:
            InputError: a layer or a call that is referred to is not there.
        """
        config = config_of(model)
        self.where = where
        self.entries: dict[str, Entry] = {name_of(e): e for e in layer_list(model) or []}
        self.calls = {name: calls(entry) or [[]] for name, entry in self.entries.items()}
        self.outputs = ends(config.get("output_layers"))
        self.inputs = ends(config.get("input_layers"))
        if not self.outputs:
            raise InputError(f"{where}: the model has no outputs")
        self._first = self._first_indices()
        for name, found in self.calls.items():
            for call in found:
                for ref in call:
                    self.call_of(ref, f"layer {printable(name)!r}")
        for ref in (*self.outputs, *self.inputs):
            self.call_of(ref, "the list of inputs and outputs", end=True)

    def _first_indices(self) -> dict[tuple[str, bool], int]:
        """What index a submodel's first call has: (name, among inputs and outputs) -> 0 or 1.

        Keras 1 and 2 count a submodel's own input-to-output link as its call 0. Keras 3 does so
        for functional submodels, and only where a model lists its outputs.
        """
        submodels = {name for name, e in self.entries.items() if layer_list(e) is not None}
        seen: dict[tuple[str, bool], set[int]] = {}
        modern = any(
            _is_keras3(node)
            for entry in self.entries.values()
            if isinstance(entry.get("inbound_nodes"), list)
            for node in entry["inbound_nodes"]
        )
        for found in self.calls.values():
            for ref in (ref for call in found for ref in call if ref.name in submodels):
                seen.setdefault((ref.name, False), set()).add(ref.call)
        for ref in (ref for ref in self.outputs if ref.name in submodels):
            seen.setdefault((ref.name, modern), set()).add(ref.call)
        first = {}
        for (name, end), indices in seen.items():
            count = len(self.calls[name])
            stacked = self.entries[name].get("class_name") == "Sequential"
            usual = int(end and not stacked) if modern else 1
            first[name, end] = 1 if count in indices else 0 if 0 in indices else usual
            if not modern:
                first[name, True] = first[name, False]
        return first

    def call_of(self, ref: Ref, user: str, *, end: bool = False) -> Call:
        """The call that a tensor comes from: layer and index in `calls`.

        Raises:
            InputError: there is none.
        """
        if ref.name not in self.calls:
            raise InputError(
                f"{self.where}: {user} uses {printable(ref.name)!r}, which is not there"
            )
        index, count = ref.call - self._first.get((ref.name, end), 0), len(self.calls[ref.name])
        if not 0 <= index < count:
            name = printable(ref.name)
            raise InputError(
                f"{self.where}: {user} uses call {ref.call} of {name!r}, which has {count}"
            )
        return ref.name, index

    def parents(self, call: Call) -> list[Call]:
        """The calls whose outputs go into a call."""
        return [self.call_of(ref, "") for ref in self.calls[call[0]][call[1]]]

    def sequence(self) -> list[Call]:
        """The calls that the outputs need, each after those that feed it."""
        state: dict[Call, bool] = {}
        finished: list[Call] = []
        for ref in self.outputs:
            self._visit(self.call_of(ref, "", end=True), state, {}, finished)
        return finished

    def order(self) -> list[str]:
        """Layer names by decreasing depth, then by first visit from the outputs.

        Depth and visits as in keras/src/ops/function.py, `map_graph`. A layer that no output needs
        is left out, as Keras does.

        Raises:
            InputError: the layers form a cycle.
        """
        indices: dict[str, int] = {}
        state: dict[Call, bool] = {}
        finished: list[Call] = []
        for ref in self.outputs:
            self._visit(self.call_of(ref, "", end=True), state, indices, finished)
        used = len(finished)
        for name, found in self.calls.items():  # cycles hide where no output leads, too
            for index in range(len(found)):
                self._visit((name, index), state, {}, finished)
        call_depth: dict[Call, int] = {}
        depth: dict[str, int] = {}
        for call in reversed(finished[:used]):
            here = max(call_depth.setdefault(call, 0), depth.get(call[0], 0))
            depth[call[0]] = call_depth[call] = here
            for parent in self.parents(call):
                call_depth[parent] = max(here + 1, call_depth.get(parent, 0))
        for ref in self.inputs:
            if ref.name not in depth:
                depth[ref.name], indices[ref.name] = 0, -1
        return sorted(depth, key=lambda name: (-depth[name], indices[name]))

    def _visit(
        self, start: Call, state: dict[Call, bool], indices: dict[str, int], finished: list[Call]
    ) -> None:
        """Depth first from `start` to the inputs; `state` is False while a call is in progress."""
        stack = [(start, False)]
        while stack:
            call, leaving = stack.pop()
            if leaving:
                state[call] = True
                finished.append(call)
            elif call not in state:
                state[call] = False
                indices.setdefault(call[0], len(indices))
                stack.append((call, True))
                for parent in reversed(self.parents(call)):
                    if state.get(parent) is False:
                        name = printable(parent[0])
                        raise InputError(f"{self.where}: the layers form a cycle through {name!r}")
                    stack.append((parent, False))

"""The walk over a network that follows its channels, call by call, from its inputs on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modelcut.graph import call_counts, shapes
from modelcut.graph.keras import channel_rules, classes
from modelcut.graph.keras.calls import (
    Call,
    CallGraph,
    Entry,
    Ref,
    config_of,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.keras.channel_values import MAX_VALUES, Barrier, Value
from modelcut.graph.node import Node, Path, node_of
from modelcut.graph.unions import Unions

MAX_CALLS = 25_000
"""So many calls of layers are followed, those inside of submodels at each call of them."""

MAX_INDICES = 1 << 24
"""So many indices of channels are held for all tensors between layers together."""

MAX_WORK = 1 << 28
"""So many indices of channels are looked at, of what goes into all calls together."""

OUTPUT = "its channels are the network's outputs"

Weights = Mapping[Path, Mapping[str, tuple[int, ...]]]
"""The shapes of each layer's weights, by role."""


class TooManyError(Exception):
    """The calls of a network, or the channels of its tensors, are too many to be followed."""


@dataclass(frozen=True)
class Called:
    """One call of a layer.

    Attributes:
        path: of the layer; of the submodel, where a tensor leaves one.
        entry: the JSON object of the layer; not to be changed.
        sources: the calls that what goes in comes from, as numbers from 1; 0 for no call.
        leaves: it is no call: a tensor becomes an output of the submodel.
    """

    path: Path
    entry: Entry
    sources: tuple[int, ...]
    leaves: bool = False


class Walk:
    """The state of the walk; see `Channels` for what the rules ask."""

    def __init__(self, weights: Weights, fixed: Collection[tuple[Path, str]]) -> None:
        self._weights = weights
        self._fixed = frozenset(fixed)
        self.unions = Unions("nothing tells what becomes of its channels")
        self.slots: dict[tuple[Path, str, int], tuple[np.ndarray, str]] = {}
        self.sizes: dict[tuple[Path, str, int | None, int | None], np.ndarray] = {}
        self.scales: dict[tuple[Path, str], np.ndarray] = {}
        self.mixed: dict[Path, np.ndarray] = {}
        self.said_shapes: dict[tuple[Path, str], Sequence[Value]] = {}
        self._known: dict[Path, set[str]] = defaultdict(set)
        self._within: dict[Path, tuple[Path, str]] = {}
        self.values: dict[tuple[Path, Call, int], Value] = {}
        self.given: dict[Path, list[Value]] = {}
        self.reasons: dict[Path, str] = {}
        self._graphs: dict[Path, tuple[CallGraph, list[Call]]] = {}
        self._nodes: dict[Path, Node] = {}
        self.trace: list[Called] = []
        self.ends: tuple[int, ...] = ()
        self._calls: list[tuple[Any, int]] = [(None, 0)]
        self._held: set[int] = set()
        self._indices = self._work = 0
        self.new, self.pin, self.join = self.unions.new, self.unions.pin, self.unions.join

    @property
    def call(self) -> Any:
        return self._calls[-1][0]

    def _place(self, path: Path, role: str = "") -> tuple[Path, str]:
        """The layer that has the weights of another inside of it, and their role there."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self._within:
                outer, prefix = self._within[path[:depth]]
                below = "".join(f"{name}/" for name in path[depth:])
                return self._place(outer, prefix + below + role)
        return path, role

    def weight(self, path: Path, role: str) -> tuple[int, ...]:
        place, full = self._place(path, role)
        found = self._weights.get(place, {}).get(full)
        if found is None:
            raise Barrier(f"has no weight {role}")
        return found

    def roles(self, path: Path) -> frozenset[str]:
        place, prefix = self._place(path)
        found = self._weights.get(place, {})
        return frozenset(role[len(prefix) :] for role in found if role.startswith(prefix))

    def slot(self, path: Path, role: str, axis: int, ids: np.ndarray, use: str) -> None:
        shape = self.weight(path, role)
        if axis >= len(shape) or shape[axis] != ids.size:
            raise Barrier(f"has a weight {role} of another shape")
        place, full = self._place(path, role)
        self._known[place].add(full)
        if (place, full, axis) in self.slots:
            self.join(self.slots[place, full, axis][0], ids, _called_on_kept(place))
        else:
            self.slots[place, full, axis] = ids, use

    def free(self, path: Path, role: str) -> None:
        place, full = self._place(path, role)
        self._known[place].add(full)

    def scaled(self, path: Path, role: str, ids: np.ndarray) -> bool:
        place = self._place(path, role)
        known = self.scales.setdefault(place, ids)
        self.join(known, ids, _called_on_kept(place[0]))
        return place not in self._fixed

    def size(self, path: Path, key: str, index: int | None, ids: np.ndarray) -> None:
        self._count((path, key, index, None), ids)

    def argument(self, path: Path, key: str, index: int, ids: np.ndarray) -> None:
        self._count((path, key, index, self._calls[-1][1]), ids)

    def _count(self, where: tuple[Path, str, int | None, int | None], ids: np.ndarray) -> None:
        known = self.sizes.setdefault(where, ids)
        if known.size != ids.size:
            self.pin(known, "one setting stands for two sizes")
            self.pin(ids, "one setting stands for two sizes")
        elif known is not ids:
            self.join(known, ids, _called_on_kept(where[0]))

    def shape(self, path: Path, key: str, *values: Value) -> None:
        known = self.said_shapes.setdefault((path, key), values)
        for one, other in zip(known, values, strict=False):
            self._meet(path, one, other)

    def mixes(self, path: Path, ids: np.ndarray | None) -> None:
        if ids is not None:
            self.mixed.setdefault(self._place(path)[0], ids)

    def inner(self, path: Path, outer: Path, prefix: str, given: Sequence[Value]) -> None:
        self._within[path] = outer, prefix
        self._take(path, list(given))

    def model(self, node: Node, given: Sequence[Value]) -> list[Value]:
        return self._model(node.entry, node.path, given)

    def follow(self, root: Entry) -> None:
        """Follows the channels through the network, and keeps what comes out of it.

        Raises:
            InputError: the layers do not hang together.
            TooManyError: it would take too long.
        """
        if call_counts.total(root) > MAX_CALLS:
            raise TooManyError
        values = self._model(root, (), None)
        self.ends = tuple(value.source for value in values)
        ends = {id(value.ids): value.ids for value in values if value.ids is not None}
        for ids in ends.values():
            self.unions.put_first(ids, OUTPUT)  # that reason is told before any other
        if _is_apart(root):
            self._close((), "the model is of a class of its author's")

    # The walk.

    def _model(self, model: Entry, path: Path, given: Sequence[Value] | None) -> list[Value]:
        """Follows the channels through a model; returns what comes out of it."""
        if is_functional(model):
            return self._functional(model, path, given)
        value = given[0] if given else _opaque(shapes.built(model))
        for index, entry in enumerate(layer_list(model) or []):
            below = (*path, name_of(entry))
            if entry.get("class_name") == "InputLayer":
                value = self._input(entry, below, value if value.shape is not None else None)
            else:
                if value.shape is None and index == 0:
                    value = _opaque(shapes.built(entry))
                value = self._call(entry, below, [value], None)[0]
            self._keep(path, (name_of(entry), 0), [value])
        return [value]

    def _functional(self, model: Entry, path: Path, given: Sequence[Value] | None) -> list[Value]:
        known = path in self._graphs
        if not known:
            graph = CallGraph(model, "the model")
            self._graphs[path] = graph, graph.sequence()
        graph, sequence = self._graphs[path]
        fed = dict(zip((ref.name for ref in graph.inputs), given or (), strict=False))
        made: dict[Call, list[Value]] = {}

        def value_of(ref: Ref, *, end: bool = False) -> Value:
            outputs = made.get(graph.call_of(ref, "", end=end), [])
            found = outputs[ref.tensor] if ref.tensor < len(outputs) else Value(None)
            if found.shape is not None or found.ids is not None:
                return found
            source = found.source
            if outputs and layer_list(graph.entries[ref.name]) is None:
                source = outputs[0].source
            return replace(_opaque(shapes.without_batch(ref.shape)), source=source)

        for name, index in sequence:
            entry, below = graph.entries[name], (*path, name)
            if entry.get("class_name") == "InputLayer":
                made[name, index] = [self._input(entry, below, fed.get(name))]
            else:
                sources = [value_of(ref) for ref in graph.calls[name][index]]
                made[name, index] = self._call(entry, below, sources, index)
            self._keep(path, (name, index), made[name, index])
        if not known:
            every = {(name, i) for name, found in graph.calls.items() for i in range(len(found))}
            for call in sorted(every - set(sequence)):
                for ref in graph.calls[call[0]][call[1]]:
                    self.pin(value_of(ref).ids, f"{'/'.join((*path, call[0]))} leads to no output")
        return [value_of(ref, end=True) for ref in graph.outputs]

    def _input(self, entry: Entry, path: Path, fed: Value | None) -> Value:
        if fed is None:
            return _opaque(shapes.declared(config_of(entry)))
        self._take(path, [fed])
        return replace(fed, source=self._called(path, entry, [fed]))

    def _called(
        self, path: Path, entry: Entry, sources: Sequence[Value], *, leaves: bool = False
    ) -> int:
        """The number of a call, which is remembered."""
        self.trace.append(Called(path, entry, tuple(one.source for one in sources), leaves))
        return len(self.trace)

    def _take(self, path: Path, given: list[Value]) -> None:
        """Remembers what goes into a layer; what goes in at another call becomes the same."""
        for one, other in zip(self.given.setdefault(path, given), given, strict=False):
            self._meet(path, one, other)

    def _keep(self, path: Path, call: Call, values: list[Value]) -> None:
        """Remembers what comes out of a call; so where a submodel is called again."""
        for index, value in enumerate(values):
            if value.ids is not None and id(value.ids) not in self._held:
                self._held.add(id(value.ids))
                self._indices += value.ids.size
            if self._indices > MAX_INDICES:
                raise TooManyError
            known = self.values.setdefault((path, call, index), value)
            self._meet((*path, call[0]), known, value)

    def _meet(self, path: Path, one: Value, other: Value) -> None:
        if one is other:
            return
        both = one.ids is not None and other.ids is not None and one.axis == other.axis
        if both and len(one.ids) == len(other.ids):  # type: ignore[arg-type]
            self.join(one.ids, other.ids, _called_on_kept(path))  # type: ignore[arg-type]
            return
        for ids in (one.ids, other.ids):
            self.pin(ids, f"{'/'.join(path)} is called with different inputs")

    def _call(
        self, entry: Entry, path: Path, sources: list[Value], index: int | None
    ) -> list[Value]:
        if not sources:
            sources = [Value(None)]
        self._work += sum(0 if one.ids is None else one.ids.size for one in sources)
        if self._work > MAX_WORK:
            raise TooManyError
        self._take(path, sources)
        if layer_list(entry) is not None:
            return self._submodel(entry, path, sources)
        node = self._nodes.get(path) or self._nodes.setdefault(path, node_of(entry, path))
        call = None if index is None else shapes.call_at(entry, index)
        self._calls.append((call, index or 0))
        try:
            found = self._by_rule(node, sources)
        except Barrier as barrier:
            found = [self._barrier(node, sources, str(barrier))]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            found = [self._barrier(node, sources, "has an odd configuration")]
        finally:
            self._calls.pop()
        number = self._called(path, entry, sources)
        return [replace(value, source=number) for value in found]

    def _submodel(self, entry: Entry, path: Path, sources: list[Value]) -> list[Value]:
        found = self._model(entry, path, sources) or [Value(None)]
        apart = _is_apart(entry)
        if apart:
            shared = "shared_object_id" in entry
            kind = f"{'/'.join(path)} ({entry.get('class_name')})"
            why = "is shared with another part of the model" if shared else (
                "is of a class whose channels are not followed"
            )  # fmt: skip
            self._close(path, f"{kind} {why}")
            for value in (*sources, *found):
                self.pin(value.ids, f"{kind} {why}")
        return [
            replace(value, source=self._called(path, entry, [value], leaves=True))
            for value in found
        ]

    def _close(self, path: Path, why: str) -> None:
        """Keeps all channels of the layers below a model."""
        for (place, _, _), (ids, _) in self.slots.items():
            if place[: len(path)] == path:
                self.pin(ids, why)
        for place in self._weights:
            if place[: len(path)] == path:
                self.reasons.setdefault(place, why)

    def _by_rule(self, node: Node, sources: list[Value]) -> list[Value]:
        rule = channel_rules.of(node)
        if "shared_object_id" in node.entry:
            raise Barrier("is shared with another part of the model")
        if rule is None:
            raise Barrier("is of a class whose channels are not followed")
        if len(sources) > 1 and not channel_rules.joins(rule):
            raise Barrier("has several inputs")
        result = rule(self, node, sources)
        place, prefix = self._place(node.path)
        extra = {prefix + role for role in self.roles(node.path)} - self._known[place]
        if extra:
            raise Barrier(f"has a weight {min(extra)} that is not followed")
        return result if isinstance(result, list) else [result]

    def _barrier(self, node: Node, sources: list[Value], why: str) -> Value:
        own = f"{'/'.join(node.path)} ({node.class_name}) {why}"
        place, prefix = self._place(node.path)
        holds = f"it holds {'/'.join(node.path)} ({node.class_name}), which {why}"
        self.reasons.setdefault(place, f"it {why}" if place == node.path else holds)
        for value in sources:
            self.pin(value.ids, own)
        for role in self._known[place]:
            for axis in range(len(self.weight(place, role))):
                if role.startswith(prefix) and (place, role, axis) in self.slots:
                    self.pin(self.slots[place, role, axis][0], own)
        return _opaque(shapes.of_call(node, [value.shape for value in sources], self.call)[0])


def _called_on_kept(path: Path) -> str:
    return f"{'/'.join(path)} is called again with channels that are kept"


def _is_apart(model: Entry) -> bool:
    """Whether a submodel may do more than its layers say, or be another part of the model too."""
    return "shared_object_id" in model or model.get("class_name") not in classes.MODELS


def _opaque(shape: classes.Shape | None) -> Value:
    """What comes from where channels are not followed: all of it is kept."""
    length = shape[-1] if shape else None
    if shape is None or length is None or not 0 <= length <= MAX_VALUES:
        return Value(shape)
    return Value(shape, len(shape) - 1, np.zeros(length, np.int64))

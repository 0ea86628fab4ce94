"""Dependency groups: which channels of which weights can only be removed together.

Every channel that a layer makes is followed to all that carries and reads it. Where two meet, in a
residual sum or in a layer that is called twice, they become one; where nobody can tell what becomes
of a channel, it is kept, and the layer that is the reason is named (cf. Fang et al. 2023,
"DepGraph: Towards Any Structural Pruning", section 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelcut.graph import call_counts, shapes
from modelcut.graph.architecture import Architecture
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

MAX_CALLS = 50_000
"""So many calls of layers are followed, those inside of submodels at each call of them."""

MAX_INDICES = 1 << 25
"""So many indices of channels are held for all tensors between layers together."""

OUTPUT = "its channels are the network's outputs"

Weights = Mapping[Path, Mapping[str, tuple[int, ...]]]
"""The shapes of each layer's weights, by role."""


@dataclass(frozen=True)
class Slot:
    """An axis of a weight, and the channel at each index of it.

    Attributes:
        path: of the layer.
        role: of the weight.
        axis: not negative.
        ids: int64, one an index; 0 for channels that are kept.
        use: "makes", "carries" or "reads": what the layer does with the channels.
    """

    path: Path
    role: str
    axis: int
    ids: np.ndarray
    use: str


@dataclass(frozen=True)
class Size:
    """A number in a layer's configuration that counts channels.

    Attributes:
        path: of the layer.
        key: in its configuration; or of a keyword argument, in one of its calls.
        index: in the list that is there; None where a plain number is.
        ids: the channels that it counts.
        call: number of the call; None for the configuration.
    """

    path: Path
    key: str
    index: int | None
    ids: np.ndarray
    call: int | None = None


@dataclass(frozen=True)
class Scaled:
    """A weight whose values are multiplied by √(channels that are kept / all of them).

    Attributes:
        path: of the layer.
        role: of the weight.
        ids: the channels.
    """

    path: Path
    role: str
    ids: np.ndarray


@dataclass(frozen=True)
class Group:
    """Channels that stand in the same places: of each, all places are removed, or none.

    Attributes:
        ids: int64, one a channel, rising.
        slots: numbers of the slots that they stand in, each with how often one channel does.
    """

    ids: np.ndarray
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Dependencies:
    """What can be removed from a network, and what goes with it.

    Attributes:
        slots: all axes of weights that belong to channels.
        sizes: all numbers in configurations that count them.
        groups: the channels that can be removed, in the order of the network.
        kept: layer that makes channels, none of which can be removed -> why.
        values: (path of a model, call, index of the output) -> what comes out of the call.
        given: path of a layer or submodel -> what goes into its first call.
        scaled: the weights whose values follow the number of channels.
        mixed: layer -> the channels of which it computes each from all of them, as a layer
            normalization does: without some, it gives something else for the others.
        shapes: (path of a layer, key in its configuration) -> the tensors whose shapes are there.
    """

    slots: tuple[Slot, ...] = ()
    sizes: tuple[Size, ...] = ()
    groups: tuple[Group, ...] = ()
    kept: Mapping[Path, str] = field(default_factory=dict)
    values: Mapping[tuple[Path, Call, int], Value] = field(default_factory=dict, repr=False)
    given: Mapping[Path, Sequence[Value]] = field(default_factory=dict, repr=False)
    scaled: tuple[Scaled, ...] = ()
    mixed: Mapping[Path, np.ndarray] = field(default_factory=dict, repr=False)
    shapes: Mapping[tuple[Path, str], Sequence[Value]] = field(default_factory=dict, repr=False)

    def made_by(self, group: Group) -> list[Path]:
        """The layers that make the channels of a group."""
        found = [self.slots[n] for n, _ in group.slots]
        return list(dict.fromkeys(slot.path for slot in found if slot.use == "makes"))


def dependencies(
    architecture: Architecture,
    weights: Weights,
    fixed: Collection[tuple[Path, str]] = (),
) -> Dependencies:
    """Follows the channels of a network from its inputs to its outputs.

    Args:
        architecture: of any dialect.
        weights: the shapes of the weights in the file.
        fixed: path and role of the weights whose values cannot be multiplied by a number.

    Raises:
        InputError: the layers do not hang together.
    """
    if _is_apart(architecture.root):
        return Dependencies(kept=dict.fromkeys(weights, "the model is of a class of its author's"))
    walk = _Walk(weights, fixed)
    try:
        if call_counts.total(architecture.root) > MAX_CALLS:
            raise _TooManyError
        walk.outputs(walk.follow(architecture.root))
    except _TooManyError:
        return Dependencies(kept=dict.fromkeys(weights, "the network has too many calls of layers"))
    return walk.result()


class _TooManyError(Exception):
    pass


class _Walk:
    """The state of the walk; see `Channels` for what the rules ask."""

    def __init__(self, weights: Weights, fixed: Collection[tuple[Path, str]]) -> None:
        self._weights = weights
        self._fixed = frozenset(fixed)
        self._unions = Unions("nothing tells what becomes of its channels")
        self._slots: dict[tuple[Path, str, int], tuple[np.ndarray, str]] = {}
        self._sizes: dict[tuple[Path, str, int | None, int | None], np.ndarray] = {}
        self._scaled: dict[tuple[Path, str], np.ndarray] = {}
        self._mixed: dict[Path, np.ndarray] = {}
        self._shapes: dict[tuple[Path, str], Sequence[Value]] = {}
        self._known: dict[Path, set[str]] = defaultdict(set)
        self._within: dict[Path, tuple[Path, str]] = {}
        self._values: dict[tuple[Path, Call, int], Value] = {}
        self._given: dict[Path, list[Value]] = {}
        self._reasons: dict[Path, str] = {}
        self._calls: list[tuple[Any, int]] = [(None, 0)]
        self._held: set[int] = set()
        self._indices = 0
        self.new, self.pin, self.join = self._unions.new, self._unions.pin, self._unions.join

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
        if (place, full, axis) in self._slots:
            self.join(self._slots[place, full, axis][0], ids, _called_on_kept(place))
        else:
            self._slots[place, full, axis] = ids, use

    def free(self, path: Path, role: str) -> None:
        place, full = self._place(path, role)
        self._known[place].add(full)

    def scaled(self, path: Path, role: str, ids: np.ndarray) -> bool:
        place = self._place(path, role)
        known = self._scaled.setdefault(place, ids)
        self.join(known, ids, _called_on_kept(place[0]))
        return place not in self._fixed

    def size(self, path: Path, key: str, index: int | None, ids: np.ndarray) -> None:
        self._count((path, key, index, None), ids)

    def argument(self, path: Path, key: str, index: int, ids: np.ndarray) -> None:
        self._count((path, key, index, self._calls[-1][1]), ids)

    def _count(self, where: tuple[Path, str, int | None, int | None], ids: np.ndarray) -> None:
        known = self._sizes.setdefault(where, ids)
        if known.size != ids.size:
            self.pin(known, "one setting stands for two sizes")
            self.pin(ids, "one setting stands for two sizes")
        elif known is not ids:
            self.join(known, ids, _called_on_kept(where[0]))

    def shape(self, path: Path, key: str, *values: Value) -> None:
        known = self._shapes.setdefault((path, key), values)
        for one, other in zip(known, values, strict=False):
            self._meet(path, one, other)

    def mixes(self, path: Path, ids: np.ndarray | None) -> None:
        if ids is not None:
            self._mixed.setdefault(self._place(path)[0], ids)

    def inner(self, path: Path, outer: Path, prefix: str, given: Sequence[Value]) -> None:
        self._within[path] = outer, prefix
        self._take(path, list(given))

    def model(self, node: Node, given: Sequence[Value]) -> list[Value]:
        return self._model(node.entry, node.path, given)

    def follow(self, root: Entry) -> list[Value]:
        """Follows the channels through the network; returns what comes out of it."""
        return self._model(root, (), None)

    def outputs(self, values: Iterable[Value]) -> None:
        """Keeps what comes out of the network; that reason is told before any other."""
        for value in values:
            if value.ids is not None:
                self._unions.put_first(value.ids, OUTPUT)

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
        graph = CallGraph(model, "the model")
        fed = dict(zip((ref.name for ref in graph.inputs), given or (), strict=False))
        made: dict[Call, list[Value]] = {}

        def value_of(ref: Ref, *, end: bool = False) -> Value:
            outputs = made.get(graph.call_of(ref, "", end=end), [])
            known = outputs[ref.tensor] if ref.tensor < len(outputs) else Value(None)
            if known.shape is not None or known.ids is not None:
                return known
            return _opaque(shapes.without_batch(ref.shape))

        sequence = graph.sequence()
        for name, index in sequence:
            entry, below = graph.entries[name], (*path, name)
            if entry.get("class_name") == "InputLayer":
                made[name, index] = [self._input(entry, below, fed.get(name))]
            else:
                sources = [value_of(ref) for ref in graph.calls[name][index]]
                made[name, index] = self._call(entry, below, sources, index)
            self._keep(path, (name, index), made[name, index])
        every = {(name, i) for name, found in graph.calls.items() for i in range(len(found))}
        for call in sorted(every - set(sequence)):
            for ref in graph.calls[call[0]][call[1]]:
                self.pin(value_of(ref).ids, f"{'/'.join((*path, call[0]))} leads to no output")
        return [value_of(ref, end=True) for ref in graph.outputs]

    def _input(self, entry: Entry, path: Path, fed: Value | None) -> Value:
        if fed is None:
            return _opaque(shapes.declared(config_of(entry)))
        self._take(path, [fed])
        return fed

    def _take(self, path: Path, given: list[Value]) -> None:
        """Remembers what goes into a layer; what goes in at another call becomes the same."""
        for one, other in zip(self._given.setdefault(path, given), given, strict=False):
            self._meet(path, one, other)

    def _keep(self, path: Path, call: Call, values: list[Value]) -> None:
        """Remembers what comes out of a call; so where a submodel is called again."""
        for index, value in enumerate(values):
            if value.ids is not None and id(value.ids) not in self._held:
                self._held.add(id(value.ids))
                self._indices += value.ids.size
            if self._indices > MAX_INDICES:
                raise _TooManyError
            known = self._values.setdefault((path, call, index), value)
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
        self._take(path, sources)
        if layer_list(entry) is not None and not _is_apart(entry):
            return self._model(entry, path, sources) or [Value(None)]
        node = node_of(entry, path)
        call = None if index is None else shapes.call_at(entry, index)
        self._calls.append((call, index or 0))
        try:
            return self._by_rule(node, sources)
        except Barrier as barrier:
            return [self._barrier(node, sources, str(barrier))]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return [self._barrier(node, sources, "has an odd configuration")]
        finally:
            self._calls.pop()

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
        self._reasons.setdefault(place, why if place == node.path else f"holds {own}")
        for value in sources:
            self.pin(value.ids, own)
        for role in self._known[place]:
            for axis in range(len(self.weight(place, role))):
                if role.startswith(prefix) and (place, role, axis) in self._slots:
                    self.pin(self._slots[place, role, axis][0], own)
        return _opaque(shapes.of_call(node, [value.shape for value in sources], self.call)[0])

    # What was found.

    def result(self) -> Dependencies:
        """The channels of all slots under their final numbers, sorted into groups."""
        final = self._unions.final()
        kept = {path: f"it {why}" for path, why in self._reasons.items() if self.roles(path)}
        slots = []
        for (path, role, axis), (ids, use) in self._slots.items():
            slots.append(Slot(path, role, axis, final[ids], use))
            if use == "makes" and ids.size and not slots[-1].ids.any():
                kept.setdefault(path, self._unions.reason(int(ids[0])))

        def finals(values: Sequence[Value]) -> list[Value]:
            return [_final(value, final) for value in values]

        return Dependencies(
            tuple(slots),
            tuple(Size(*key[:3], final[ids], key[3]) for key, ids in self._sizes.items()),
            tuple(_grouped(slots)),
            kept,
            {key: _final(value, final) for key, value in self._values.items()},
            {path: finals(found) for path, found in self._given.items()},
            tuple(Scaled(*key, final[ids]) for key, ids in self._scaled.items()),
            {path: final[ids] for path, ids in self._mixed.items()},
            {key: finals(values) for key, values in self._shapes.items()},
        )


def _called_on_kept(path: Path) -> str:
    return f"{'/'.join(path)} is called again with channels that are kept"


def _is_apart(model: Entry) -> bool:
    """Whether a submodel may do more than its layers say, or be another part of the model too."""
    return "shared_object_id" in model or model.get("class_name") not in classes.MODELS


def _grouped(slots: Iterable[Slot]) -> list[Group]:
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, slot in enumerate(slots):
        found, counts = np.unique(slot.ids, return_counts=True)
        for one, count in zip(found.tolist(), counts.tolist(), strict=True):
            if one:
                places[one].append((number, count))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for one in sorted(places):
        alike[tuple(places[one])].append(one)
    return [Group(np.array(ids), where) for where, ids in alike.items()]


def _final(value: Value, final: np.ndarray) -> Value:
    return Value(value.shape, value.axis, None if value.ids is None else final[value.ids])


def _opaque(shape: classes.Shape | None) -> Value:
    """What comes from where channels are not followed: all of it is kept."""
    length = shape[-1] if shape else None
    if shape is None or length is None or not 0 <= length <= MAX_VALUES:
        return Value(shape)
    return Value(shape, len(shape) - 1, np.zeros(length, np.int64))

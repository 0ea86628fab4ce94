"""Dependency groups: which channels of which weights can only be removed together.

Every channel that a layer makes is followed to all that carries and reads it. Where two meet, in a
residual sum or in a layer that is called twice, they become one; where nobody can tell what becomes
of a channel, it is kept, and the layer that is the reason is named (cf. Fang et al. 2023,
"DepGraph: Towards Any Structural Pruning", section 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from modelcut.graph import shapes
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

MAX_CALLS = 100_000
"""So many calls of layers are followed."""

MAX_INDICES = 1 << 27
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
        key: in its configuration.
        index: in the list that is there; None where a plain number is.
        ids: the channels that it counts.
    """

    path: Path
    key: str
    index: int | None
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
    """

    slots: tuple[Slot, ...] = ()
    sizes: tuple[Size, ...] = ()
    groups: tuple[Group, ...] = ()
    kept: Mapping[Path, str] = field(default_factory=dict)
    values: Mapping[tuple[Path, Call, int], Value] = field(default_factory=dict, repr=False)
    given: Mapping[Path, Sequence[Value]] = field(default_factory=dict, repr=False)

    def made_by(self, group: Group) -> list[Path]:
        """The layers that make the channels of a group."""
        found = [self.slots[n] for n, _ in group.slots]
        return list(dict.fromkeys(slot.path for slot in found if slot.use == "makes"))


def dependencies(architecture: Architecture, weights: Weights) -> Dependencies:
    """Follows the channels of a network from its inputs to its outputs.

    Args:
        architecture: of any dialect.
        weights: the shapes of the weights in the file.

    Raises:
        InputError: the layers do not hang together.
    """
    walk = _Walk(weights)
    if _is_apart(architecture.root):
        return Dependencies(kept=dict.fromkeys(weights, "the model is of a class of its author's"))
    try:
        outputs = walk.model(architecture.root, (), None)
    except _TooManyError:
        return Dependencies(kept=dict.fromkeys(weights, "the network has too many calls of layers"))
    walk.outputs(outputs)
    return walk.result()


class _TooManyError(Exception):
    pass


class _Walk:
    """The state of the walk: a union-find over channels, of which number 0 is always kept."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._parent = [0]
        self._why: dict[int, str] = {0: "nothing tells what becomes of its channels"}
        self._slots: dict[tuple[Path, str, int], tuple[np.ndarray, str]] = {}
        self._sizes: dict[tuple[Path, str, int | None], np.ndarray] = {}
        self._known: dict[Path, set[str]] = defaultdict(set)
        self._values: dict[tuple[Path, Call, int], Value] = {}
        self._given: dict[Path, list[Value]] = {}
        self._reasons: dict[Path, str] = {}
        self._calls = 0
        self._held = 0

    # What the rules ask.

    def new(self, count: int) -> np.ndarray:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def pin(self, ids: np.ndarray | None, why: str) -> None:
        for one in np.unique(ids).tolist() if ids is not None else ():
            self._why.setdefault(self._find(one), why)

    def join(self, one: np.ndarray, other: np.ndarray, why: str) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            first, second = sorted((self._find(a), self._find(b)))
            if first == second:
                continue
            # The reason that was found for a channel tells more than that of number 0.
            if second in self._why:
                if first and first not in self._why:
                    self._why[first] = self._why[second]
            elif first == 0:
                self._why.setdefault(second, why)
            if first:
                self._parent[second] = first

    def _find(self, one: int) -> int:
        parent = self._parent
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    def weight(self, path: Path, role: str) -> tuple[int, ...]:
        found = self._weights.get(path, {}).get(role)
        if found is None:
            raise Barrier(f"has no weight {role}")
        return found

    def roles(self, path: Path) -> frozenset[str]:
        return frozenset(self._weights.get(path, {}))

    def slot(self, path: Path, role: str, axis: int, ids: np.ndarray, use: str) -> None:
        shape = self.weight(path, role)
        if axis >= len(shape) or shape[axis] != ids.size:
            raise Barrier(f"has a weight {role} of another shape")
        self._known[path].add(role)
        if (path, role, axis) in self._slots:
            self.join(self._slots[path, role, axis][0], ids, _called_on_kept(path))
        else:
            self._slots[path, role, axis] = ids, use

    def free(self, path: Path, role: str) -> None:
        self._known[path].add(role)

    def size(self, path: Path, key: str, index: int | None, ids: np.ndarray) -> None:
        known = self._sizes.setdefault((path, key, index), ids)
        if known.size != ids.size:
            self.pin(known, "one setting stands for two sizes")
            self.pin(ids, "one setting stands for two sizes")
        elif known is not ids:
            self.join(known, ids, _called_on_kept(path))

    def outputs(self, values: Iterable[Value]) -> None:
        """Keeps what comes out of the network; that reason is told before any other."""
        for value in values:
            for one in np.unique(value.ids).tolist() if value.ids is not None else ():
                if one:
                    self._why[self._find(one)] = OUTPUT

    # The walk.

    def model(self, model: Entry, path: Path, given: Sequence[Value] | None) -> list[Value]:
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
                value = self._call(entry, below, [value])[0]
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
                made[name, index] = self._call(entry, below, sources)
            self._keep(path, (name, index), made[name, index])
        for call in {(n, i) for n, found in graph.calls.items() for i in range(len(found))} - set(
            sequence
        ):
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
            self._held += 0 if value.ids is None else value.ids.size
            if self._held > MAX_INDICES:
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

    def _call(self, entry: Entry, path: Path, sources: list[Value]) -> list[Value]:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise _TooManyError
        if not sources:
            sources = [Value(None)]
        self._take(path, sources)
        if layer_list(entry) is not None and not _is_apart(entry):
            return self.model(entry, path, sources) or [Value(None)]
        node = node_of(entry, path)
        rule = channel_rules.of(node)
        try:
            if "shared_object_id" in entry:
                raise Barrier("is shared with another part of the model")
            if rule is None:
                raise Barrier("is of a class whose channels are not followed")
            if len(sources) > 1 and not channel_rules.joins(rule):
                raise Barrier("has several inputs")
            result = rule(self, node, sources)
            extra = self.roles(path) - self._known[path]
            if extra:
                raise Barrier(f"has a weight {min(extra)} that is not followed")
            return [result]
        except (
            Barrier,
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as barrier:
            why = str(barrier) if isinstance(barrier, Barrier) else "has an odd configuration"
            return [self._barrier(node, sources, why)]

    def _barrier(self, node: Node, sources: list[Value], why: str) -> Value:
        own = f"{'/'.join(node.path)} ({node.class_name}) {why}"
        self._reasons[node.path] = why
        for value in sources:
            self.pin(value.ids, own)
        for role in self._known[node.path]:
            for axis in range(len(self.weight(node.path, role))):
                if (node.path, role, axis) in self._slots:
                    self.pin(self._slots[node.path, role, axis][0], own)
        return _opaque(shapes.of_layer(node, [value.shape for value in sources]))

    # What was found.

    def result(self) -> Dependencies:
        """The channels of all slots under their final numbers, sorted into groups."""
        roots = np.array([self._find(one) for one in range(len(self._parent))])
        pinned = np.zeros(len(roots), bool)
        pinned[list(self._why)] = True
        final = np.where(pinned[roots], 0, roots)
        kept = {path: f"it {why}" for path, why in self._reasons.items() if self.roles(path)}
        slots = []
        for (path, role, axis), (ids, use) in self._slots.items():
            slots.append(Slot(path, role, axis, final[ids], use))
            if use == "makes" and ids.size and not slots[-1].ids.any():
                kept.setdefault(path, self._why[self._find(int(ids[0]))])
        return Dependencies(
            tuple(slots),
            tuple(Size(*key, final[ids]) for key, ids in self._sizes.items()),
            tuple(_grouped(slots)),
            kept,
            {key: _final(value, final) for key, value in self._values.items()},
            {path: [_final(v, final) for v in found] for path, found in self._given.items()},
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

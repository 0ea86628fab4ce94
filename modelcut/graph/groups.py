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

import numpy as np

from modelcut.graph.architecture import Architecture
from modelcut.graph.channel_walk import OUTPUT, Called, TooManyError, Walk, Weights
from modelcut.graph.keras.calls import Call
from modelcut.graph.keras.channel_values import Value
from modelcut.graph.node import Path

__all__ = [
    "OUTPUT", "Called", "Dependencies", "Group", "Scaled", "Size", "Slot", "Trace", "Weights",
    "dependencies", "trace",
]  # fmt: skip


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
    walk = Walk(weights, fixed)
    try:
        walk.follow(architecture.root)
    except TooManyError:
        return Dependencies(kept=dict.fromkeys(weights, "the network has too many calls of layers"))
    final = walk.unions.final()
    kept = {path: why for path, why in walk.reasons.items() if weights.get(path)}
    slots = []
    for (path, role, axis), (ids, use) in walk.slots.items():
        slots.append(Slot(path, role, axis, final[ids], use))
        if use == "makes" and ids.size and not slots[-1].ids.any():
            kept.setdefault(path, walk.unions.reason(int(ids[0])))

    known: dict[int, np.ndarray] = {}  # many tensors share one array

    def finals(values: Sequence[Value]) -> list[Value]:
        for value in values:
            if value.ids is not None and id(value.ids) not in known:
                known[id(value.ids)] = final[value.ids]
        return [
            Value(value.shape, value.axis, None if value.ids is None else known[id(value.ids)])
            for value in values
        ]

    return Dependencies(
        tuple(slots),
        tuple(Size(*key[:3], final[ids], key[3]) for key, ids in walk.sizes.items()),
        tuple(_grouped(slots)),
        kept,
        {key: finals([value])[0] for key, value in walk.values.items()},
        {path: finals(found) for path, found in walk.given.items()},
        tuple(Scaled(*key, final[ids]) for key, ids in walk.scales.items()),
        {path: final[ids] for path, ids in walk.mixed.items()},
        {key: finals(values) for key, values in walk.said_shapes.items()},
    )


@dataclass(frozen=True)
class Trace:
    """All calls of one inference, those inside of submodels too, each after those that feed it.

    Attributes:
        calls: call `n` is the number n + 1 in `Called.sources`.
        ends: the calls that the network's outputs come from.
    """

    calls: tuple[Called, ...]
    ends: tuple[int, ...]


def trace(architecture: Architecture) -> Trace | None:
    """The calls that the outputs of a network need; None where they are too many.

    Raises:
        InputError: the layers do not hang together.
    """
    walk = Walk({}, ())
    try:
        walk.follow(architecture.root)
    except TooManyError:
        return None
    return Trace(tuple(walk.trace), walk.ends)


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

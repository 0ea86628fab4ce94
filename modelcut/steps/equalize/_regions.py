"""Where a factor for each channel can be moved from one layer to the next.

A region is what lies between layers that multiply: what one or several of them make, carried by
layers that are positively homogeneous (f(s x) = s f(x) for s > 0: ReLU, pooling, sums), up to those
that read it. Dividing all that is made by s and multiplying all that is read by s changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcut.graph.keras.calls import CallGraph, is_functional, layer_list, name_of
from modelcut.graph.keras.channel_values import activation
from modelcut.graph.keras.classes import POOL, get
from modelcut.model.model import Layer, Model

_MULTIPLIES = re.compile(r"^(Dense|Conv[123]D|DepthwiseConv[12]D)$")
_NORM = re.compile(r"^(BatchNormalization(V1|V2)?|SyncBatchNormalization)$")
_CARRIES = re.compile(
    r"^(Dropout|SpatialDropout[123]D|Identity|Flatten|ZeroPadding[123]D|Cropping[123]D"
    r"|UpSampling[123]D|LeakyReLU|ActivityRegularization)$"
)
_INPUT = ("", -1)
"""Stands for what goes into a Sequential."""
_JOINS = frozenset({"Add", "Subtract", "Average", "Maximum", "Minimum"})
_HOMOGENEOUS = ("linear", "relu", "leaky_relu")


@dataclass
class Region:
    """What carries the same channels, up to a factor for each.

    Attributes:
        makers: layers that make them: those that multiply, and batch normalizations.
        readers: layers that multiply them.
        reason: why no factor can be moved; "" where it can.
        flat: whether it has passed a Flatten, so that a channel stands in several inputs.
    """

    makers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)
    reason: str = ""
    flat: bool = False


@dataclass(frozen=True)
class Found:
    """All regions of a network, and which layer's outputs each batch normalization normalizes."""

    regions: tuple[Region, ...]
    normalized: Mapping[str, Layer]


class _Joined:
    """A union-find over regions."""

    def __init__(self) -> None:
        self._regions: list[Region] = []
        self._parent: list[int] = []

    def new(self, reason: str = "") -> int:
        self._regions.append(Region(reason=reason))
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def root(self, one: int) -> int:
        while self._parent[one] != one:
            one = self._parent[one]
        return one

    def __getitem__(self, one: int) -> Region:
        return self._regions[self.root(one)]

    def join(self, one: int, other: int) -> None:
        one, other = self.root(one), self.root(other)
        if one == other:
            return
        a, b = self._regions[one], self._regions[other]
        a.makers += b.makers
        a.readers += b.readers
        a.reason, a.flat = a.reason or b.reason, a.flat or b.flat
        self._parent[other] = one

    def all(self) -> Iterator[Region]:
        for one in range(len(self._parent)):
            if self.root(one) == one:
                yield self._regions[one]


def regions(model: Model) -> Found:
    """The regions of a model that has an architecture.

    Raises:
        InputError: its layers do not hang together.
    """
    assert model.architecture is not None
    joined = _Joined()
    layers = {layer.path: layer for layer in model.layers}
    normalized: dict[str, Layer] = {}
    made: dict[Any, int] = {_INPUT: joined.new("it is the network's input")}
    by: dict[int, Layer] = {}
    for name, call, entry, sources, calls in _steps(model.architecture.root):
        layer = layers.get((name,))
        given = [made[source] for source in sources if source in made]
        kind = str(entry.get("class_name"))
        config = entry.get("config") if isinstance(entry.get("config"), dict) else {}
        made[name, call] = _through(joined, kind, config or {}, layer, given, calls)
        if layer is not None and given:
            if _NORM.match(kind) and (source := by.get(given[0])) is not None:
                normalized[layer.name] = source
            if _MULTIPLIES.match(kind) and activation(config or {}) == "linear":
                by[made[name, call]] = layer
    for end in _ends(model.architecture.root, made):
        joined[end].reason = joined[end].reason or "its channels are the network's outputs"
    return Found(tuple(joined.all()), normalized)


def _through(
    joined: _Joined,
    kind: str,
    config: Mapping[str, Any],
    layer: Layer | None,
    given: list[int],
    calls: int,
) -> int:
    """The region of what comes out of a call."""
    name = f"{config.get('name')} ({kind})"
    first = config.get("data_format") == "channels_first" or config.get("dim_ordering") == "th"
    if given and not first and calls == 1:
        if _carries(kind, config):
            joined[given[0]].flat |= kind == "Flatten"
            return given[0]
        if kind in _JOINS and len(given) > 1:
            for other in given[1:]:
                joined.join(given[0], other)
            return given[0]
        norm = _NORM.match(kind) and {"gamma", "moving_mean"} <= set(layer.by_role if layer else ())
        if norm and get(config, "axis", default=-1) in (-1, 3, [-1], [3]):
            joined[given[0]].reason = joined[given[0]].reason or f"{name} reads it"
        plain = _MULTIPLIES.match(kind) and get(config, "groups", default=1) == 1
        if layer is not None and (norm or plain):
            if plain:
                joined[given[0]].readers.append(layer)
            out = joined.new("" if _is_homogeneous(config) else f"{name} is not linear or ReLU")
            joined[out].makers.append(layer)
            return out
    reason = f"{name} is not linear or ReLU" if calls == 1 else f"{name} is called several times"
    for one in given:
        joined[one].reason = joined[one].reason or reason
    return joined.new(reason)


def _is_homogeneous(config: Mapping[str, Any]) -> bool:
    return activation(config) in _HOMOGENEOUS


def _carries(kind: str, config: Mapping[str, Any]) -> bool:
    """Whether a layer is positively homogeneous and leaves channels where they are."""
    if kind == "Activation":
        return _is_homogeneous(config)
    if kind == "ReLU":
        return config.get("max_value") is None and not config.get("threshold")
    if POOL.match(kind):
        return not kind.startswith("Adaptive")
    return bool(_CARRIES.match(kind))


def _steps(root: Any) -> Iterator[tuple[str, int, Any, list[Any], int]]:
    """Each call of the outermost model: layer, number, entry, what feeds it, calls in all."""
    if is_functional(root):
        graph = CallGraph(root, "the model")
        for name, index in graph.sequence():
            sources = graph.parents((name, index))
            yield name, index, graph.entries[name], sources, len(graph.calls[name])
        return
    before: list[Any] = [_INPUT]
    for entry in layer_list(root) or []:
        if entry.get("class_name") == "InputLayer":
            continue
        yield name_of(entry), 0, entry, before, 1
        before = [(name_of(entry), 0)]


def _ends(root: Any, made: Mapping[Any, int]) -> list[int]:
    if is_functional(root):
        graph = CallGraph(root, "the model")
        ends = [graph.call_of(ref, "", end=True) for ref in graph.outputs]
        return [made[end] for end in ends if end in made]
    return list(made.values())[-1:]

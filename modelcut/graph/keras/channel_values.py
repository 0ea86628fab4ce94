"""Tensors between layers with their channels, and what the rules of layers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modelcut.graph.keras.classes import Config, Shape, integer
from modelcut.graph.node import Node, Path

MAX_VALUES = 1 << 22
"""Indices along one axis, or values of one sample, whose channels are told apart."""

ELEMENTWISE = frozenset(
    """linear relu relu6 leaky_relu elu selu gelu silu swish mish tanh softsign sigmoid hard_sigmoid
    softplus exponential hard_silu hard_swish celu hard_tanh log_sigmoid hard_shrink soft_shrink
    tanh_shrink sparse_plus sparse_sigmoid squareplus threshold relu_6 identity""".split()
)
"""Activations that treat each value by itself."""

NOT_ZERO_AT_ZERO = frozenset(
    "sigmoid hard_sigmoid softplus exponential log_sigmoid sparse_plus sparse_sigmoid squareplus"
    " threshold".split()
)
"""Those of them that do not make zero of zero, or do not always."""


class Barrier(Exception):  # noqa: N818 - no error: these channels are kept
    """A layer through which channels cannot be followed, with the reason."""


@dataclass(frozen=True)
class Value:
    """A tensor between layers, and which channel stands where on one of its axes.

    Attributes:
        shape: without the batch axis; None where it is unknown.
        axis: of the channels, the batch axis not counted; -1 for the last one of an unknown
            shape; meaningless without `ids`.
        ids: int64, shape (shape[axis],): the channel at each index, 0 for one that is kept;
            None where not even their number is known.
        source: number of the call that it comes from, from 1; 0 for none. Rules leave it out.
    """

    shape: Shape | None
    axis: int = -1
    ids: np.ndarray | None = None
    source: int = 0

    @property
    def alive(self) -> bool:
        """Whether it has channels that are not known to be kept."""
        return self.ids is not None and bool(self.ids.any())


class Channels(Protocol):
    """What a rule may ask of the walk over the network."""

    @property
    def call(self) -> Any:
        """The call that is followed, as the file has it; None in a Sequential or a wrapper."""

    def new(self, count: int) -> np.ndarray:
        """Channels that have not been before."""

    def pin(self, ids: np.ndarray | None, why: str) -> None:
        """Keeps channels, for the reason given."""

    def join(self, one: np.ndarray, other: np.ndarray, why: str) -> None:
        """Makes channels the same, index by index; `why`: the reason, where that keeps them."""

    def weight(self, path: Path, role: str) -> tuple[int, ...]:
        """Shape of a weight; raises `Barrier` where the layer has none of this role."""

    def roles(self, path: Path) -> frozenset[str]:
        """The roles of a layer's weights."""

    def slot(self, path: Path, role: str, axis: int, ids: np.ndarray, use: str) -> None:
        """An axis of a weight has these channels; raises `Barrier` where the lengths differ."""

    def free(self, path: Path, role: str) -> None:
        """A weight has no axis of channels."""

    def scaled(self, path: Path, role: str, ids: np.ndarray) -> bool:
        """A weight grows by the root of the fraction of these channels that is kept.

        Returns:
            Whether it can: of a weight that is quantized the values are fixed.
        """

    def size(self, path: Path, key: str, index: int | None, ids: np.ndarray) -> None:
        """A number in the layer's configuration is how many of these channels there are."""

    def argument(self, path: Path, key: str, index: int, ids: np.ndarray) -> None:
        """A number among the keyword arguments of this call is how many channels there are."""

    def shape(self, path: Path, key: str, *values: Value) -> None:
        """The layer's configuration says, under this key, the shape of a tensor, or of several."""

    def mixes(self, path: Path, ids: np.ndarray | None) -> None:
        """What the layer computes for one channel depends on the others that there are."""

    def inner(self, path: Path, outer: Path, prefix: str, given: Sequence[Value]) -> None:
        """A layer inside of another, whose weights the outer one has by roles with a prefix."""

    def model(self, node: Node, given: Sequence[Value]) -> list[Value]:
        """Follows the channels through a submodel inside of a layer."""


Rule = Callable[[Channels, Node, Sequence[Value]], "Value | list[Value]"]


def at(channels: Channels, value: Value, axis: int, why: str) -> np.ndarray | None:
    """The channels along an axis; where they lie along another one, they are kept."""
    if value.ids is not None and value.axis == axis:
        return value.ids
    channels.pin(value.ids, why)
    if value.shape is None:
        return None
    length = value.shape[axis] if axis < len(value.shape) else None
    if length is None or not 0 <= length <= MAX_VALUES:
        return None
    return np.zeros(length, np.int64)


def ranked(value: Value, rank: int) -> Value:
    """A tensor of which nothing else may be known with as many axes as a layer takes."""
    if value.shape is not None:
        return value
    shape = (*(None,) * (rank - 1), None if value.ids is None else int(value.ids.size))
    return Value(shape, rank - 1, value.ids)


def activation(config: Config) -> str:
    """Name of a layer's activation: "linear" for none, "" for one that is no name."""
    found = config.get("activation")
    if isinstance(found, dict):
        inner = found.get("config")
        found = inner if isinstance(inner, str) else found.get("class_name")
    return "linear" if found is None else found if isinstance(found, str) else ""


def zero_at_zero(config: Config) -> bool:
    """Whether a layer's activation is known to make zero of zero."""
    return activation(config) in ELEMENTWISE - NOT_ZERO_AT_ZERO


def channels_first(config: Config) -> bool:
    """Whether the axis of channels is the first one."""
    return config.get("data_format") == "channels_first" or config.get("dim_ordering") == "th"


def place_of(config: Config, value: Value) -> int:
    """The axis of channels that a layer of images or sequences means."""
    if value.shape is None:
        raise Barrier("has an input of unknown shape")
    return 0 if channels_first(config) else len(value.shape) - 1


def title(node: Node) -> str:
    """A layer in the reasons: its path and class."""
    return f"{'/'.join(node.path)} ({node.class_name})"


def axis_of(config: Config, value: Value, default: int = -1) -> int:
    """The one axis that a configuration names, the batch axis not counted."""
    axis = config.get("axis", default)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if value.shape is None or not isinstance(axis, int) or isinstance(axis, bool):
        raise Barrier("names no single axis")
    return whole_axis(axis, len(value.shape))


def whole_axis(axis: int, rank: int) -> int:
    """An axis of `rank` axes and the batch, from either end, as an axis without the batch."""
    if axis == 0 or not -rank <= axis <= rank:
        raise Barrier("names an axis that is not there")
    return axis - 1 if axis > 0 else axis + rank


def key_of(config: Config, *names: str) -> str:
    """The first of these names under which a configuration has a whole number."""
    found = next((name for name in names if integer(config.get(name)) is not None), None)
    if found is None:
        raise Barrier(f"has no {names[0]} in its configuration")
    return found


def plain_start(node: Node) -> None:
    """Initial values given number by number hold for one shape alone."""
    for key, value in node.config.items():
        inner = value.get("config") if isinstance(value, dict) else None
        values = inner.values() if isinstance(inner, dict) else ()
        if key.endswith("initializer") and any(isinstance(v, (list, dict)) for v in values):
            raise Barrier(f"has a {key} of a fixed shape")


def pin_joined(channels: Channels, node: Node, ids: np.ndarray) -> np.ndarray:
    """Keeps the channels that a layer makes where its activation joins them."""
    name = activation(node.config)
    if name not in ELEMENTWISE:
        channels.pin(ids, f"its activation ({name or 'a custom one'}) joins them")
    return ids

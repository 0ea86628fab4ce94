"""Tensors between layers with their channels, and what the rules of layers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modelcut.graph.keras.classes import Config, Shape
from modelcut.graph.node import Node, Path

MAX_VALUES = 1 << 22
"""Indices along one axis, or values of one sample, whose channels are told apart."""

ELEMENTWISE = frozenset(
    """linear relu relu6 leaky_relu elu selu gelu silu swish mish tanh softsign sigmoid hard_sigmoid
    softplus exponential hard_silu hard_swish celu hard_tanh""".split()
)
"""Activations that treat each value by itself."""


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
    """

    shape: Shape | None
    axis: int = -1
    ids: np.ndarray | None = None


class Channels(Protocol):
    """What a rule may ask of the walk over the network."""

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

    def size(self, path: Path, key: str, index: int | None, ids: np.ndarray) -> None:
        """A number in the layer's configuration is how many of these channels there are."""


Rule = Callable[[Channels, Node, Sequence[Value]], Value]


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


def activation(config: Config) -> str:
    """Name of a layer's activation: "linear" for none, "" for one that is no plain name."""
    found = config.get("activation")
    return "linear" if found is None else found if isinstance(found, str) else ""


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
    rank = len(value.shape)
    if axis == 0 or not -rank <= axis <= rank:
        raise Barrier("names an axis that is not there")
    return axis - 1 if axis > 0 else axis + rank

"""What a layer multiplies: its kernel as matrices, and what goes into it as their rows.

A layer's outputs are `x @ w` for a matrix `w` of its kernel, or for several where channels do not
mix: each channel of a depthwise convolution, each group of a grouped one. Everything that looks at
a layer's squared output error (its Hessian x^T x, the mean of its outputs) looks through this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from modelcut.graph.keras.classes import get
from modelcut.model.model import Layer, Tensor
from modelcut.steps import recurrence
from modelcut.steps.patches import CHUNK, Patches, chosen_of

Read: TypeAlias = "Callable[[str], np.ndarray]"
"""The present values of a tensor of the running network, by role."""

_CONV = re.compile(r"^Conv(olution)?([123])D$")
_TRANSPOSED = re.compile(r"^Conv([123])DTranspose$")
_DEPTHWISE = re.compile(r"^DepthwiseConv([12])D$")
_SEPARABLE = re.compile(r"^SeparableConv([12])D$")
_NO_KERNEL = (
    "is not the kernel of a Dense, EinsumDense, convolutional or recurrent layer whose inputs are "
    "known"
)


@dataclass(frozen=True)
class Operand:
    """A kernel that multiplies rows of inputs.

    Attributes:
        kernel: the tensor.
        cut: its shape, with one axis in two where groups of outputs need that.
        axes: which axes of `cut` are those of groups, of inputs and of outputs.
        rows: from what goes into the layer, and the values of its other weights, to pieces of
            float32 (groups, places, inputs).
    """

    kernel: Tensor
    cut: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    rows: Callable[[np.ndarray, Read, int], Iterator[np.ndarray]]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Groups, inputs of each, and outputs of each."""
        groups, inputs, outputs = (
            int(np.prod([self.cut[axis] for axis in part], dtype=np.int64)) for part in self.axes
        )
        return groups, inputs, outputs

    def split(self, values: np.ndarray) -> np.ndarray:
        """The kernel, or an array of its shape, as matrices (groups, inputs, outputs)."""
        order = [axis for part in self.axes for axis in part]
        return values.reshape(self.cut).transpose(order).reshape(self.sizes)

    def join(self, matrices: np.ndarray) -> np.ndarray:
        """The inverse of `split`."""
        order = [axis for part in self.axes for axis in part]
        moved = matrices.reshape([self.cut[axis] for axis in order])
        found = moved.transpose(np.argsort(order)).reshape(self.kernel.shape)
        return np.ascontiguousarray(found)


def operand(layer: Layer, kernel: Tensor) -> Operand | str:
    """How a layer multiplies by one of its kernels, or why that is not known."""
    prefix, _, role = kernel.role.rpartition("/")
    name, config = layer.class_name, layer.config
    over: Callable[[np.ndarray], np.ndarray] = _same
    if name in ("TimeDistributed", "Bidirectional"):
        inner = config.get("backward_layer" if prefix == "backward" else "layer")
        inner = inner or config.get("layer")
        if not isinstance(inner, Mapping) or not isinstance(inner.get("config"), Mapping):
            return _NO_KERNEL
        over = _steps_as_rows if name == "TimeDistributed" else _same
        name, config = str(inner.get("class_name")), inner["config"]
        over = _reversed if prefix == "backward" else over
    elif prefix:
        return _NO_KERNEL
    try:
        found = _operand(name, config, kernel, role, over, prefix)
    except (LookupError, TypeError, ValueError):
        found = None
    return _NO_KERNEL if found is None else found


def _operand(
    name: str,
    config: Mapping[str, Any],
    kernel: Tensor,
    role: str,
    over: Callable[[np.ndarray], np.ndarray],
    prefix: str,
) -> Operand | None:
    shape, rank = kernel.shape, len(kernel.shape)
    if name in ("Dense", "TimeDistributedDense") and role in ("kernel", "W") and rank == 2:
        return _plain(kernel, over, _Flat(shape[0]))
    if recurrence.knows(name, config) and rank == 2:
        if role == "kernel":
            return _plain(kernel, over, _Flat(shape[0]))
        if role == "recurrent_kernel":
            states = _States(name, config, prefix)
            return _plain(kernel, over, states)
        return None
    if name == "EinsumDense" and role == "kernel":
        return _einsum(config, kernel, over)
    if (found := _CONV.match(name)) and role in ("kernel", "W"):
        return _conv(int(found[2]), config, kernel, over)
    if (found := _TRANSPOSED.match(name)) and role == "kernel":
        size = int(found[1])
        if rank != size + 2 or get(config, "output_padding", default=None) is not None:
            return None
        taps = Patches(config, shape[:size], transposed=True)
        spatial = tuple(range(size))
        return Operand(
            kernel, shape, ((), (*spatial, size + 1), (size,)), _pieces(over, taps, shape[-1])
        )
    if (found := _DEPTHWISE.match(name)) and role in ("kernel", "depthwise_kernel"):
        return _depthwise(int(found[1]), config, kernel, over)
    if found := _SEPARABLE.match(name):
        size = int(found[1])
        if role == "depthwise_kernel":
            return _depthwise(size, config, kernel, over)
        if role == "pointwise_kernel" and rank == size + 2:
            return Operand(
                kernel,
                shape,
                ((), tuple(range(size + 1)), (size + 1,)),
                _Pointwise(config, size, over),
            )
    return None


def _same(given: np.ndarray) -> np.ndarray:
    return given


def _steps_as_rows(given: np.ndarray) -> np.ndarray:
    return given.reshape(-1, *given.shape[2:])


def _reversed(given: np.ndarray) -> np.ndarray:
    return given[:, ::-1]


def _plain(
    kernel: Tensor,
    over: Callable[[np.ndarray], np.ndarray],
    rows: Callable[[np.ndarray, Read], np.ndarray],
) -> Operand:
    """Of a matrix whose first axis is the inputs."""

    def pieces(given: np.ndarray, read: Read, most: int) -> Iterator[np.ndarray]:
        found = rows(over(given), read)
        yield from _cut(found, most)

    return Operand(kernel, kernel.shape, ((), (0,), (1,)), pieces)


@dataclass(frozen=True)
class _Flat:
    """What goes into a layer as rows of this many inputs."""

    width: int

    def __call__(self, given: np.ndarray, read: Read) -> np.ndarray:
        del read
        return given.reshape(-1, self.width)


@dataclass(frozen=True)
class _States:
    """The states that a recurrent kernel multiplies."""

    name: str
    config: Mapping[str, Any]
    prefix: str

    def __call__(self, given: np.ndarray, read: Read) -> np.ndarray:
        start = f"{self.prefix}/" if self.prefix else ""
        names = ["kernel", "recurrent_kernel"]
        names += ["bias"] if self.config.get("use_bias", True) else []
        weights = {name: read(start + name).astype(np.float32) for name in names}
        found = recurrence.states(self.name, self.config, weights, given.astype(np.float32))
        return found.reshape(-1, found.shape[-1])


def _cut(rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """At most so many rows of a matrix, spread over it, as (1, n, width) pieces."""
    chosen = chosen_of(len(rows), most)
    rows = rows if chosen is None else rows[chosen]
    step = max(1, CHUNK // max(1, rows.shape[-1]))
    for start in range(0, len(rows), step):
        yield rows[None, start : start + step].astype(np.float32, copy=False)


def _einsum(
    config: Mapping[str, Any], kernel: Tensor, over: Callable[[np.ndarray], np.ndarray]
) -> Operand | None:
    left, _, result = str(config["equation"]).replace(" ", "").partition("->")
    given, _, own = left.partition(",")
    ahead = given.startswith("...") and result.startswith("...")
    if ahead:
        given, result = given.removeprefix("..."), result.removeprefix("...")
    plain = all(part.isalpha() and len(set(part)) == len(part) for part in (given, own, result))
    if not plain or len(own) != len(kernel.shape):
        return None
    groups = [letter for letter in own if letter in given and letter in result]
    inputs = [letter for letter in own if letter in given and letter not in result]
    outputs = [letter for letter in own if letter not in given and letter in result]
    if len(groups) + len(inputs) + len(outputs) != len(own) or not inputs:
        return None
    places = [letter for letter in given if letter not in own]
    if any(letter not in result for letter in places):
        return None

    def pieces(array: np.ndarray, read: Read, most: int) -> Iterator[np.ndarray]:
        del read
        array = over(array)
        if ahead:
            array = array.reshape(-1, *array.shape[array.ndim - len(given) :])
        letters = ("." if ahead else "") + given
        order = [letters.index(x) for x in (*groups, *(["."] if ahead else []), *places, *inputs)]
        many = int(np.prod([array.shape[letters.index(x)] for x in groups], dtype=np.int64))
        width = int(np.prod([array.shape[letters.index(x)] for x in inputs], dtype=np.int64))
        moved = array.transpose(order).reshape(many, -1, width)
        chosen = chosen_of(moved.shape[1], most)
        moved = moved if chosen is None else moved[:, chosen]
        yield moved.astype(np.float32, copy=False)

    axes = tuple(tuple(own.index(x) for x in part) for part in (groups, inputs, outputs))
    return Operand(kernel, kernel.shape, axes, pieces)  # type: ignore[arg-type]


def _conv(
    size: int,
    config: Mapping[str, Any],
    kernel: Tensor,
    over: Callable[[np.ndarray], np.ndarray],
) -> Operand | None:
    shape = kernel.shape
    if len(shape) != size + 2 or kernel.out_axis != size + 1:
        return None
    groups = get(config, "groups", default=1) or 1
    taps = Patches(config, shape[:size])
    spatial = tuple(range(size))
    if groups == 1:
        return Operand(
            kernel, shape, ((), (*spatial, size), (size + 1,)), _pieces(over, taps, shape[size])
        )
    cut = (*shape[:-1], groups, shape[-1] // groups)

    def pieces(given: np.ndarray, read: Read, most: int) -> Iterator[np.ndarray]:
        del read
        for part in taps.of(over(given), most):  # (n, *size, channels)
            apart = part.reshape(*part.shape[:-1], groups, -1)
            moved = np.moveaxis(apart, -2, 0)
            yield np.ascontiguousarray(moved).reshape(groups, len(part), -1)

    return Operand(kernel, cut, ((size + 1,), (*spatial, size), (size + 2,)), pieces)


def _depthwise(
    size: int,
    config: Mapping[str, Any],
    kernel: Tensor,
    over: Callable[[np.ndarray], np.ndarray],
) -> Operand | None:
    shape = kernel.shape
    if len(shape) != size + 2 or kernel.out_axis != size:
        return None
    taps = Patches(config, shape[:size])

    def pieces(given: np.ndarray, read: Read, most: int) -> Iterator[np.ndarray]:
        del read
        for part in taps.of(over(given), most):
            moved = np.moveaxis(part, -1, 0)
            yield np.ascontiguousarray(moved).reshape(shape[size], len(part), -1)

    return Operand(kernel, shape, ((size,), tuple(range(size)), (size + 1,)), pieces)


def _pieces(
    over: Callable[[np.ndarray], np.ndarray], taps: Patches, channels: int
) -> Callable[[np.ndarray, Read, int], Iterator[np.ndarray]]:
    def pieces(given: np.ndarray, read: Read, most: int) -> Iterator[np.ndarray]:
        del read
        width = int(np.prod(taps.size)) * channels
        for part in taps.of(over(given), most):
            yield part.reshape(1, -1, width)

    return pieces


@dataclass(frozen=True)
class _Pointwise:
    """What the second half of a separable convolution is given: the first half's outputs."""

    config: Mapping[str, Any]
    size: int
    over: Callable[[np.ndarray], np.ndarray]

    def __call__(self, given: np.ndarray, read: Read, most: int) -> Iterator[np.ndarray]:
        deep = read("depthwise_kernel").astype(np.float32)  # (*size, channels, multiplier)
        channels = deep.shape[self.size]
        matrices = np.moveaxis(deep.reshape(-1, *deep.shape[self.size :]), 1, 0)
        taps = Patches(self.config, deep.shape[: self.size])
        for part in taps.of(self.over(given), most):
            moved = np.moveaxis(part.reshape(len(part), -1, channels), -1, 0)
            made = np.matmul(moved, matrices)  # (channels, n, multiplier)
            yield np.moveaxis(made, 0, 1).reshape(1, len(part), -1)

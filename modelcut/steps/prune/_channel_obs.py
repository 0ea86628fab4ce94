"""Which channels the layers that read them miss least, once these are refitted; and the refit.

A layer's outputs are X W, X being its inputs over calibration samples (the patches under the kernel
of a convolution). Without channel c, the columns X_c are gone, and the others can make up for
them: the squared error of the outputs with the best others is tr(W_c' [(H⁻¹)_cc]⁻¹ W_c) for
H = X'X, the saliency of Optimal Brain Surgeon for a block of weights (Hassibi and Stork 1993;
Kurtić et al. 2023, "ZipLM", section 3.1). Channels are removed one at a time, H⁻¹ and W downdated
after each; the errors of all layers that read a group are summed, each over its own signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from modelcut.graph.groups import Dependencies, Group
from modelcut.graph.node import Path
from modelcut.model.model import Layer, Model, Tensor
from modelcut.runtime import Running
from modelcut.steps.base import NOT_FINITE
from modelcut.steps.prune._channel_data import Data, by_channel, columns_of, read_by
from modelcut.steps.prune._hessian import damped
from modelcut.steps.prune._inputs import matrices, refusal

_WIDEST = 8192
"""The widest Hessian: 512 MiB of float64."""
_AT_A_TIME = 1 << 30
"""Bytes of Hessians that are filled in one pass over the samples."""
PLACES = 1 << 17
"""Of a convolution, about so many patches are looked at, spread over samples and places."""


@dataclass(frozen=True)
class Curve:
    """The order in which the channels of a group are removed, and what that costs.

    Attributes:
        turns: int64, shape (channels,): indices into the group.
        losses: float64, shape (channels + 1,), rising: with the first n of them gone.
    """

    turns: np.ndarray
    losses: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """What each channel costs when its turn comes, shape (channels,)."""
        found = np.zeros(self.turns.size)
        found[self.turns] = np.diff(self.losses)
        return found


def curves(
    model: Model, found: Dependencies, groups: Sequence[Group], data: Data
) -> list[Curve | str]:
    """The removal of each group's channels, one by one; or why nothing tells.

    Args:
        model: that the groups were found in.
        found: its dependency groups.
        groups: those that are wanted.
        data: the samples.
    """
    layers = {layer.path: layer for layer in model.layers}
    readers = [read_by(found, group) for group in groups]
    result: list[Curve | str] = []
    running = data.runtime.open(model)
    for part in _parts(layers, readers):
        wanted = list(dict.fromkeys(path for n in part for path in readers[n]))
        sums = _sums(running, layers, wanted, found, data)
        for number in part:
            group = groups[number]
            data.context.say(f"{data.title}: {group.ids.size} channels, removed one by one")
            views: list[_Reader | _Follower] = []
            for path in readers[number]:
                kind = _Reader if kernel_of(layers[path]) else _Follower
                views.append(kind.of(layers[path], found, group, sums[path], data.damp))
            if not views:
                result.append("no layer that reads its channels can be looked at")
            elif not all(view.finite for view in views):
                result.append(NOT_FINITE)
            else:
                result.append(_removed(views, group.ids.size))
    return result


def _parts(layers: Mapping[Path, Layer], readers: Sequence[Sequence[Path]]) -> Iterator[list[int]]:
    """Groups in order, so many at a time that the Hessians of their readers have room."""
    part: list[int] = []
    seen: set[Path] = set()
    for number, paths in enumerate(readers):
        more = seen | set(paths)
        widths = (_width_of(kernel) for path in more if (kernel := kernel_of(layers[path])))
        if part and sum(8 * width**2 for width in widths) > _AT_A_TIME:
            yield part
            part, more = [], set(paths)
        part.append(number)
        seen = more
    if part:
        yield part


class _Reader:
    """A layer that reads a group: its weights and inverse Hessian, as channels are taken away."""

    def __init__(
        self, weights: np.ndarray, gram: np.ndarray, places: np.ndarray, damp: float
    ) -> None:
        """Args: (d, outputs), (d, d), and the inputs of each channel (channels, times)."""
        self._weights = weights
        self._places = places
        self.finite = bool(np.isfinite(gram).all() and np.isfinite(weights).all())
        if self.finite:
            self._signal = float(np.sum(weights * (gram @ weights))) or 1.0
            self._inverse = np.linalg.inv(damped(gram, damp))

    @classmethod
    def of(
        cls, layer: Layer, found: Dependencies, group: Group, gram: np.ndarray, damp: float
    ) -> _Reader:
        kernel = kernel_of(layer)
        assert kernel is not None
        values = kernel.pull()[0]
        weights = values.reshape(-1, values.shape[-1]).astype(np.float64)
        return cls(weights, gram, _places(_input_ids(layer, kernel, found), group), damp)

    def losses(self, left: np.ndarray) -> np.ndarray:
        """Of each channel that is left, the error of the outputs if it went next."""
        places = self._places[left]
        blocks = self._inverse[places[:, :, None], places[:, None, :]]
        weights = self._weights[places]
        solved = np.linalg.solve(blocks, weights)
        return np.einsum("cko,cko->c", weights, solved) / self._signal

    def remove(self, channel: int) -> None:
        """Takes a channel away, and lets the other weights follow."""
        own = self._places[channel]
        columns = self._inverse[:, own]
        factor = np.linalg.solve(columns[own], np.concatenate([columns.T, self._weights[own]], 1))
        d = len(self._weights)
        self._inverse -= columns @ factor[:, :d]
        self._weights -= columns @ factor[:, d:]
        self._weights[own] = 0


class _Follower:
    """A layer that reads a group and cannot be refitted: each channel's own part of its outputs.

    As if channels were independent of each other: Σ w² over the slice of the channel times its mean
    square, over the sum of all.
    """

    def __init__(self, each: np.ndarray) -> None:
        self._each = each
        self.finite = bool(np.isfinite(each).all())

    @classmethod
    def of(
        cls, layer: Layer, found: Dependencies, group: Group, squares: np.ndarray, damp: float
    ) -> _Follower:
        del damp
        given = found.given[layer.path][0].ids
        assert given is not None
        each, total = np.zeros(group.ids.size), 0.0
        for slot in (s for s in found.slots if s.path == layer.path and s.use == "reads"):
            values = layer.by_role[slot.role].pull()[0].astype(np.float64)
            others = tuple(axis for axis in range(values.ndim) if axis != slot.axis)
            power = np.square(values).sum(axis=others)
            each += by_channel(power, slot.ids, group)
            total += float(power.mean() * squares.sum())
        return cls(each * by_channel(squares, given, group) / (total or 1.0))

    def losses(self, left: np.ndarray) -> np.ndarray:
        """See `_Reader`."""
        return self._each[left]

    def remove(self, channel: int) -> None:
        """Nothing follows."""


def _removed(views: Sequence[_Reader | _Follower], channels: int) -> Curve:
    left = np.arange(channels)
    turns, losses = [], [0.0]
    while left.size:
        each = np.sum([view.losses(left) for view in views], axis=0)
        least = int(each.argmin())
        turns.append(left[least])
        losses.append(losses[-1] + max(0.0, float(each[least])))
        if left.size > 1:
            for view in views:
                view.remove(int(left[least]))
        left = np.delete(left, least)
    rises = np.maximum.accumulate(np.diff(losses))
    return Curve(np.array(turns, np.int64), np.concatenate([[0.0], np.cumsum(rises)]))


def _sums(
    running: Running,
    layers: Mapping[Path, Layer],
    wanted: Sequence[Path],
    found: Dependencies,
    data: Data,
) -> dict[Path, np.ndarray]:
    """X'X of what goes into each layer that can be refitted, and its diagonal for the others."""
    kernels = {path: kernel for path in wanted if (kernel := kernel_of(layers[path]))}
    sums = {path: np.zeros((_width_of(kernel),) * 2) for path, kernel in kernels.items()}
    count = 0
    for rows in data.batches(running) if wanted else ():
        data.context.say(f"{data.title}: inputs, {count} of {data.rows} rows")
        seen = running.layer_inputs(rows, [layers[path].name for path in wanted])
        for path in wanted:
            for given in seen[layers[path].name]:
                if path in kernels:
                    for matrix in sampled(layers[path], kernels[path], given, data.rows):
                        sums[path] += matrix.T @ matrix
                    continue
                columns = columns_of(given, found.given[path][0].axis)
                squares = np.square(columns).sum(axis=0, dtype=np.float64)
                sums[path] = sums.get(path, 0) + squares
        count += len(rows)
    return sums


def sampled(layer: Layer, kernel: Tensor, given: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """The inputs as matrices, of a convolution some places of each sample only."""
    for matrix in matrices(layer, kernel, given):
        each = max(1, len(matrix) // max(1, len(given)))
        step = max(1, rows * each // PLACES)
        while step > 1 and gcd(step, each) > 1:
            step += 1  # else it would be the same places of every sample
        yield matrix[::step]


def kernel_of(layer: Layer) -> Tensor | None:
    """The kernel that can be refitted; None where there is none."""
    kernel = next((t for t in layer.tensors if t.kind == "kernel"), None)
    if kernel is None or refusal(layer, kernel) or _width_of(kernel) > _WIDEST:
        return None
    return kernel if not kernel.kinds or kernel.kinds == ("dense",) else None


def _width_of(kernel: Tensor) -> int:
    return int(np.prod(kernel.shape[:-1]))


def _input_ids(layer: Layer, kernel: Tensor, found: Dependencies) -> np.ndarray:
    """The channel at each row of the kernel as a matrix."""
    slot = next(s for s in found.slots if s.path == layer.path and s.role == kernel.role
                and s.use == "reads")  # fmt: skip
    return np.tile(slot.ids, _width_of(kernel) // slot.ids.size)


def _places(ids: np.ndarray, group: Group) -> np.ndarray:
    """The rows of the kernel that each channel has, (channels, times)."""
    order = np.flatnonzero(np.isin(ids, group.ids))
    order = order[np.argsort(ids[order], kind="stable")]
    return order.reshape(group.ids.size, -1)

"""Keeps the grids that kernels lie on in a `.tflite`, whose converter makes up grids of its own.

The converter sets each channel's scale to max |w| / 127. A kernel that lies on a grid already (4
bits, a clipped range, ternary) is rounded a second time by that. Here its codes and scales are put
in their place, into a file that holds the same layers in 8 or 4 bits. What LiteRT's kernels ask of
weights: signed codes in -127 .. 127, zero at code 0, one scale for each output channel; and a bias
whose scale is that of the input times that of the weights (LiteRT's 8-bit quantization
specification).

Which constant holds which kernel is told by values, with the help of a twin: the same network
converted without quantization. A BatchNorm that the converter has folded into a kernel multiplies
each channel by a number: the codes stay, the scale takes it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.formats.litert import schema
from modelcut.formats.litert.schema import File, LiteRTTensor, Operation
from modelcut.model.encoding import Encoding
from modelcut.model.encodings.affine import Affine
from modelcut.model.model import Model, Tensor

_AXIS = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}
"""Operators whose kernels may be quantized -> the kernel's axis of output channels."""

_BIAS = {"TRANSPOSE_CONV": 3}
_HIGHEST = {"int8": 127, "int4": 7}
_LOOK = 256
_NEAR = 3e-5  # of a step: what two roundings to float32 do to 127 steps, doubled
_FOLDED = 2.0**-20


@dataclass(frozen=True)
class QuantizedKernel:
    """A kernel as LiteRT could hold it.

    Attributes:
        codes: int8, shape (channels, values a channel).
        scale: float32, shape (channels,); 0 where all of the channel is zero and no grid is given.
    """

    codes: np.ndarray
    scale: np.ndarray

    @property
    def highest(self) -> int:
        """The largest magnitude of a code."""
        return int(np.abs(self.codes).max(initial=0))


@dataclass
class Kept:
    """What became of the grids, as read back from the written file.

    Attributes:
        exact: kernels whose codes and scales in the file are those of their grid, bit for bit.
        folded: the same, the scale of each channel multiplied by that of a BatchNorm.
        floats: kernels that the converter left as the floats they were.
        lost: kernel -> why its grid is not in the file.
    """

    exact: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    floats: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "exact": self.exact,
            "folded": self.folded,
            "floats": self.floats,
            "lost": self.lost,
        }


def find(
    model: Model, encodings: Mapping[str, Encoding]
) -> tuple[dict[str, QuantizedKernel], dict[str, str]]:
    """The kernels that lie on a grid which LiteRT can hold, and why others with codes do not.

    Args:
        model: as it will be converted.
        encodings: tensor name -> what is known of its values; others are looked at.
    """
    grids: dict[str, QuantizedKernel] = {}
    lost: dict[str, str] = {}
    for tensor in model.tensors:
        encoding = encodings.get(tensor.name, tensor.encoding)
        inner = encoding.unmasked
        coded = inner.symbols is not None
        if tensor.out_axis is None or tensor.dtype.kind != "f" or len(tensor.shape) < 2:
            if coded:
                lost[tensor.name] = "is no kernel of a dense or convolutional layer"
            continue
        values = tensor.pull()[0].astype(np.float32, copy=False)
        grid = _known(tensor, values, inner) if isinstance(inner, Affine) else None
        # A grid around another zero, of less than 8 bits, is one around zero too: of more codes.
        grid = grid or on_grid(_rows(tensor, values))
        if grid is not None:
            grids[tensor.name] = grid
        elif coded:
            lost[tensor.name] = _reason(inner)
    return grids, lost


def _reason(encoding: Encoding) -> str:
    if isinstance(encoding, Affine) and encoding.group:
        return "a grid for each group of inputs; LiteRT has one for each output channel"
    if isinstance(encoding, Affine):
        return "a grid around another zero, beyond 127 steps of it; LiteRT's kernels take none"
    return "shared values lie on no grid; rounded to one"


def _rows(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """The kernel with its output channels first, shape (channels, values a channel)."""
    axis = (tensor.out_axis or 0) % values.ndim
    if tensor.in_axis is None and axis == values.ndim - 2:  # depthwise: (…, channels, multiplier)
        values = values.reshape(*values.shape[:-2], -1)
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(len(moved), -1)


def _known(tensor: Tensor, values: np.ndarray, encoding: Affine) -> QuantizedKernel | None:
    """The grid of an encoding, if LiteRT can hold it and the values are on it."""
    if encoding.group or values.dtype != np.float32:
        return None
    scale = _rows(tensor, np.broadcast_to(encoding.scale, values.shape))
    if (scale != scale[:, :1]).any():
        return None
    return _exactly(_rows(tensor, values), np.ascontiguousarray(scale[:, 0], np.float32))


def _exactly(rows: np.ndarray, scale: np.ndarray) -> QuantizedKernel | None:
    """The grid of these scales, if each value is `scale * code` to the last bit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(scale[:, None] > 0, np.rint(rows / scale[:, None]), np.float32(0))
    if not (np.abs(steps) <= 127).all() or not np.array_equal(steps * scale[:, None], rows):
        return None
    return QuantizedKernel(steps.astype(np.int8), scale)


def on_grid(rows: np.ndarray) -> QuantizedKernel | None:
    """The coarsest grid around zero, of at most 127 steps a side, that all values lie on exactly.

    Args:
        rows: float32, shape (channels, values a channel).

    Returns:
        None: at least one channel lies on none, or there are too few values to tell.
    """
    if rows.shape[1] < 4 or not rows.size or not np.isfinite(rows).all():
        return None
    peak = np.abs(rows).max(axis=1).astype(np.float64)
    if not peak.any():
        return None
    sample = rows[:, :: max(1, rows.shape[1] // _LOOK)].astype(np.float64)
    scale = np.zeros(len(rows), np.float32)
    open_ = np.flatnonzero(peak)
    if not _near(sample[open_[:1]], peak[open_[:1], None] / np.arange(1, 128)).any():
        return None  # most kernels end here, after one channel
    for most in range(1, 128):
        step = (peak[open_] / most)[:, None]
        near = _near(sample[open_], step)[:, 0]
        done = []
        for channel, guess in zip(open_[near], step[near, 0], strict=True):
            exact = _scale(rows[channel], guess)
            if exact:
                scale[channel] = exact
                done.append(channel)
        open_ = np.setdiff1d(open_, done, assume_unique=True)
        if not open_.size:
            return _exactly(rows, scale)
    return None


def _near(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Whether all values of a row are multiples of a step, shape (rows, steps a row)."""
    many = values[:, :, None] / steps[:, None, :]
    return (np.abs(many - np.rint(many)) <= _NEAR).all(axis=1)


def _scale(values: np.ndarray, guess: float) -> np.float32 | None:
    """The float32 near a guess whose multiples are the values, to the last bit."""
    found = np.unique(np.abs(values[values != 0])).astype(np.float64)
    codes = np.rint(found / guess)
    if len(found) > 127 or (codes < 1).any() or (codes > 127).any():
        return None
    half = np.spacing(found.astype(np.float32)).astype(np.float64) / 2
    low, high = ((found - half) / codes).max(), ((found + half) / codes).min()
    middle = np.float32((low + high) / 2)
    for one in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(1))):
        if np.array_equal(codes.astype(np.float32) * one, found.astype(np.float32)):
            return one
    return None


def keep(
    path: Path, twin: Path, grids: Mapping[str, QuantizedKernel], lost: Mapping[str, str]
) -> Kept:
    """Puts the grids into a quantized file, in place, and reads them back from it.

    Args:
        path: of the quantized file.
        twin: of the same network, converted without quantization.
        grids: of the kernels, by name.
        lost: kernel -> why it has no grid that could be kept.
    """
    floats = schema.parse(twin)
    kept = Kept(lost=dict(lost))
    places: dict[str, tuple[tuple[int, str], QuantizedKernel, bool]] = {}
    left = dict(grids)
    for place, (operation, kernel) in _kernels(floats).items():
        rows = _channels(operation, kernel, kernel.raw.view("<f4").reshape(kernel.shape))
        for name, grid in left.items():
            there = _as_stored(rows, grid)
            if there is not None:
                places[name] = (place, there, there is not grid)
                del left[name]
                break
    kept.lost.update(dict.fromkeys(left, "the converter made something else of its layer"))
    file = schema.parse(path, writable=True)
    for name, (place, grid, _) in places.items():
        reason = _put(file, floats, place, grid)
        if reason:
            kept.lost[name] = reason
    del file
    _read_back(schema.parse(path), floats, places, kept)
    return kept


def _kernels(file: File) -> dict[tuple[int, str], tuple[Operation, LiteRTTensor]]:
    """(number of the subgraph, name) -> the operator and its kernel, floats or 8 or 4 bits."""
    found: dict[tuple[int, str], tuple[Operation, LiteRTTensor]] = {}
    for number, graph in enumerate(file.graphs):
        for operation in graph.operations:
            if operation.name not in _AXIS or len(operation.inputs) < 2 or operation.inputs[1] < 0:
                continue
            kernel = graph.values[operation.inputs[1]]
            known = kernel.dtype in ("float32", *_HIGHEST)
            if kernel.raw.size and known and not kernel.sparse:
                found.setdefault((number, kernel.name), (operation, kernel))
    return found


def _channels(operation: Operation, kernel: LiteRTTensor, values: np.ndarray) -> np.ndarray:
    moved = np.moveaxis(values, _AXIS[operation.name], 0)
    return moved.reshape(kernel.shape[_AXIS[operation.name]], -1)


def _as_stored(rows: np.ndarray, grid: QuantizedKernel) -> QuantizedKernel | None:
    """The grid as the converter's kernel needs it, or None where that is another kernel.

    Returns:
        The same grid; or one whose channels are multiplied by what a BatchNorm multiplied them by.
    """
    if rows.shape != grid.codes.shape:
        return None
    if np.array_equal(rows, grid.codes * grid.scale[:, None]):
        return grid
    channels = np.arange(len(rows))
    at = np.abs(grid.codes).argmax(axis=1)
    peak = grid.codes[channels, at].astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(peak != 0, rows[channels, at] / peak, 0).astype(np.float32)
    off = np.abs(rows - grid.codes * factor[:, None])
    if not (off <= _FOLDED * np.abs(rows).max(axis=1, keepdims=True)).all():
        return None
    signs = np.where(factor < 0, np.int8(-1), np.int8(1))
    return QuantizedKernel(grid.codes * signs[:, None], np.abs(factor))


def _put(file: File, floats: File, place: tuple[int, str], grid: QuantizedKernel) -> str:
    """Writes codes, scales and the bias that goes with them; or says why that cannot be."""
    found = _kernels(file).get(place)
    if found is None:
        return "the converter made something else of its layer"
    operation, kernel = found
    if kernel.dtype not in _HIGHEST:
        return ""
    held = kernel.quantization
    if held is None or held.scale.size != len(grid.scale) or held.zero_point.any():
        return "the converter gave it no scale for each channel"
    if grid.highest > _HIGHEST[kernel.dtype]:
        return f"its codes reach {grid.highest}, beyond {kernel.dtype}"
    values = file.graphs[place[0]].values
    # Where a channel is all zero, any scale will do; the converter's stays.
    scale = np.where(grid.codes.any(axis=1), grid.scale, held.scale).astype(np.float32)
    bias_at = _BIAS.get(operation.name, 2)
    bias = None
    if len(operation.inputs) > bias_at and operation.inputs[bias_at] >= 0:
        bias = values[operation.inputs[bias_at]]
    writes: list[tuple[np.ndarray, np.ndarray]] = []
    if bias is not None and bias.dtype in ("int32", "int64") and bias.raw.size:
        source = values[operation.inputs[2 if operation.name == "TRANSPOSE_CONV" else 0]]
        if source.quantization is None or bias.quantization is None:
            return "its bias has no scale"
        new = np.float32(source.quantization.scale[0]) * scale
        codes = np.rint(_bias(floats, place).astype(np.float64) / new)
        if bias.quantization.scale.size != len(new) or (np.abs(codes) > 2**31 - 1).any():
            return "its bias does not fit into 32 bits on that grid"
        writes.append((bias.raw.view(f"<i{int(bias.dtype[3:]) // 8}"), codes))
        writes.append((bias.quantization.scale, new))
    axis = _AXIS[operation.name]
    shape = [kernel.shape[axis], *(n for i, n in enumerate(kernel.shape) if i != axis)]
    codes = np.moveaxis(grid.codes.reshape(shape), 0, axis).ravel()
    writes.append((kernel.raw.view(np.int8), pack4(codes) if kernel.dtype == "int4" else codes))
    writes.append((held.scale, scale))
    for target, content in writes:
        if _shared(file, target) and not np.array_equal(target, content.astype(target.dtype)):
            return "the converter lets it share its place with another constant"
    for target, content in writes:
        target[:] = content
    return ""


def _bias(floats: File, place: tuple[int, str]) -> np.ndarray:
    operation, kernel = _kernels(floats)[place]
    at = _BIAS.get(operation.name, 2)
    if len(operation.inputs) <= at or operation.inputs[at] < 0:
        return np.zeros(kernel.shape[_AXIS[operation.name]], np.float32)
    return floats.graphs[place[0]].values[operation.inputs[at]].raw.view("<f4")


def _shared(file: File, content: np.ndarray) -> bool:
    """Whether more than one tensor has these bytes for its values."""
    place = content.__array_interface__["data"][0]
    users = (
        value.raw.__array_interface__["data"][0] == place
        for graph in file.graphs
        for value in graph.values
        if value.raw.size
    )
    return sum(users) > 1


def pack4(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte, the first in the low half."""
    padded = np.zeros(codes.size + codes.size % 2, np.uint8)
    padded[: codes.size] = codes.astype(np.int8).view(np.uint8) & 15
    return (padded[::2] | padded[1::2] << 4).view(np.int8)


def _read_back(
    file: File,
    floats: File,
    places: Mapping[str, tuple[tuple[int, str], QuantizedKernel, bool]],
    kept: Kept,
) -> None:
    """Holds what stands in the file against the grids: nothing is claimed that is not there."""
    written = _kernels(file)
    for name, (place, grid, folded) in places.items():
        if name in kept.lost:
            continue
        operation, kernel = written[place]
        if kernel.dtype == "float32":
            if np.array_equal(kernel.raw, _kernels(floats)[place][1].raw):
                kept.floats.append(name)
            else:
                kept.lost[name] = "the converter wrote other floats"
            continue
        assert kernel.quantization is not None
        codes = _channels(operation, kernel, schema.codes(kernel))
        scale = np.where(grid.codes.any(axis=1), grid.scale, kernel.quantization.scale)
        if np.array_equal(codes, grid.codes) and np.array_equal(kernel.quantization.scale, scale):
            (kept.folded if folded else kept.exact).append(name)
        else:
            kept.lost[name] = "the written file holds other codes"

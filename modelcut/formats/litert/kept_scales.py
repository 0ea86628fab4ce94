"""Keeps the scales of quantized kernels in a `.tflite`, whose converter chooses its own.

The converter sets each channel's scale to max |w| / 127. A kernel that is quantized already (4
bits, a clipped range, ternary) would be rounded a second time. This module writes its codes and
scales into a file with the same layers in 8 or 4 bits. LiteRT's kernels require of weights: signed
codes in -127 .. 127, zero at code 0, one scale for each output channel; and a bias whose scale is
that of the input times that of the weights (LiteRT's 8-bit quantization specification).

Which constant holds which kernel is found by its values, in a twin file: the same network
converted without quantization. A BatchNorm that the converter has folded into a kernel multiplies
each channel by a number: the codes are unchanged, the scale is multiplied.
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
        scale: float32, shape (channels,); 0 where the whole channel is zero and no scale is known.
    """

    codes: np.ndarray
    scale: np.ndarray

    @property
    def highest(self) -> int:
        """The largest magnitude of a code."""
        return int(np.abs(self.codes).max(initial=0))


@dataclass
class Kept:
    """Which quantization parameters were kept, as read back from the written file.

    Attributes:
        exact: kernels whose codes and scales in the file are those of the model, bit for bit.
        folded: the same, the scale of each channel multiplied by that of a BatchNorm.
        floats: kernels that the converter left as the floats they were.
        lost: kernel -> why its scales are not in the file.
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
    """The kernels whose quantization LiteRT supports, and the reasons for the others with codes.

    Args:
        model: as it will be converted.
        encodings: tensor name -> what is known of its values; others are looked at.
    """
    kernels: dict[str, QuantizedKernel] = {}
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
        quantized = _known(tensor, values, inner) if isinstance(inner, Affine) else None
        # An asymmetric range of few bits is a symmetric one with more codes.
        quantized = quantized or exact_scales(_rows(tensor, values))
        if quantized is not None:
            kernels[tensor.name] = quantized
        elif coded:
            lost[tensor.name] = _reason(inner)
    return kernels, lost


def _reason(encoding: Encoding) -> str:
    if isinstance(encoding, Affine) and encoding.group:
        return "has a scale for each group of inputs; LiteRT has one for each output channel"
    if isinstance(encoding, Affine):
        return "is asymmetric, with codes beyond 127 around zero; LiteRT's kernels are symmetric"
    return "has centroids that are not multiples of one scale; rounded"


def _rows(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """The kernel with its output channels first, shape (channels, values a channel)."""
    axis = (tensor.out_axis or 0) % values.ndim
    if tensor.in_axis is None and axis == values.ndim - 2:  # depthwise: (…, channels, multiplier)
        values = values.reshape(*values.shape[:-2], -1)
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(len(moved), -1)


def _known(tensor: Tensor, values: np.ndarray, encoding: Affine) -> QuantizedKernel | None:
    """The kernel in an encoding's own scales, if LiteRT supports them and they are exact."""
    if encoding.group or values.dtype != np.float32:
        return None
    scale = _rows(tensor, np.broadcast_to(encoding.scale, values.shape))
    if (scale != scale[:, :1]).any():
        return None
    return _exactly(_rows(tensor, values), np.ascontiguousarray(scale[:, 0], np.float32))


def _exactly(rows: np.ndarray, scale: np.ndarray) -> QuantizedKernel | None:
    """The kernel in these scales, if each value is exactly `scale * code`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(scale[:, None] > 0, np.rint(rows / scale[:, None]), np.float32(0))
    if not (np.abs(steps) <= 127).all() or not np.array_equal(steps * scale[:, None], rows):
        return None
    return QuantizedKernel(steps.astype(np.int8), scale)


def exact_scales(rows: np.ndarray) -> QuantizedKernel | None:
    """The kernel in the largest scales that represent all values exactly, with codes up to 127.

    Args:
        rows: float32, shape (channels, values a channel).

    Returns:
        None: at least one channel has no such scale, or there are too few values to tell.
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
    path: Path, twin: Path, kernels: Mapping[str, QuantizedKernel], lost: Mapping[str, str]
) -> Kept:
    """Writes the kernels into a quantized file, in place, and reads them back from it.

    Args:
        path: of the quantized file.
        twin: of the same network, converted without quantization.
        kernels: codes and scales by tensor name.
        lost: kernel -> why its scales cannot be kept.
    """
    floats = schema.parse(twin)
    kept = Kept(lost=dict(lost))
    places: dict[str, tuple[tuple[int, str], QuantizedKernel, bool]] = {}
    left = dict(kernels)
    for place, (operation, kernel) in _kernels(floats).items():
        rows = _channels(operation, kernel, kernel.raw.view("<f4").reshape(kernel.shape))
        for name, quantized in left.items():
            there = _as_stored(rows, quantized)
            if there is not None:
                places[name] = (place, there, there is not quantized)
                del left[name]
                break
    kept.lost.update(dict.fromkeys(left, "the converter changed its layer"))
    file = schema.parse(path, writable=True)
    for name, (place, quantized, _) in places.items():
        reason = _put(file, floats, place, quantized)
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


def _as_stored(rows: np.ndarray, quantized: QuantizedKernel) -> QuantizedKernel | None:
    """Codes and scales as the converter's kernel needs them; None where that is another kernel.

    Returns:
        The same; or with the scales multiplied as a folded BatchNorm multiplied the channels.
    """
    if rows.shape != quantized.codes.shape:
        return None
    if np.array_equal(rows, quantized.codes * quantized.scale[:, None]):
        return quantized
    channels = np.arange(len(rows))
    at = np.abs(quantized.codes).argmax(axis=1)
    peak = quantized.codes[channels, at].astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(peak != 0, rows[channels, at] / peak, 0).astype(np.float32)
    off = np.abs(rows - quantized.codes * factor[:, None])
    if not (off <= _FOLDED * np.abs(rows).max(axis=1, keepdims=True)).all():
        return None
    signs = np.where(factor < 0, np.int8(-1), np.int8(1))
    return QuantizedKernel(quantized.codes * signs[:, None], np.abs(factor))


def _put(file: File, floats: File, place: tuple[int, str], quantized: QuantizedKernel) -> str:
    """Writes codes, scales and the bias in these scales; returns why it cannot, or ""."""
    found = _kernels(file).get(place)
    if found is None:
        return "the converter changed its layer"
    operation, kernel = found
    if kernel.dtype not in _HIGHEST:
        return ""
    converted = kernel.quantization
    if (
        converted is None
        or converted.scale.size != len(quantized.scale)
        or converted.zero_point.any()
    ):
        return "the converter gave it no scale for each channel"
    if quantized.highest > _HIGHEST[kernel.dtype]:
        return f"its codes reach {quantized.highest}, beyond {kernel.dtype}"
    values = file.graphs[place[0]].values
    # Where a channel is all zero, any scale is correct; the converter's is kept.
    used = quantized.codes.any(axis=1)
    scale = np.where(used, quantized.scale, converted.scale).astype(np.float32)
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
            return "its bias does not fit into 32 bits with that scale"
        writes.append((bias.raw.view(f"<i{int(bias.dtype[3:]) // 8}"), codes))
        writes.append((bias.quantization.scale, new))
    axis = _AXIS[operation.name]
    shape = [kernel.shape[axis], *(n for i, n in enumerate(kernel.shape) if i != axis)]
    codes = np.moveaxis(quantized.codes.reshape(shape), 0, axis).ravel()
    writes.append((kernel.raw.view(np.int8), pack4(codes) if kernel.dtype == "int4" else codes))
    writes.append((converted.scale, scale))
    for target, content in writes:
        if _shared(file, target) and not np.array_equal(target, content.astype(target.dtype)):
            return "the converter stores it together with another constant"
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
    """Compares the file with the kernels, so that the report states only what it contains."""
    written = _kernels(file)
    for name, (place, quantized, folded) in places.items():
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
        scale = np.where(quantized.codes.any(axis=1), quantized.scale, kernel.quantization.scale)
        if np.array_equal(codes, quantized.codes) and np.array_equal(
            kernel.quantization.scale, scale
        ):
            (kept.folded if folded else kept.exact).append(name)
        else:
            kept.lost[name] = "the written file has other codes"

"""What the layers of a running network are given, as the matrix that their kernel multiplies.

A dense layer's rows are its inputs; a convolution's are the patches under its kernel, one for each
place (im2col).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from modelcut.graph.keras.classes import get, integers
from modelcut.model.model import Layer, Tensor

_DENSE = ("Dense", "TimeDistributedDense")
_FLAT = ("Conv1D", "Convolution1D")
_PLANE = ("Conv2D", "Convolution2D")
_CHUNK = 1 << 24


def refusal(layer: Layer, kernel: Tensor) -> str:
    """Why a tensor has no matrix of inputs; "" where it has one."""
    wanted = 2 if layer.class_name in _DENSE else 3 if layer.class_name in _FLAT else 4
    known = layer.class_name in (*_DENSE, *_FLAT, *_PLANE) and kernel.role in ("kernel", "W")
    if not known or len(kernel.shape) != wanted or kernel.out_axis != wanted - 1:
        return "is not the kernel of a Dense, Conv1D or Conv2D layer"
    if get(layer.config, "groups", default=1) != 1:
        return "is the kernel of a convolution in groups"
    return ""


def matrices(layer: Layer, kernel: Tensor, given: np.ndarray) -> Iterator[np.ndarray]:
    """The inputs of a layer's call, as matrices of some MB.

    Args:
        layer: a layer for which `refusal` returns "".
        kernel: the layer's kernel.
        given: what goes into the layer, (rows, …).

    Yields:
        Float32 (places, d), where d is the size of the kernel without its last axis, in its order.
    """
    width = int(np.prod(kernel.shape[:-1]))
    if layer.class_name in _DENSE:
        yield given.reshape(-1, width).astype(np.float32, copy=False)
        return
    views = patches(layer.config, kernel.shape[:-2], given)
    step = max(1, _CHUNK // max(1, int(np.prod(views.shape[1:]))))
    for start in range(0, len(views), step):
        yield np.ascontiguousarray(views[start : start + step], np.float32).reshape(-1, width)


def patches(config: Any, size: tuple[int, ...], given: np.ndarray) -> np.ndarray:
    """What lies under the kernel of a convolution at each place.

    Args:
        config: configuration of the layer.
        size: size of its kernel, one number for each spatial axis.
        given: what goes into the layer, (rows, …).

    Returns:
        A view of (rows, *places, *size, channels).
    """
    rank = len(size)
    if "channels_first" in (config.get("data_format"),) or config.get("dim_ordering") == "th":
        given = np.moveaxis(given, 1, -1)
    strides = _each(get(config, "strides", "subsample", "subsample_length", default=1), rank)
    rates = _each(get(config, "dilation_rate", "atrous_rate", default=1), rank)
    padding = get(config, "padding", "border_mode", default="valid")
    reaches = [(n - 1) * rate + 1 for n, rate in zip(size, rates, strict=True)]
    around = [(0, 0)] * given.ndim
    for axis, (stride, reach) in enumerate(zip(strides, reaches, strict=True)):
        length = given.shape[1 + axis]
        if padding == "same":
            total = max((-(-length // stride) - 1) * stride + reach - length, 0)
            around[1 + axis] = (total // 2, total - total // 2)
        elif padding == "causal":
            around[1 + axis] = (reach - 1, 0)
    axes = tuple(range(1, 1 + rank))
    padded = np.pad(given, around)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reaches, axis=axes)
    places = (slice(None), *(slice(None, None, stride) for stride in strides), slice(None))
    windows = windows[(*places, *(slice(None, None, rate) for rate in rates))]
    return np.moveaxis(windows, 1 + rank, -1)


def _each(value: Any, rank: int) -> list[int]:
    return [n or 1 for n in integers(value, rank)]

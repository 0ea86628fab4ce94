"""What lies under the kernel of a convolution at each place (im2col)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.graph.keras.classes import get, integers

CHUNK = 1 << 24
"""Values of a matrix of inputs that are made at a time, about."""


def chosen_of(count: int, most: int) -> np.ndarray | None:
    """Which of so many rows are looked at, at most so many; None: all.

    The same ones for the same counts, so that two networks are compared in the same places.
    """
    if count <= most:
        return None
    return np.sort(np.random.default_rng(count).choice(count, most, replace=False))


@dataclass(frozen=True)
class Patches:
    """The patches of one layer.

    Attributes:
        config: of the layer.
        size: of the kernel, along each axis of places.
        transposed: whether it is a transposed convolution.
    """

    config: Mapping[str, Any]
    size: tuple[int, ...]
    transposed: bool = False

    def of(self, given: np.ndarray, most: int) -> Iterator[np.ndarray]:
        """At most so many places, as float32 (n, *size, channels) pieces."""
        view = self.view(given)
        rank = len(self.size)
        places = view.shape[: rank + 1]
        taps = view.shape[rank + 1 :]
        width = max(1, int(np.prod(taps, dtype=np.int64)))
        chosen = chosen_of(int(np.prod(places, dtype=np.int64)), most)
        if chosen is None:
            step = max(1, CHUNK // max(1, int(np.prod(view.shape[1:], dtype=np.int64))))
            for start in range(0, len(view), step):
                part = np.ascontiguousarray(view[start : start + step], np.float32)
                yield part.reshape(-1, *taps)
            return
        step = max(1, CHUNK // width)
        for start in range(0, len(chosen), step):
            index = np.unravel_index(chosen[start : start + step], places)
            yield view[index].astype(np.float32, copy=False)

    def view(self, given: np.ndarray) -> np.ndarray:
        """A view of (rows, *places, *size, channels)."""
        config, rank = self.config, len(self.size)
        if config.get("data_format") == "channels_first" or config.get("dim_ordering") == "th":
            given = np.moveaxis(given, 1, -1)
        strides = _each(get(config, "strides", "subsample", "subsample_length", default=1), rank)
        rates = _each(get(config, "dilation_rate", "atrous_rate", default=1), rank)
        padding = get(config, "padding", "border_mode", default="valid")
        reaches = [(n - 1) * rate + 1 for n, rate in zip(self.size, rates, strict=True)]
        if self.transposed:
            given = _spaced(given, strides)
        around = [(0, 0)] * given.ndim
        for axis, (stride, reach) in enumerate(zip(strides, reaches, strict=True)):
            length = given.shape[1 + axis]
            if self.transposed:
                # The gradient of a convolution: what it would have padded is cut from the ends.
                total = max(reach - stride, 0) if padding == "same" else 0
                before = reach - 1 - total // 2
                made = (length - 1) // stride + 1
                made = made * stride if padding == "same" else length + max(reach - 1, stride - 1)
                around[1 + axis] = (before, made + reach - 1 - before - length)
            elif padding == "same":
                total = max((-(-length // stride) - 1) * stride + reach - length, 0)
                around[1 + axis] = (total // 2, total - total // 2)
            elif padding == "causal":
                around[1 + axis] = (reach - 1, 0)
        axes = tuple(range(1, 1 + rank))
        padded = np.pad(given, around)
        windows = np.lib.stride_tricks.sliding_window_view(padded, reaches, axis=axes)
        steps = [1] * rank if self.transposed else strides
        places = (slice(None), *(slice(None, None, stride) for stride in steps), slice(None))
        windows = windows[(*places, *(slice(None, None, rate) for rate in rates))]
        if self.transposed:  # a tap further on reads an input further back
            back: Any = (..., *(slice(None, None, -1),) * rank)
            windows = windows[back]
        return np.moveaxis(windows, 1 + rank, -1)


def _spaced(given: np.ndarray, strides: list[int]) -> np.ndarray:
    """With zeros between the inputs, as a transposed convolution sees them."""
    shape = list(given.shape)
    for axis, stride in enumerate(strides):
        shape[1 + axis] = (shape[1 + axis] - 1) * stride + 1
    spaced = np.zeros(shape, given.dtype)
    spaced[(slice(None), *(slice(None, None, stride) for stride in strides))] = given
    return spaced


def _each(value: Any, rank: int) -> list[int]:
    return [n or 1 for n in integers(value, rank)]

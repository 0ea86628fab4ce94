"""Sums of signed scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from modelcut.arrays import floats
from modelcut.arrays.blocks import ALL
from modelcut.model.encoding import Encoding, broadcasts, taken


@dataclass(frozen=True, eq=False)
class Binary(Encoding):
    """Sums of signed scales: each value is one of the 2^k sums of ±scale[0] … ±scale[k-1].

    Attributes:
        scale: float32, shape (k, ...): k bases (1: plain sign and scale, Rastegari et al. 2016,
            section 3.1), each of which broadcasts against the tensor.
    """

    kind: ClassVar[str] = "binary"
    scale: np.ndarray

    @property
    def label(self) -> str:
        return "binary" if self.scale.shape[0] == 1 else f"binary, {self.scale.shape[0]} bases"

    @property
    def symbols(self) -> int:
        return int(1 << self.scale.shape[0])

    @property
    def uniform(self) -> bool:
        return all(base.size == 1 for base in self.scale)

    def fits(self, shape: tuple[int, ...]) -> bool:
        sound = isinstance(self.scale, np.ndarray) and self.scale.ndim > 0
        return sound and self.scale.size > 0 and all(broadcasts(s, shape) for s in self.scale)

    def take(self, axis: int, indices: np.ndarray) -> Encoding:
        if self.scale.ndim == 1:
            return self
        return replace(self, scale=taken(self.scale, axis + 1, indices))

    def arranged(
        self, shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]
    ) -> Encoding:
        bases = [arrange(np.broadcast_to(base, shape)) for base in self.scale]
        return replace(self, scale=np.stack(bases))

    def _levels(self, dtype: np.dtype, shape: tuple[int, ...], rows: slice) -> np.ndarray:
        """The value that each code stands for, shape (2^k, ...); bit i is the sign of base i."""
        levels = np.zeros((self.symbols,) + (1,) * (self.scale.ndim - 1))
        codes = np.arange(self.symbols).reshape(-1, *levels.shape[1:])
        for base, scale in enumerate(self.scale.astype(np.float64)):
            if scale.ndim and shape and scale.shape[0] > 1:
                scale = scale[rows]
            levels = levels + np.where(codes >> base & 1, scale, -scale)
        with np.errstate(over="ignore"):
            return levels.astype(dtype)

    def _ordered(
        self, dtype: np.dtype, shape: tuple[int, ...], rows: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levels in ascending order, the limits between them, and the code of each."""
        levels = self._levels(dtype, shape, rows)
        order = np.argsort(levels.astype(np.float64), axis=0, kind="stable")
        levels = np.take_along_axis(levels, order, axis=0)
        wide = levels.astype(np.float64)
        limits = floats.rounded_down(wide[:-1] / 2 + wide[1:] / 2, dtype)
        return levels, limits, order.astype(np.uint8)

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        if self.symbols == 2:
            high = self._levels(values.dtype, values.shape, rows)[1]
            zero = np.zeros((), values.dtype)
            signed = values + zero  # neither takes nor makes -0.0
            np.copysign(high, signed, out=signed)
            signed += zero
            return signed
        if self.scale[0].size == 1:
            return _levels_cut(self, values.dtype).pick(values)
        levels, limits, _ = self._ordered(values.dtype, values.shape, rows)
        return _of_cells(levels, _above(values, limits))

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        if self.symbols == 2:
            return (values >= 0).view(np.uint8)
        _, limits, order = self._ordered(values.dtype, values.shape, rows)
        if self.scale[0].size == 1:
            return order.reshape(-1)[_levels_cut(self, values.dtype).places(values)]
        return _of_cells(order, _above(values, limits))

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        levels = self._levels(dtype, codes.shape, rows)
        return _of_cells(levels, codes)

    def side_bits(self) -> int:
        return self.scale.size * 32

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale}


def _above(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """How many of the limits, each a number a cell, are below each value."""
    above = np.zeros(values.shape, np.uint8)
    for limit in limits:
        above += values > limit
    return above


def _of_cells(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """`table[index]`, a table a cell: shape (n, ...), which broadcasts against the index."""
    flat = index.astype(np.intp)
    if table[0].size > 1:
        flat *= table[0].size
        flat += np.arange(table[0].size).reshape(table.shape[1:])
    return table.reshape(-1).take(flat)


@lru_cache(maxsize=8)
def _levels_cut(encoding: Binary, dtype: np.dtype) -> floats.Cuts:
    """The limits between the levels of a whole tensor."""
    levels, limits, _ = encoding._ordered(dtype, (), ALL)
    return floats.Cuts(limits.reshape(-1), levels.reshape(-1))

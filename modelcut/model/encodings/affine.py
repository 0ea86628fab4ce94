"""Uniform quantization with a scale and an optional zero point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from modelcut.arrays.blocks import ALL
from modelcut.model.encoding import Encoding, broadcasts, taken


@dataclass(frozen=True, eq=False)
class Affine(Encoding):
    """Uniform quantization: `scale * (code - zero_point)` (Jacob et al. 2018, eq. 1).

    Attributes:
        width: bits per code, 2 to 8.
        scale: float32, broadcasts against the tensor (see the module); positive.
        zero_point: int32, like `scale`; None: symmetric, codes centred on zero.
        group: number of values per group along `group_axis`; 0: no groups.
        group_axis: the axis cut into groups.
    """

    kind: ClassVar[str] = "affine"
    width: int
    scale: np.ndarray
    zero_point: np.ndarray | None = None
    group: int = 0
    group_axis: int = 0

    @property
    def label(self) -> str:
        name = f"int{self.width}" if self.zero_point is None else f"uint{self.width}"
        return f"{name}, groups of {self.group}" if self.group else name

    @property
    def symbols(self) -> int:
        # Symmetric quantization leaves out the lowest code, as int8 weights do in LiteRT.
        return (1 << self.width) - (self.zero_point is None)

    @property
    def uniform(self) -> bool:
        sizes = [self.scale.size, 1 if self.zero_point is None else self.zero_point.size]
        return not self.group and sizes == [1, 1]

    def fits(self, shape: tuple[int, ...]) -> bool:
        parameters = [self.scale] if self.zero_point is None else [self.scale, self.zero_point]
        return all(
            broadcasts(parameter, shape, group=self.group, group_axis=self.group_axis)
            for parameter in parameters
        )

    def take(self, axis: int, indices: np.ndarray) -> Encoding:
        cut = self.group and axis == self.group_axis
        places = indices // self.group if cut else indices
        return replace(
            self,
            scale=taken(self.scale, axis, places),
            zero_point=None if self.zero_point is None else taken(self.zero_point, axis, places),
            group=0 if cut else self.group,
        )

    def arranged(
        self, shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]
    ) -> Encoding:
        def moved(parameter: np.ndarray) -> np.ndarray:
            return arrange(np.broadcast_to(self._spread(parameter, shape, ALL), shape))

        zero = None if self.zero_point is None else moved(self.zero_point)
        return replace(self, scale=moved(self.scale), zero_point=zero, group=0, group_axis=0)

    @property
    def _half(self) -> int:
        return (1 << (self.width - 1)) - 1

    def _parameters_of(self, values: np.ndarray, rows: slice) -> tuple[np.ndarray, Any]:
        work = np.float64 if values.dtype == np.float64 else np.float32
        scale = self._spread(self.scale, values.shape, rows).astype(work)
        if self.zero_point is None:
            return scale, self._half
        return scale, self._spread(self.zero_point, values.shape, rows).astype(work)

    def _spread(self, parameter: np.ndarray, shape: tuple[int, ...], rows: slice) -> np.ndarray:
        """The part of a parameter that belongs to these rows, groups repeated."""
        if parameter.ndim == 0 or not shape:
            return parameter
        axis = self.group_axis % len(shape)
        if self.group and parameter.shape[axis] > 1:
            if axis == 0:
                start = rows.start or 0
                return parameter[np.arange(start, start + shape[0]) // self.group]
            parameter = np.repeat(parameter, self.group, axis=axis)
            parameter = parameter[(slice(None),) * axis + (slice(0, shape[axis]),)]
        return parameter if parameter.shape[0] == 1 else parameter[rows]

    def _steps(self, values: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray, Any]:
        """Steps from zero, that is codes less the zero point; whole numbers."""
        scale, zero = self._parameters_of(values, rows)
        steps = values.astype(scale.dtype, copy=False) / scale
        np.rint(steps, out=steps)
        np.clip(steps, -zero, self.symbols - 1 - zero, out=steps)
        return steps, scale, zero

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        steps, scale, _ = self._steps(values, rows)
        return _dequantized(steps, scale, values.dtype)

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        steps, _, zero = self._steps(values, rows)
        steps += zero
        return steps.astype(np.uint8)

    def coded(self, values: np.ndarray, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray | None]:
        steps, scale, zero = self._steps(values, rows)
        codes = (steps + zero).astype(np.uint8)
        return _dequantized(steps, scale, values.dtype), codes

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        scale, zero = self._parameters_of(np.empty(codes.shape, dtype), rows)
        steps = codes.astype(scale.dtype)
        steps -= zero
        return _dequantized(steps, scale, dtype)

    def side_bits(self) -> int:
        zeros = 0 if self.zero_point is None else self.zero_point.size * self.width
        return self.scale.size * 32 + zeros

    def record(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "width": self.width,
            "scale": self.scale,
            "zero_point": self.zero_point,
            "group": self.group,
            "group_axis": self.group_axis,
        }


def _dequantized(steps: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Steps from zero as values; overwrites them."""
    steps *= scale
    # Zero times a scale may be -0.0, which deflates worse and compares badly.
    steps += 0.0
    return steps.astype(dtype, copy=False)

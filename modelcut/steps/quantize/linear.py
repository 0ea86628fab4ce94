"""Uniform quantization: values on a grid of 2^bits steps (Jacob et al. 2018, section 2.1)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.blocks import map_rows
from modelcut.budget import Budgeted, Strength
from modelcut.encoding import Affine, Encoding, Sparse, with_inner
from modelcut.model import Edit, Rewrite, Tensor
from modelcut.step import Context, TensorStep

CODED = {
    "affine": "its values lie on a grid already",
    "codebook": "its values are shared already",
    "binary": "its values are signs already",
}
"""Encodings that a further quantizer would destroy."""

_SHRINK = np.linspace(1.0, 0.3, 36)
_SAMPLE = 1 << 22


class Linear(Budgeted, TensorStep):
    """Put weights on a uniform grid, zero on it exactly."""

    strength: ClassVar[Strength] = Strength("bits", (8, 7, 6, 5, 4, 3, 2))
    refuses: ClassVar[dict[str, str]] = CODED

    bits: Annotated[int, Field(ge=2, le=8)] = Field(default=8, description="Bits a weight, 2 to 8.")
    symmetric: bool = Field(
        default=True, description="A grid centred on zero; else one from minimum to maximum."
    )
    per: Literal["tensor", "channel"] = Field(
        default="channel", description="One grid a tensor, or one for each output channel."
    )
    range: Literal["minmax", "percentile", "mse"] = Field(
        default="minmax", description="How the ends of the grid are found."
    )
    percentile: Annotated[float, Field(gt=50, le=100)] | None = Field(
        default=None, description="For range: percentile; magnitudes above it are clipped (99.9)."
    )

    @model_validator(mode="after")
    def _percentile_is_used(self) -> Self:
        if self.percentile is not None and self.range != "percentile":
            raise ValueError("percentile is for range: percentile only")
        return self

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("affine",)

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit:
        del survey, context
        axis = tensor.out_axis if self.per == "channel" else None

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            low, high = self._ends(values, axis, sparse=isinstance(encoding, Sparse))
            after = with_inner(encoding, self._grid(low, high))
            return Rewrite(after, after.project)

        return plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "affine") if "sparse" in tensor.kinds else ("affine",)

    def _grid(self, low: np.ndarray, high: np.ndarray) -> Affine:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if self.symmetric:
            steps = (1 << (self.bits - 1)) - 1
            scale = np.maximum(-low, high) / steps
            return Affine(self.bits, _positive(scale))
        steps = (1 << self.bits) - 1
        scale = _positive((high - low) / steps)
        zero = np.clip(np.rint(-low / scale), 0, steps)
        return Affine(self.bits, scale, zero.astype(np.int32))

    def _ends(
        self, values: np.ndarray, axis: int | None, *, sparse: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest value that the grid reaches, a channel each, keeping all axes."""
        low, high = _extremes(values, axis)
        if self.range == "percentile":
            return self._clipped(values, axis, sparse=sparse)
        if self.range == "mse":
            return self._least_error(values, axis, low, high)
        return low, high

    def _clipped(
        self, values: np.ndarray, axis: int | None, *, sparse: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        share = self.percentile if self.percentile is not None else 99.9
        rows, shape = _channels(values, axis)
        low, high = np.empty(len(rows)), np.empty(len(rows))
        for index, row in enumerate(rows):
            kept = row[row != 0] if sparse else row
            kept = kept if kept.size else np.zeros(1)
            if self.symmetric:
                high[index] = np.percentile(np.abs(kept), share)
                low[index] = -high[index]
            else:
                low[index], high[index] = np.percentile(kept, [100 - share, share])
        return low.reshape(shape), high.reshape(shape)

    def _least_error(
        self, values: np.ndarray, axis: int | None, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shrinks the range of each channel to the one of least squared error, by a 1-D search."""
        rows, shape = _channels(values, axis)
        lows, highs = low.reshape(-1).copy(), high.reshape(-1).copy()
        step = max(1, rows.shape[1] // max(256, _SAMPLE // max(1, len(rows))))
        sample = rows[:, ::step].astype(np.float32, copy=False)
        best = np.full(len(rows), np.inf)
        factor = np.ones(len(rows))
        for shrink in _SHRINK:
            grid = self._grid((lows * shrink)[:, None], (highs * shrink)[:, None])

            def loss(rows: slice, grid: Affine = grid) -> np.ndarray:
                delta = sample[rows] - grid.project(sample[rows], rows)
                return np.square(delta).sum(axis=1)

            error = np.concatenate(map_rows(loss, sample))
            better = error < best
            best[better], factor[better] = error[better], shrink
        return (lows * factor).reshape(shape), (highs * factor).reshape(shape)


def _positive(scale: np.ndarray) -> np.ndarray:
    """Float32 scales; a channel without range gets 1, which puts its zeros on code zero.

    Rounded up to 8 significant bits, at most 0.8 % more: code × scale is then exact in float32, and
    the low byte of every weight is zero, which deflates.
    """
    mantissa, exponent = np.frexp(np.asarray(scale, np.float64))
    scale = np.ldexp(np.ceil(mantissa * 256) / 256, exponent).astype(np.float32)
    tiny = np.finfo(np.float32).tiny
    return np.where(np.isfinite(scale) & (scale > tiny), scale, np.float32(1))


def _extremes(values: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum of the finite values, a channel each, keeping all axes."""
    if values.size == 0:
        empty = np.zeros((1,) * values.ndim)
        return empty, empty
    if axis == 0:
        others = tuple(range(1, values.ndim))
        parts = map_rows(lambda rows: _ends_of(values[rows], others), values)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    others = tuple(i for i in range(values.ndim) if i != axis)
    parts = map_rows(lambda rows: _ends_of(values[rows], others), values)
    low = np.min([part[0] for part in parts], axis=0)
    return low, np.max([part[1] for part in parts], axis=0)


def _ends_of(block: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    low = np.min(block, axis=axes, keepdims=True)
    high = np.max(block, axis=axes, keepdims=True)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        finite = np.where(np.isfinite(block), block, 0)
        low = np.min(finite, axis=axes, keepdims=True)
        high = np.max(finite, axis=axes, keepdims=True)
    return low.astype(np.float64), high.astype(np.float64)


def _channels(values: np.ndarray, axis: int | None) -> tuple[np.ndarray, tuple[int, ...]]:
    """The values as (channels, rest), and the shape of one number a channel, keeping all axes."""
    if axis is None:
        return values.reshape(1, -1), (1,) * values.ndim
    moved = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    shape = tuple(n if i == axis else 1 for i, n in enumerate(values.shape))
    return moved, shape

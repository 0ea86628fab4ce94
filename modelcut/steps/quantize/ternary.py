"""Weights as minus, zero or plus a scale (Li and Liu 2016)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from modelcut.arrays import floats
from modelcut.model.encoding import Encoding, Sparse
from modelcut.model.encodings.binary import Binary
from modelcut.model.model import Tensor
from modelcut.model.rewrite import Edit, Rewrite, leave
from modelcut.steps.base import CODED, NOT_FINITE, Context
from modelcut.steps.quantize import NOTHING_TO_SEARCH, TOO_LARGE
from modelcut.steps.quantize._calibrated import Calibrated
from modelcut.steps.quantize._cells import Cells, fits, magnitudes_above, short, wide

_SAMPLE = 1 << 21
_ROUNDS = 3


class Ternary(Calibrated):
    """Ternary weights: −scale, 0 or +scale, with the threshold of least squared error.

    Pruned zeros stay zero.
    """

    refuses: ClassVar[dict[str, str]] = CODED
    absent: ClassVar[dict[str, str]] = NOTHING_TO_SEARCH
    zero_is_level: ClassVar[bool] = True

    per: Literal["tensor", "channel"] = Field(
        default="channel",
        description="One scale and threshold per tensor or per output channel; scales of "
        "channels are rounded to 8 significant bits, by at most 0.4 %.",
    )

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse", "binary")

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit:
        del survey, context
        cells = Cells(tensor.shape, tensor.out_axis if self.per == "channel" else None)

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            found = _fit(values, cells)
            if isinstance(found, str):
                return leave(encoding, found)
            limit, scale = found
            signs = Binary(scale[None])

            def block(part: np.ndarray, rows: slice) -> np.ndarray:
                sizes = np.abs(wide(part))
                above = sizes > cells.rows_of(limit, rows).astype(sizes.dtype)
                return floats.masked(signs.project(part, rows), above)

            return Rewrite(Sparse(signs, encoding.pattern), block)

        return plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "binary")


def _fit(values: np.ndarray, cells: Cells) -> tuple[np.ndarray, np.ndarray] | str:
    """Threshold and scale of each cell, or why there are none.

    The optimum is found among the values themselves, of a sample where they are many; from there
    on, threshold (half the scale) and scale (the mean above the threshold) take turns over all.
    """
    per_cell = max(512, _SAMPLE // max(1, int(np.prod(cells.counts))))
    sample = np.abs(cells.sample(values, per_cell))
    limit = least_squares_limit(sample).reshape(cells.counts)
    exact = sample.size == values.size
    for _ in range(1 if exact else _ROUNDS):
        counts, sums = (part[0] for part in magnitudes_above(values, cells, [limit]))
        if not np.isfinite(sums).all():
            finite = np.isfinite(values.astype(np.float64)).all()
            return TOO_LARGE if finite else NOT_FINITE
        scale = sums / np.maximum(counts, 1)
        used, limit = limit, scale / 2
    if not fits(scale, values.dtype):
        return TOO_LARGE
    return used, short(scale) if scale.size > 1 else scale.astype(np.float32)


def least_squares_limit(sizes: np.ndarray) -> np.ndarray:
    """The magnitude above which weights are kept: the most of (sum of what is kept)² / (its count).

    That is what is left of the sum of squares once the scale is best (Li and Liu 2016, eq. 5), so
    it is found exactly by trying every cut of the sorted magnitudes.

    Args:
        sizes: magnitudes, shape (cells, n).

    Returns:
        Shape (cells,).
    """
    ordered = np.sort(sizes, axis=1)[:, ::-1]
    sums = np.cumsum(ordered, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        gain = np.square(sums) / np.arange(1, sizes.shape[1] + 1)
    kept = np.argmax(gain, axis=1) + 1
    padded = np.concatenate([ordered, np.zeros((len(sizes), 1))], axis=1)
    limit: np.ndarray = padded[np.arange(len(sizes)), kept]
    return limit

"""Weights as signs and scales (Rastegari et al. 2016, section 3.1)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from modelcut.model.encoding import Encoding
from modelcut.model.encodings.binary import Binary as Signs
from modelcut.model.model import Tensor
from modelcut.model.rewrite import Edit, Rewrite, leave
from modelcut.steps.base import CODED, NOT_FINITE, Context
from modelcut.steps.quantize import TOO_LARGE
from modelcut.steps.quantize._calibrated import Calibrated
from modelcut.steps.quantize._cells import Cells, fits, magnitudes_above, short
from modelcut.steps.quantize._signs import fit_bases, solve
from modelcut.steps.strength import Budgeted, Strength

_SAMPLE = 1 << 21


class Binarize(Budgeted, Calibrated):
    """Binary weights: a sign and a scale, or a sum of several such bases.

    The scale is the mean magnitude, which minimizes the squared error. Pruned zeros stay zero.
    """

    strength: ClassVar[Strength] = Strength("bases", (5, 4, 3, 2, 1), needed=False)
    refuses: ClassVar[dict[str, str]] = CODED

    bases: Annotated[int, Field(ge=1, le=5)] = Field(
        default=1,
        description="Number of binary bases, and so of bits per weight: each weight is a sum of "
        "this many signed scales, fitted jointly by least squares.",
    )
    per: Literal["tensor", "channel"] = Field(
        default="channel",
        description="One set of scales per tensor or per output channel; the latter are rounded "
        "to 8 significant bits, by at most 0.4 %.",
    )

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("binary",)

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit:
        del survey, context
        cells = Cells(tensor.shape, tensor.out_axis if self.per == "channel" else None)

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            scales = self._scales(values, cells, sparse=encoding.masked)
            if isinstance(scales, str):
                return leave(encoding, scales)
            after = encoding.recoded(Signs(scales))
            return Rewrite(after)

        return plan

    def _scales(self, values: np.ndarray, cells: Cells, *, sparse: bool) -> np.ndarray | str:
        """Scales, float32, shape (bases, …), or why there are none."""
        # Zeros of a pruned tensor are no part of it; others lie in the lowest interval.
        least = np.zeros((1,) * values.ndim) if sparse else np.full((1,) * values.ndim, -1.0)
        limits = [least]
        bases = None
        if self.bases > 1:
            per_cell = max(512, _SAMPLE // max(1, int(np.prod(cells.counts))))
            sample = np.abs(cells.sample(values, per_cell))
            if not np.isfinite(sample).all():
                return NOT_FINITE
            bases = fit_bases(sample, self.bases, zeros=not sparse)
            limits += [
                np.maximum(limit, 0).reshape(cells.counts) for limit in bases.limits.swapaxes(0, 1)
            ]
        counts, sums = magnitudes_above(values, cells, limits)
        if not np.isfinite(sums).all():
            wrong = not np.isfinite(values.astype(np.float64)).all()
            return NOT_FINITE if wrong else TOO_LARGE
        if bases is None:
            scale = sums[0] / np.maximum(counts[0], 1)
            scales = scale[None]
        else:
            flat = [np.stack([part.reshape(-1) for part in one], axis=1) for one in (counts, sums)]
            scales = solve(bases.signs, flat[0], flat[1]).T.reshape(self.bases, *cells.counts)
        if not fits(scales, values.dtype):
            return TOO_LARGE
        return short(scales) if scales[0].size > 1 else scales.astype(np.float32)

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "binary") if "sparse" in tensor.kinds else ("binary",)

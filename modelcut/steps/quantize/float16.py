"""Half precision: IEEE 754 binary16, stored in two bytes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from modelcut.arrays.blocks import map_rows
from modelcut.errors import RecipeError
from modelcut.model.encoding import Dense, Encoding
from modelcut.model.model import Tensor
from modelcut.model.rewrite import ByRows, Edit, Rewrite
from modelcut.steps.base import CODED, STORED_KINDS, Context, TensorStep
from modelcut.steps.quantize import NOTHING_TO_SEARCH

_LARGEST = 65504.0


class Float16(TensorStep):
    """Store weights as 16-bit floats; values beyond ±65504 are an error, not infinity."""

    aims: ClassVar[frozenset[str]] = STORED_KINDS
    refuses: ClassVar[dict[str, str]] = CODED
    absent: ClassVar[dict[str, str]] = NOTHING_TO_SEARCH

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("float16",)

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del survey, context
        if tensor.dtype.itemsize <= 2:
            return f"is {tensor.dtype} already"
        title = self.title

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            peak = max(map_rows(lambda rows: _peak(values[rows]), values), default=0.0)
            if peak > _LARGEST:
                raise RecipeError(
                    f"{title}: values up to {peak:.3g} do not fit 16-bit floats",
                    f"exclude {tensor.name.rpartition('/')[0]!r}, or use bfloat16",
                )
            after = encoding.recoded(Dense("float16"))
            half = np.dtype(np.float16)
            return Rewrite(after, lambda part, _: _halved(part), half)

        return ByRows(plan)

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "float16") if "sparse" in tensor.kinds else ("float16",)


def _halved(part: np.ndarray) -> np.ndarray:
    """As 16-bit floats, without -0.0, which is found by its bits: NumPy adds halves one by one."""
    half = part.astype(np.float16)
    bits = half.view(np.uint16)
    bits *= bits != 0x8000
    return half


def _peak(values: np.ndarray) -> float:
    """The largest finite magnitude."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if np.isfinite(low) and np.isfinite(high):
        return max(-low, high)
    return float(np.abs(values).max(initial=0, where=np.isfinite(values)))

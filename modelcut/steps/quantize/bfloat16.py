"""bfloat16: float32 with a mantissa of 7 bits, rounded to nearest, ties to even."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from modelcut.model.encoding import Dense, Encoding
from modelcut.model.model import Tensor
from modelcut.model.rewrite import ByRows, Edit, Rewrite
from modelcut.steps.base import CODED, STORED_KINDS, Context, TensorStep
from modelcut.steps.quantize import NOTHING_TO_SEARCH


class Bfloat16(TensorStep):
    """Round weights to bfloat16, kept in a float32 dataset that compresses to half.

    HDF5 has no bfloat16, and Keras 2 reads none, so the dtype in the file does not change.
    """

    aims: ClassVar[frozenset[str]] = STORED_KINDS
    refuses: ClassVar[dict[str, str]] = CODED
    absent: ClassVar[dict[str, str]] = NOTHING_TO_SEARCH

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("bfloat16",)

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del survey, context
        if tensor.dtype.itemsize <= 2:
            return f"is {tensor.dtype} already"

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            del values
            after = encoding.recoded(Dense("bfloat16"))
            return Rewrite(after)

        return ByRows(plan)

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "bfloat16") if "sparse" in tensor.kinds else ("bfloat16",)

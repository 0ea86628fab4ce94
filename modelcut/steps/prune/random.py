"""Removes weights at random: the baseline that any criterion must beat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from modelcut.arrays import floats
from modelcut.model.encoding import Encoding, Sparse
from modelcut.model.model import Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import Context, TensorStep, random_generator
from modelcut.steps.correction import Corrected
from modelcut.steps.prune._smallest import removal, sample_of, smallest, walk_of
from modelcut.steps.strength import SPARSITIES, Budgeted, Strength


class Random(Corrected, Budgeted, TensorStep):
    """Prune random weights, a baseline; existing zeros count towards the sparsity."""

    strength: ClassVar[Strength] = Strength("sparsity", SPARSITIES)

    sparsity: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Sparsity: the fraction of each layer's weights that are zero after the step.",
    )

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",)

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit:
        del survey
        assert self.sparsity is not None
        share = self.sparsity

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            lots = random_generator(context, tensor.name).random(values.shape, np.float32)
            lots += np.float32(1)
            lots[values == 0] = 0
            count = round(share * values.size)
            found = smallest(lambda: [walk_of(lots)], sample_of(lots), lots.size, count)
            gone = removal(lots, found)

            def block(part: np.ndarray, rows: slice) -> np.ndarray:
                mask = gone(lots[rows], rows)
                return floats.masked(part, ~(mask | (part == 0)))

            return Rewrite(Sparse(encoding.unmasked), block)

        return plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))

"""Splits a convolution into one of fewer filters and a 1×1 convolution.

The kernel as a matrix, one row for each weight under the window and one column for each filter, has
the best approximation of a rank by its singular values; the first factor is a convolution of that
many filters, the second mixes them (Zhang et al. 2016, "Accelerating very deep convolutional
networks", section 3.1, where the outputs are what is approximated: `whiten`).
"""

from __future__ import annotations

import numpy as np

from modelcut.steps.factorize._factorize import Factorization
from modelcut.steps.factorize._lowrank import Matrix
from modelcut.steps.factorize._parts import Decomposition, Part
from modelcut.steps.factorize._target import Target
from modelcut.steps.factorize._whiten import Statistics


class Channel(Factorization):
    """Factorize convolutions into one of fewer filters and a 1×1 convolution."""

    def refusal(self, target: Target) -> str:
        if target.kind != "conv":
            return f"{target.layer.class_name} is not a convolution (method svd factorizes it)"
        if target.pointwise:
            return "is a convolution of 1×1, which svd factorizes"
        return ""

    def decomposed(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None
    ) -> Decomposition:
        axes = len(target.size)

        def chain(rank: int) -> tuple[Part, ...]:
            return (
                Part("conv", target.inputs, rank, target.size, (True,) * axes),
                Part("conv", rank, target.outputs, (1,) * axes, (False,) * axes),
            )

        outputs = None if statistics is None else statistics.outputs
        wanted = self.rank if isinstance(self.rank, int) else 0
        return Matrix(matrix, chain, (*target.size, target.inputs), wanted, outputs)

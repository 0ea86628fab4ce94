"""Splits a matrix into two by the truncated singular value decomposition.

W of m × n becomes (U √S)(√S V) of ranks k: the best product of that rank (Eckart and Young 1936);
as a compression of networks, Denton et al. 2014, section 3.1. Both factors carry the square root
of the singular values, so that a quantizer after it sees two ranges alike. A recurrent layer has a
matrix that its inputs are multiplied with, which becomes a dense layer before it.
"""

from __future__ import annotations

import numpy as np

from modelcut.steps.factorize._factorize import Factorization
from modelcut.steps.factorize._lowrank import Matrix
from modelcut.steps.factorize._parts import Decomposition, Kind, Part
from modelcut.steps.factorize._target import Target
from modelcut.steps.factorize._whiten import Statistics


class Svd(Factorization):
    """Factorize matrices (Dense, 1×1 convolution, Embedding, recurrent inputs) by truncated SVD."""

    def refusal(self, target: Target) -> str:
        if target.kind == "conv" and not target.pointwise:
            size = "×".join(map(str, target.size))
            return f"is a convolution of {size}, which is not a matrix (method auto factorizes it)"
        return ""

    def decomposed(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None
    ) -> Decomposition:
        axes = len(target.size)

        def chain(rank: int) -> tuple[Part, ...]:
            if target.kind == "conv":
                return (
                    Part("conv", target.inputs, rank, target.size, (True,) * axes),
                    Part("conv", rank, target.outputs, target.size, (False,) * axes),
                )
            first: Kind = "embedding" if target.kind == "embedding" else "dense"
            last: Kind = "own" if target.kind == "own" else "dense"
            return Part(first, target.inputs, rank), Part(last, rank, target.outputs)

        outputs = None if statistics is None else statistics.outputs
        wanted = self.rank if isinstance(self.rank, int) else 0
        return Matrix(matrix, chain, (*target.size, target.inputs), wanted, outputs)

"""Splits a convolution into one along its first axis and one along the others: k×1, then 1×k.

The kernel as a matrix, with the first spatial axis and the inputs as its rows, the other axes and
the outputs as its columns, has the best approximation of a rank by its singular values (Jaderberg,
Vedaldi and Zisserman 2014, scheme 2; in closed form, Tai et al. 2016).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from modelcut.steps.factorize import _vbmf
from modelcut.steps.factorize._factorize import Factorization
from modelcut.steps.factorize._lowrank import Decomposition as Spectrum
from modelcut.steps.factorize._lowrank import decompose, projected
from modelcut.steps.factorize._parts import Decomposition, Factors, Part, Ranks, spread
from modelcut.steps.factorize._target import Target
from modelcut.steps.factorize._whiten import Statistics


class Spatial(Factorization):
    """Factorize convolutions into one along their first spatial axis and one along the others."""

    def refusal(self, target: Target) -> str:
        if target.kind != "conv":
            return f"{target.layer.class_name} is not a convolution (method svd factorizes it)"
        if len(target.size) == 1:
            return "has one spatial axis (method channel factorizes it)"
        if target.size[0] == 1 or all(n == 1 for n in target.size[1:]):
            return f"is a convolution along one axis ({'×'.join(map(str, target.size))})"
        return ""

    def decomposed(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None
    ) -> Decomposition:
        wide = statistics is None or statistics.gram is None
        return _Spatial(target, matrix, None if wide else statistics)


@dataclass(frozen=True)
class _Spatial:
    target: Target
    matrix: np.ndarray
    statistics: Statistics | None
    known: dict[Ranks, Factors] = field(default_factory=dict, compare=False)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        """Length of the first axis, places on the others, inputs, outputs."""
        first, *rest = self.target.size
        return first, int(np.prod(rest)), self.target.inputs, self.target.outputs

    @property
    def full(self) -> int:
        """The rank that loses nothing."""
        first, rest, inputs, outputs = self._sizes
        return min(first * inputs, rest * outputs)

    @cached_property
    def _unfolded(self) -> np.ndarray:
        first, rest, inputs, outputs = self._sizes
        kernel = self.matrix.reshape(first, rest, inputs, outputs)
        return np.ascontiguousarray(kernel.transpose(0, 2, 1, 3)).reshape(first * inputs, -1)

    @cached_property
    def _spectrum(self) -> Spectrum:
        if self.statistics is None:
            return decompose(self._unfolded, self.full)
        # As if what lies at different places along the other axes were uncorrelated and alike.
        first, rest, inputs, _ = self._sizes
        gram = self.statistics.gram
        assert gram is not None
        places = gram.reshape(first, rest, inputs, first, rest, inputs)
        mean = np.einsum("ajbcjd->abcd", places).reshape(first * inputs, -1) / rest
        unfolded = self._unfolded.astype(np.float64)
        return projected(self._unfolded, unfolded.T @ mean @ unfolded)

    def candidates(self) -> list[Ranks]:
        most = max(1, self.matrix.size // (sum(self._unfolded.shape)))
        most = min(most, self.full)
        return [(rank,) for rank in spread(most, None if self.statistics is None else 24)]

    def at(self, rank: int) -> Ranks:
        return (min(rank, self.full),)

    def vbmf(self) -> Ranks | str:
        rows, columns = self._unfolded.shape
        found = decompose(self._unfolded, self.full)
        return (max(1, _vbmf.rank(found.singular, (rows, columns))),)

    def loss(self, ranks: Ranks) -> float:
        if self.statistics is None:
            return self._spectrum.loss(ranks[0])
        return self.statistics.error(self.matrix, self.factors(ranks))

    def parts(self, ranks: Ranks) -> tuple[Part, ...]:
        size, rank = self.target.size, ranks[0]
        rest = len(size) - 1
        ones = (1,) * rest
        return (
            Part("conv", self.target.inputs, rank, (size[0], *ones), (True, *(False,) * rest)),
            Part("conv", rank, self.target.outputs, (1, *size[1:]), (False, *(True,) * rest)),
        )

    def factors(self, ranks: Ranks) -> Factors:
        if ranks not in self.known:
            self.known[ranks] = self._made(ranks[0])
        return self.known[ranks]

    def _made(self, rank: int) -> Factors:
        first, rest, inputs, outputs = self._sizes
        left, right = self._spectrum.factors(rank)
        kernel = left.reshape(first, *(1,) * (len(self.target.size) - 1), inputs, rank)
        features = np.zeros((first, rest, inputs, rest, rank), left.dtype)
        for place in range(rest):
            features[:, place, :, place] = left.reshape(first, inputs, rank)
        last = np.ascontiguousarray(right.reshape(rank, rest, outputs).transpose(1, 0, 2))
        found = Factors(
            (kernel,), features.reshape(-1, rest * rank), last.reshape(rest * rank, outputs)
        )
        return found if self.statistics is None else self.statistics.refitted(self.matrix, found)

"""Splits a convolution into 1×1, depthwise, 1×1: the canonical polyadic decomposition.

K[k, s, t] ≈ Σ_r D[k, r] A[s, r] C[t, r], all places under the window being one mode (Lebedev et al.
2015, section 3, there with a mode for each axis), by alternating least squares. Terms that cancel
each other, by which it is known to be unstable, are held down by a ridge that fades.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from modelcut.steps.factorize._factorize import Factorization
from modelcut.steps.factorize._parts import Decomposition, Factors, Part, Ranks, spread
from modelcut.steps.factorize._target import Target
from modelcut.steps.factorize._whiten import Statistics

_ROUNDS = 60
_GAIN = 1e-6
_RIDGE = 1e-2
"""Of the mean diagonal, in the first round; a tenth of it is left after every ten."""
_CANDIDATES = 8


class Cp(Factorization):
    """Factorize convolutions into 1×1, depthwise, 1×1, by the canonical polyadic decomposition."""

    def refusal(self, target: Target) -> str:
        if target.kind != "conv":
            return f"{target.layer.class_name} is not a convolution (method svd factorizes it)"
        if target.pointwise:
            return "is a convolution of 1×1, which svd factorizes"
        if target.layer.class_name == "TimeDistributed":
            return "is repeated by TimeDistributed, where depthwise convolutions are not made"
        if self.rank == "vbmf":
            return "vbmf tells no rank for cp (give rank, energy or ratio)"
        return target.no_depthwise()

    def decomposed(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None
    ) -> Decomposition:
        wide = statistics is None or statistics.gram is None
        return _Cp(target, matrix, None if wide else statistics)


@dataclass(frozen=True)
class _Cp:
    target: Target
    matrix: np.ndarray
    statistics: Statistics | None
    known: dict[Ranks, Factors] = field(default_factory=dict, compare=False)

    @property
    def full(self) -> int:
        """A rank that certainly loses nothing."""
        places, inputs, outputs = self._kernel.shape
        return int(min(places * inputs, places * outputs, inputs * outputs))

    @cached_property
    def _kernel(self) -> np.ndarray:
        """(places, inputs, outputs), float64."""
        inputs = self.target.inputs
        return self.matrix.reshape(-1, inputs, self.target.outputs).astype(np.float64)

    def candidates(self) -> list[Ranks]:
        most = max(1, (self.matrix.size - 1) // sum(self._kernel.shape))
        return [(rank,) for rank in spread(min(most, self.full), _CANDIDATES)]

    def at(self, rank: int) -> Ranks:
        return (rank,)

    def vbmf(self) -> Ranks | str:
        return "vbmf tells no rank for cp"

    def loss(self, ranks: Ranks) -> float:
        found = self.factors(ranks)
        if self.statistics is not None:
            return self.statistics.error(self.matrix, found)
        total = float(np.square(self._kernel).sum())
        rest = self.matrix - found.features.astype(np.float64) @ found.last
        return float(np.square(rest).sum()) / total if total > 0 else 0.0

    def parts(self, ranks: Ranks) -> tuple[Part, ...]:
        axes, rank = len(self.target.size), ranks[0]
        ones, none = (1,) * axes, (False,) * axes
        return (
            Part("conv", self.target.inputs, rank, ones, none),
            Part("depthwise", rank, rank, self.target.size, (True,) * axes),
            Part("conv", rank, self.target.outputs, ones, none),
        )

    def factors(self, ranks: Ranks) -> Factors:
        if ranks not in self.known:
            self.known[ranks] = self._made(ranks[0])
        return self.known[ranks]

    def _made(self, rank: int) -> Factors:
        if self.statistics is None:
            deep, first, second = _alternating(self._kernel, rank)
        else:  # as for inputs that are uncorrelated
            root, inverse = self.statistics.roots(self.target.inputs)
            white = np.einsum("us,kst->kut", root, self._kernel)
            deep, first, second = _alternating(white, rank)
            first = inverse @ first
        kind, axes = self.matrix.dtype, len(self.target.size)
        features = (deep[:, None] * first[None]).reshape(-1, rank)
        found = Factors(
            (
                first.reshape(*(1,) * axes, *first.shape).astype(kind),
                deep.reshape(*self.target.size, rank, 1).astype(kind),
            ),
            features.astype(kind),
            second.T.astype(kind),
        )
        return found if self.statistics is None else self.statistics.refitted(self.matrix, found)


def _alternating(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The factors of the three modes, each column alike in norm."""
    rng = np.random.default_rng([rank, *kernel.shape])
    modes = [np.moveaxis(kernel, mode, 0).reshape(kernel.shape[mode], -1) for mode in range(3)]
    factors = [_start(mode, rank, rng) for mode in modes]
    total, before = float(np.square(kernel).sum()), np.inf
    for number in range(_ROUNDS):
        ridge = _RIDGE * 0.1 ** (number / 10) if number < _ROUNDS - 10 else 1e-9
        for mode in range(3):
            one, two = (factors[m] for m in range(3) if m != mode)
            gram = (one.T @ one) * (two.T @ two)
            gram[np.diag_indices_from(gram)] += ridge * max(float(np.trace(gram)) / rank, 1e-30)
            khatri = np.einsum("ir,jr->ijr", one, two).reshape(-1, rank)
            goal = modes[mode] @ khatri
            held = ridge * float(np.trace(gram)) / rank * factors[mode]
            factors[mode] = np.linalg.solve(gram, (goal + held).T).T
        error = (
            total
            - 2 * float(np.sum(factors[2] * goal))
            + float(np.sum((factors[2].T @ factors[2]) * (one.T @ one) * (two.T @ two)))
        )
        if number > 10 and abs(before - error) <= _GAIN * total and ridge <= 1e-4:
            break
        before = error
        factors = _alike(factors)
    first, second, third = _alike(factors)
    return first, second, third


def _start(mode: np.ndarray, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Leading singular vectors, and random ones where there are not enough."""
    vectors = np.linalg.eigh(mode @ mode.T)[1][:, ::-1][:, :rank]
    more = rng.standard_normal((len(mode), rank - vectors.shape[1])) / np.sqrt(len(mode))
    return np.concatenate([vectors, more], axis=1)


def _alike(factors: list[np.ndarray]) -> list[np.ndarray]:
    norms = [np.maximum(np.linalg.norm(factor, axis=0), 1e-30) for factor in factors]
    mean = np.cbrt(norms[0] * norms[1] * norms[2])
    return [factor * (mean / norm) for factor, norm in zip(factors, norms, strict=True)]

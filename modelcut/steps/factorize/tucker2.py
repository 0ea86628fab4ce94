"""Splits a convolution into 1×1, a smaller core, 1×1: the Tucker decomposition of two modes.

K[…, s, t] ≈ Σ core[…, p, q] U[s, p] V[t, q] (Kim et al. 2016, "Compression of deep convolutional
neural networks for fast and low power mobile applications", section 3.1). It begins with the
singular vectors of both unfoldings (HOSVD), which are then improved in turn, each with the other
fixed (HOOI; De Lathauwer, De Moor and Vandewalle 2000).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from modelcut.steps.factorize import _vbmf
from modelcut.steps.factorize._factorize import Factorization
from modelcut.steps.factorize._parts import Decomposition, Factors, Part, Ranks, spread
from modelcut.steps.factorize._target import Target
from modelcut.steps.factorize._whiten import Statistics

_ROUNDS = 20
_GAIN = 1e-7
"""HOOI ends where the error falls by less than this, of the squared norm."""
_GRID = 48
"""So many ranks a mode are looked at."""


class Tucker2(Factorization):
    """Factorize convolutions into 1×1, a smaller core, 1×1, by the Tucker decomposition."""

    def refusal(self, target: Target) -> str:
        if target.kind != "conv":
            return f"{target.layer.class_name} is not a convolution (method svd factorizes it)"
        if target.pointwise:
            return "is a convolution of 1×1, which svd factorizes"
        return ""

    def decomposed(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None
    ) -> Decomposition:
        return _Tucker(target, matrix, statistics)


@dataclass(frozen=True)
class _Tucker:
    target: Target
    matrix: np.ndarray
    statistics: Statistics | None
    known: dict[Ranks, Factors] = field(default_factory=dict, compare=False)

    @property
    def full(self) -> list[int]:
        """The ranks that lose nothing."""
        inputs, outputs, places = self._sizes
        return [min(inputs, places * outputs), min(outputs, places * inputs)]

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Inputs, outputs, and the places under the window."""
        inputs, outputs = self.target.inputs, self.target.outputs
        return inputs, outputs, len(self.matrix) // inputs

    @cached_property
    def _roots(self) -> tuple[np.ndarray, np.ndarray] | None:
        return None if self.statistics is None else self.statistics.roots(self.target.inputs)

    @cached_property
    def _kernel(self) -> np.ndarray:
        """(places, inputs, outputs), float64; if whitened, for inputs that are uncorrelated."""
        inputs, outputs, places = self._sizes
        kernel = self.matrix.reshape(places, inputs, outputs).astype(np.float64)
        return kernel if self._roots is None else np.einsum("us,kst->kut", self._roots[0], kernel)

    @cached_property
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Gram matrices of what the modes are to keep: of inputs and of outputs."""
        kernel = self._kernel
        mode_in = np.einsum("kst,kut->su", kernel, kernel, optimize=True)
        if self.statistics is None:
            return mode_in, np.einsum("kst,ksu->tu", kernel, kernel, optimize=True)
        return mode_in, self.statistics.outputs

    @cached_property
    def _bases(self) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal bases of both modes, the most important vectors first (HOSVD)."""
        mode_in, mode_out = self._weights
        return _leading(mode_in), _leading(mode_out)

    @cached_property
    def _kept(self) -> np.ndarray:
        """Fraction of the squared norm in the core of the first p and q vectors: [p, q]."""
        first, second = self._bases
        core = np.einsum("kst,sp,tq->kpq", self._kernel, first, second, optimize=True)
        squares = np.square(core).sum(axis=0)
        table = np.zeros((squares.shape[0] + 1, squares.shape[1] + 1))
        table[1:, 1:] = squares.cumsum(axis=0).cumsum(axis=1)
        return table / max(table[-1, -1], 1e-300)

    def candidates(self) -> list[Ranks]:
        """Those pairs than which no pair has a smaller error and a smaller chain."""
        inputs, outputs, places = self._sizes
        grids = (spread(n, _GRID) for n in (inputs, outputs))
        first, second = (np.array(grid) for grid in grids)
        p, q = np.meshgrid(first, second, indexing="ij")
        sizes = (inputs * p + places * p * q + outputs * q).ravel()
        losses = 1 - self._kept[p, q].ravel()
        order = np.lexsort((losses, sizes))
        best = np.inf
        found: list[Ranks] = []
        for index in order:
            if losses[index] < best and sizes[index] < self.matrix.size:
                best = losses[index]
                found.append((int(p.ravel()[index]), int(q.ravel()[index])))
        if self.statistics is not None and len(found) > 24:
            found = [found[n - 1] for n in spread(len(found), 24)]
        return found or [(1, 1)]

    def at(self, rank: int) -> Ranks:
        return (min(rank, self.target.inputs), min(rank, self.target.outputs))

    def vbmf(self) -> Ranks | str:
        inputs, outputs, places = self._sizes
        kernel = self.matrix.reshape(places, inputs, outputs).astype(np.float64)
        modes = (
            kernel.transpose(1, 0, 2).reshape(inputs, -1),
            kernel.transpose(2, 0, 1).reshape(outputs, -1),
        )
        ranks = []
        for mode in modes:
            squares = np.linalg.eigvalsh(mode @ mode.T)[::-1][: min(mode.shape)]
            rows, columns = mode.shape
            singular = np.sqrt(np.maximum(squares, 0))
            ranks.append(max(1, _vbmf.rank(singular, (rows, columns))))
        return tuple(ranks)

    def loss(self, ranks: Ranks) -> float:
        if self.statistics is not None and self.statistics.gram is not None:
            return self.statistics.error(self.matrix, self.factors(ranks))
        return float(max(0.0, 1 - self._kept[ranks[0], ranks[1]]))

    def parts(self, ranks: Ranks) -> tuple[Part, ...]:
        axes = len(self.target.size)
        ones, none = (1,) * axes, (False,) * axes
        return (
            Part("conv", self.target.inputs, ranks[0], ones, none),
            Part("conv", ranks[0], ranks[1], self.target.size, (True,) * axes),
            Part("conv", ranks[1], self.target.outputs, ones, none),
        )

    def factors(self, ranks: Ranks) -> Factors:
        if ranks not in self.known:
            self.known[ranks] = self._made(*ranks)
        return self.known[ranks]

    def _made(self, p: int, q: int) -> Factors:
        first, second = self._bases[0][:, :p], self._bases[1][:, :q]
        if self.statistics is None:
            first, second = _hooi(self._kernel, first, second)
        core = np.einsum("kst,sp,tq->kpq", self._kernel, first, second, optimize=True)
        if self._roots is not None:
            first = self._roots[1] @ first
        # The three kernels alike in size: the norm of the core over all of them.
        scale = (np.linalg.norm(core) / max(1.0, np.sqrt(p * q)) or 1.0) ** (1 / 3)
        first, second, core = first * scale, second * scale, core / scale**2
        kind = self.matrix.dtype
        axes = len(self.target.size)
        features = np.einsum("sp,kpq->ksq", first, core, optimize=True).reshape(-1, q)
        found = Factors(
            (
                first.reshape(*(1,) * axes, *first.shape).astype(kind),
                core.reshape(*self.target.size, p, q).astype(kind),
            ),
            features.astype(kind),
            second.T.astype(kind),
        )
        return found if self.statistics is None else self.statistics.refitted(self.matrix, found)


def _leading(gram: np.ndarray) -> np.ndarray:
    return np.linalg.eigh((gram + gram.T) / 2)[1][:, ::-1]


def _hooi(
    kernel: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The bases improved in turn; the core of the result has no smaller norm."""
    p, q = first.shape[1], second.shape[1]
    whole, before = float(np.square(kernel).sum()), -1.0
    for _ in range(_ROUNDS):
        small = kernel @ second
        gram = np.einsum("ksq,kuq->su", small, small, optimize=True)
        first = _leading(gram)[:, :p]
        small = np.einsum("kst,sp->kpt", kernel, first, optimize=True)
        gram = np.einsum("kpt,kpu->tu", small, small, optimize=True)
        squares, vectors = np.linalg.eigh((gram + gram.T) / 2)
        second = vectors[:, ::-1][:, :q]
        kept = float(squares[::-1][:q].sum())
        if kept - before <= _GAIN * whole:
            break
        before = kept
    return first, second

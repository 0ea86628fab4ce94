"""The best low-rank approximation of one matrix: exact, or randomised where it is large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from modelcut.arrays.blocks import row_blocks
from modelcut.steps.factorize import _vbmf
from modelcut.steps.factorize._parts import Factors, Part, Ranks, balanced

_LARGE = 1024
"""A matrix whose shorter side is longer is not decomposed whole: its eigenvalues take minutes."""
_OVERSAMPLED = 32
_POWERS = 2
_PROBES = 10
_SQUARINGS = 4
_MOST = 512
"""Singular values of a large matrix that are looked for where its rank is to be chosen."""


def some_of(singular: np.ndarray) -> dict[str, list[float]]:
    """Some of the singular values, for a plot: which they are, from 1, and their size.

    Args:
        singular: those that are known, the largest first.
    """
    if not len(singular):
        return {"number": [], "value": []}
    at = np.unique(np.geomspace(1, len(singular), _SHOWN).round().astype(int))
    return {
        "number": at.tolist(),
        "value": [float(f"{value:.5g}") for value in singular[at - 1]],
    }


_SHOWN = 48


@dataclass(frozen=True)
class Decomposition:
    """Singular values and the vectors of one side.

    Attributes:
        matrix: (m, n).
        vectors: of the shorter side, orthonormal.
        singular: descending; of a large matrix the first ones only.
        total: sum of the squares of all singular values.
        tall: `vectors` are those of the columns' side: matrix ≈ matrix V Vᵀ.
        exact: all singular values are known; of a randomised one the first ones nearly.
        of_outputs: they are those of X @ matrix, for inputs X.
    """

    matrix: np.ndarray
    vectors: np.ndarray
    singular: np.ndarray
    total: float
    tall: bool
    exact: bool = True
    of_outputs: bool = False

    @cached_property
    def kept(self) -> np.ndarray:
        """The sum of the squares of the first singular values: of none, of one, …"""
        squares = self.singular.astype(np.float64) ** 2
        return np.concatenate([[0.0], np.cumsum(squares)])

    def loss(self, rank: int) -> float:
        """The squared error of the best approximation of a rank, over the squared norm."""
        if self.total <= 0:
            return 0.0
        return float(max(0.0, 1 - self.kept[min(rank, len(self.singular))] / self.total))

    def factors(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """M × k and k × n, whose product is the best approximation of that rank."""
        basis = self.vectors[:, :rank]
        if self.of_outputs:
            return balanced(self.matrix @ basis, basis.T)
        root = np.sqrt(np.maximum(self.singular[:rank], np.finfo(np.float32).tiny))
        if self.tall:
            # W = (W V) V^T, the columns of W V having the singular values as their norms.
            return (self.matrix @ basis) / root, (basis * root).T
        return basis * root, ((basis.T @ self.matrix).T / root).T


def decompose(matrix: np.ndarray, most: int) -> Decomposition:
    """Singular values and the vectors of the shorter side.

    Of a matrix with a side of at most 1024 all of them, from that side's Gram matrix, summed in
    float64 block by block. Singular values below about 1e-7 of the largest drown in rounding; they
    carry 1e-14 of the energy. Of a larger one the first `most`, by `randomised`.

    Args:
        matrix: floats, (m, n).
        most: how many singular values are of use.
    """
    m, n = matrix.shape
    if min(m, n) > _LARGE and 2 * (most + _OVERSAMPLED) < min(m, n):
        return randomised(matrix, most)
    tall = m >= n
    long = matrix if tall else matrix.T
    squares, vectors = _spectrum(gram_of(long))
    singular = np.sqrt(np.maximum(squares, 0))
    total = float(np.sum(singular**2))
    return Decomposition(matrix, vectors.astype(matrix.dtype), singular, total, tall)


def projected(matrix: np.ndarray, outputs: np.ndarray) -> Decomposition:
    """As `decompose`, for the least error of X @ matrix.

    X W V Vᵀ with the leading eigenvectors V of Wᵀ XᵀX W is the best approximation of X W of its
    rank, so that of all kernels W' of that rank W V Vᵀ has the least error of the outputs.

    Args:
        matrix: the kernel W, (d, outputs).
        outputs: Wᵀ XᵀX W, (outputs, outputs).
    """
    squares, vectors = _spectrum(outputs)
    singular = np.sqrt(np.maximum(squares, 0))
    total = float(np.sum(singular**2))
    vectors = vectors.astype(matrix.dtype)
    return Decomposition(matrix, vectors, singular, total, tall=True, of_outputs=True)


def gram_of(long: np.ndarray) -> np.ndarray:
    """The Gram matrix of the columns, in float64, block by block."""
    gram = np.zeros((long.shape[1],) * 2)
    for rows in row_blocks(long.shape, 4 * long.itemsize):
        block = long[rows].astype(np.float64)
        gram += block.T @ block
    return gram


def _spectrum(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending, and eigenvectors of a symmetric matrix."""
    squares, vectors = np.linalg.eigh(gram)
    order = np.argsort(squares)[::-1]
    return squares[order], vectors[:, order]


def randomised(matrix: np.ndarray, rank: int, seed: int = 0) -> Decomposition:
    """The first singular values and vectors by a randomised range finder.

    Subspace iteration with an orthonormal basis at each step (Halko, Martinsson and Tropp 2011,
    algorithm 4.4), then the exact decomposition within the range (algorithm 5.1).

    Args:
        matrix: (m, n), floats.
        rank: how many are wanted.
        seed: of the random vectors.
    """
    rng = np.random.default_rng([seed, *matrix.shape])
    tall = matrix.shape[0] >= matrix.shape[1]
    long = matrix if tall else matrix.T
    n = long.shape[1]
    width = min(rank + _OVERSAMPLED, n)
    kind = np.float64 if matrix.dtype.itemsize == 8 else np.float32
    long = long.astype(kind, copy=False)
    basis = np.linalg.qr(_normal(rng, (n, width), kind))[0]
    for _ in range(_POWERS):
        basis = np.linalg.qr(long.T @ np.linalg.qr(long @ basis)[0])[0]
    image = long @ basis
    squares, turned = _spectrum(gram_of(image))
    vectors = (basis.astype(np.float64) @ turned)[:, :rank]
    singular = np.sqrt(np.maximum(squares[:rank], 0))
    total = sum(
        float(np.square(long[rows].astype(np.float64)).sum())
        for rows in row_blocks(long.shape, 4 * long.itemsize)
    )
    return Decomposition(matrix, vectors.astype(kind), singular, total, tall, exact=False)


def spectral_bound(found: Decomposition, rank: int, seed: int = 0) -> float:
    """A bound of the spectral norm of what is lost, over that of the matrix, that was measured.

    Halko 2011, equation 4.3, on the fourth power of RᵀR, R being what is lost: of ten random
    vectors the largest image, times 10 √(2/π), is longer than the norm but for a probability of
    1e-10.
    """
    if not len(found.singular) or found.singular[0] <= 0:
        return 0.0
    long = found.matrix if found.tall else found.matrix.T
    basis = found.vectors[:, :rank]
    vectors = _normal(np.random.default_rng([seed, rank]), (long.shape[1], _PROBES), np.float32)
    scale = np.float32(found.singular[0])
    for _ in range(_SQUARINGS):
        vectors = vectors - basis @ (basis.T @ vectors)
        vectors = long.T @ ((long @ vectors) / scale) / scale
        vectors = vectors - basis @ (basis.T @ vectors)
    longest = float(np.linalg.norm(vectors.astype(np.float64), axis=0).max())
    return float((10 * np.sqrt(2 / np.pi) * longest) ** (0.5 / _SQUARINGS))


def _normal(rng: np.random.Generator, shape: tuple[int, int], kind: type) -> np.ndarray:
    return rng.standard_normal(shape, dtype=kind)


@dataclass(frozen=True)
class Matrix:
    """A kernel as a matrix of which the rank is lowered: the decomposition of `svd` and `channel`.

    Attributes:
        matrix: (d, outputs), floats.
        chain: rank -> the layers of the chain.
        shape: of the first layer's kernel, without its last axis.
        wanted: a rank that is certain to be asked for; 0: any.
        outputs: Wᵀ XᵀX W, if whitened.
    """

    matrix: np.ndarray
    chain: Callable[[int], tuple[Part, ...]]
    shape: tuple[int, ...]
    wanted: int = 0
    outputs: np.ndarray | None = None
    known: dict[str, Decomposition] = field(default_factory=dict, compare=False)

    @property
    def found(self) -> Decomposition:
        """The decomposition, made when it is first needed."""
        if "found" not in self.known:
            if self.outputs is not None:
                self.known["found"] = projected(self.matrix, self.outputs)
            else:
                self.known["found"] = decompose(self.matrix, self.wanted or _MOST)
        return self.known["found"]

    @property
    def full(self) -> int:
        """The rank that loses nothing."""
        return min(self.matrix.shape)

    def candidates(self) -> list[Ranks]:
        m, n = self.matrix.shape
        return [(r,) for r in range(1, min(max((m * n - 1) // (m + n), 1), self._known) + 1)]

    @property
    def _known(self) -> int:
        return len(self.found.singular)

    def at(self, rank: int) -> Ranks:
        return (rank,)

    def vbmf(self) -> Ranks | str:
        if not self.found.exact:
            return "is too large for all of its singular values, which vbmf needs"
        return (max(1, _vbmf.rank(self.found.singular, self._shape)),)

    @property
    def _shape(self) -> tuple[int, int]:
        m, n = self.matrix.shape
        return m, n

    def loss(self, ranks: Ranks) -> float:
        return self.found.loss(ranks[0])

    def parts(self, ranks: Ranks) -> tuple[Part, ...]:
        return self.chain(ranks[0])

    def factors(self, ranks: Ranks) -> Factors:
        left, right = self.found.factors(ranks[0])
        note: dict[str, Any] = {"singular_values": some_of(self.found.singular)}
        if not self.found.exact:
            note["spectral_error_bound"] = spectral_bound(self.found, ranks[0])
        return Factors((left.reshape(*self.shape, ranks[0]),), left, right, note=note)

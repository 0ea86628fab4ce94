"""Sums of signed scales, fitted by least squares (Xu et al. 2018, section 3; Lin et al. 2017).

The 2^k sums of ±s_1 … ±s_k lie evenly about zero, so magnitudes are enough: each is coded by one
of the 2^(k-1) sums that are not negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDS = 30


@dataclass(frozen=True)
class Bases:
    """Scales, and how they make up the levels of magnitudes.

    Attributes:
        scales: shape (cells, k), not negative.
        signs: shape (cells, levels, k), ±1: level j is the sum of `signs[j] * scales`; levels
            ascend and are not negative.
        limits: shape (cells, levels - 1): magnitudes above limit j belong to level j + 1 or more.
    """

    scales: np.ndarray
    signs: np.ndarray
    limits: np.ndarray

    @classmethod
    def of(cls, scales: np.ndarray) -> Bases:
        """The levels of given scales."""
        k = scales.shape[1]
        codes = np.arange(1 << (k - 1))[:, None] >> np.arange(k) & 1
        signs = (1.0 - 2 * codes)[None].repeat(len(scales), 0)
        levels = np.einsum("clk,ck->cl", signs, scales)
        signs = np.where(levels[..., None] < 0, -signs, signs)
        order = np.argsort(np.abs(levels), axis=1, kind="stable")
        signs = np.take_along_axis(signs, order[..., None], axis=1)
        levels = np.take_along_axis(np.abs(levels), order, axis=1)
        return cls(scales, signs, (levels[:, 1:] + levels[:, :-1]) / 2)


def fit_bases(sizes: np.ndarray, k: int, *, zeros: bool) -> Bases:
    """Alternates between the nearest level of each magnitude and the best scales for these.

    Begins with the bases one by one, each fitted to what the earlier ones left (Guo et al. 2017).
    No round makes the squared error larger.

    Args:
        sizes: magnitudes, float64, shape (cells, n).
        k: bases.
        zeros: whether zeros count.
    """
    cells, n = sizes.shape
    ordered = np.sort(sizes, axis=1)
    first = np.zeros((cells, 1), np.int64) if zeros else (ordered == 0).sum(axis=1, keepdims=True)
    peak = np.maximum(ordered[:, -1:], np.finfo(np.float64).tiny)
    # One search serves all cells: each has a stretch of the line of its own.
    line = (ordered / peak / 2 + np.arange(cells)[:, None]).ravel()
    behind = np.zeros((cells, n + 1))
    np.cumsum(ordered[:, ::-1], axis=1, out=behind[:, 1:])

    def above(limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts and sums of what counts, and of what is above each limit of its cell."""
        keys = np.minimum(limits / peak, 1) / 2 + np.arange(cells)[:, None]
        places = np.searchsorted(line, keys.ravel(), side="right").reshape(keys.shape)
        places = np.maximum(places - n * np.arange(cells)[:, None], first)
        counts = n - np.concatenate([first, places], axis=1)
        return counts, np.take_along_axis(behind, counts, axis=1)

    bases = Bases.of(_one_by_one(ordered, k, ordered >= 0 if zeros else ordered > 0))
    for _ in range(_ROUNDS):
        better = Bases.of(solve(bases.signs, *above(bases.limits)))
        if np.allclose(better.scales, bases.scales, rtol=1e-6, atol=0):
            break
        bases = better
    return bases


def _one_by_one(sizes: np.ndarray, k: int, counted: np.ndarray) -> np.ndarray:
    """Scales, shape (cells, k): each the mean magnitude of what those before it left."""
    many = np.maximum(counted.sum(axis=1), 1)
    scales = np.empty((len(sizes), k))
    for base in range(k):
        scales[:, base] = (sizes * counted).sum(axis=1) / many
        sizes = np.abs(sizes - scales[:, base : base + 1])
    return scales


def solve(signs: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The scales of least squared error for magnitudes with known levels.

    Args:
        signs: shape (cells, levels, k), see `Bases`.
        counts: how many magnitudes lie at each level or above, shape (cells, levels).
        sums: of these magnitudes, same shape.

    Returns:
        Shape (cells, k), not negative, largest first.
    """
    end = np.zeros((len(counts), 1))
    mass, total = (-np.diff(np.concatenate([part, end], axis=1)) for part in (counts, sums))
    square = np.einsum("cl,cli,clj->cij", mass, signs, signs)
    right = np.einsum("cl,cli->ci", total, signs)
    found = np.einsum("cij,cj->ci", np.linalg.pinv(square, hermitian=True), right)
    ordered: np.ndarray = -np.sort(-np.abs(found), axis=1)
    return ordered

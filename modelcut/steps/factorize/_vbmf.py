"""How many singular values of a matrix are signal: variational Bayesian matrix factorization.

The global analytic solution of the fully observed model with empirical hyperparameters: Nakajima,
Sugiyama, Babacan and Tomioka 2013, "Global analytic solution of fully-observed variational Bayesian
matrix factorization", JMLR 14. To choose the ranks of convolutions: Kim et al. 2016.
"""

from __future__ import annotations

import numpy as np

_TAU = 2.5129
"""The threshold of τ over √α, a constant of the paper."""
_GRID = 256


def rank(singular: np.ndarray, shape: tuple[int, int]) -> int:
    """The number of singular values that the posterior keeps.

    Args:
        singular: all singular values, float64, descending, shape (min(shape),).
        shape: of the matrix.

    Returns:
        0 where all of it is noise.
    """
    short, long = min(shape), max(shape)
    squares = np.asarray(singular, np.float64) ** 2
    if not squares.sum() > 0:
        return 0
    alpha = short / long
    tau = _TAU * np.sqrt(alpha)
    edge = (1 + tau) * (1 + alpha / tau)
    noise = _noise(squares, short, long, edge)
    return int((squares > long * noise * edge).sum())


def _noise(squares: np.ndarray, short: int, long: int, edge: float) -> float:
    """The variance of the noise: the minimum of the free energy between its bounds."""
    alpha = short / long
    most = min(int(np.ceil(short / (1 + alpha))) - 1, len(squares) - 1)
    high = float(squares.sum() / (short * long))
    low = max(float(squares[most] / (long * edge)), float(squares[most:].mean() / long))
    low = min(max(low, 1e-12 * high), high)
    for _ in range(3):  # the energy may have several minima: a grid, refined twice
        grid = np.geomspace(low, high, _GRID)
        energies = [_energy(squares, long, alpha, edge, noise) for noise in grid]
        best = int(np.argmin(energies))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    return float(grid[best])


def _energy(squares: np.ndarray, long: int, alpha: float, edge: float, noise: float) -> float:
    x = np.maximum(squares / (long * noise), 1e-300)
    above, below = x[x > edge], x[x <= edge]
    tau = 0.5 * (above - (1 + alpha) + np.sqrt((above - (1 + alpha)) ** 2 - 4 * alpha))
    signal = above - tau + np.log((tau + 1) / above) + alpha * np.log(tau / alpha + 1)
    return float((below - np.log(below)).sum() + signal.sum())

"""Second-order pruning of one matrix: which weights are pruned, and the values of the others.

The loss of a layer is the squared change of its outputs over calibration samples X,
|X W - X W0|^2 = tr((W - W0)^T H (W - W0)) with H = X^T X. Pruned weights are chosen in blocks of
inputs, as SparseGPT does (Frantar and Alistarh 2023, section 3.3 and algorithm 1), each block with
its own sparsity; the remaining weights are then the least-squares optimum for that mask, by
preconditioned conjugate gradients over all outputs at once (Meng et al. 2024, section 3.3).
"""

from __future__ import annotations

import numpy as np

_BLOCK = 128
_ROUNDS = 60
_FEW = 20
"""Rounds from values that are near the optimum."""
_TOLERANCE = 1e-6


def damped(gram: np.ndarray, share: float) -> np.ndarray:
    """The Hessian with `share` of its mean diagonal added, so that it can be inverted.

    Args:
        gram: X^T X, shape (d, d), symmetric; an input that is never on has a zero diagonal.
        share: fraction of the mean diagonal that is added to the diagonal; 0.01 is usual.
    """
    hessian = gram.astype(np.float64)
    diagonal = np.diag(hessian)
    mean = float(diagonal[diagonal > 0].mean()) if (diagonal > 0).any() else 1.0
    hessian[np.diag_indices_from(hessian)] += share * mean
    return hessian


def choose(weights: np.ndarray, hessian: np.ndarray, share: float) -> np.ndarray:
    """The mask of what goes: exactly `share` of the weights, zeros first.

    How many go from each block of inputs is told by the saliencies of the untouched matrix, for
    inputs are not alike (the border of an image); which ones, by the saliencies when the weights
    before them are gone and made up for.

    Args:
        weights: kernel as a matrix, shape (d, outputs).
        hessian: positive definite, shape (d, d).
        share: fraction of the weights to prune, 0 to 1.

    Returns:
        Booleans of the shape of the weights.
    """
    work = weights.astype(np.float64)
    d, outputs = work.shape
    inverse = np.linalg.inv(hessian)
    zeros = weights == 0
    saliency = np.where(zeros, -1.0, work**2 / np.diag(inverse)[:, None])
    quota = _least(saliency, round(share * work.size)) | zeros
    # Row j of the upper Cholesky factor of the inverse is the first row of the inverse Hessian
    # of the inputs from j on: what an update of the later inputs needs, for all j at once.
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    gone = np.zeros(work.shape, bool)
    for start in range(0, d, _BLOCK):
        end = min(start + _BLOCK, d)
        scores = (work[start:end] / np.diag(upper)[start:end, None]) ** 2
        scores = np.where(zeros[start:end], -1.0, scores)
        gone[start:end] = _least(scores, int(quota[start:end].sum()))
        errors = np.zeros((end - start, outputs))
        for j in range(start, end):
            error = np.where(gone[j], work[j], 0.0) / upper[j, j]
            work[j:end] -= upper[j, j:end, None] * error
            errors[j - start] = error
        work[end:] -= upper[start:end, end:].T @ errors
    return gone


def _least(scores: np.ndarray, count: int) -> np.ndarray:
    gone = np.zeros(scores.size, bool)
    gone[np.argsort(scores, axis=None, kind="stable")[:count]] = True
    return gone.reshape(scores.shape)


def refit(
    weights: np.ndarray, hessian: np.ndarray, gone: np.ndarray, near: np.ndarray | None = None
) -> np.ndarray:
    """The kept weights for which the layer's outputs change least.

    Args:
        weights: trained kernel as a matrix, shape (d, outputs).
        hessian: positive definite, shape (d, d).
        gone: the mask of what must be zero.
        near: weights to start from, which are near the optimum.

    Returns:
        Float64, of the shape of the weights.
    """
    target = weights.astype(np.float64)
    kept = ~gone
    scale = np.diag(hessian)[:, None]
    found = np.where(kept, target if near is None else near, 0.0)
    rest = np.where(kept, hessian @ (target - found), 0.0)
    goal = _TOLERANCE * np.linalg.norm(rest, axis=0)
    step = rest / scale
    descent = np.sum(rest * step, axis=0)
    direction = step
    for _ in range(_ROUNDS if near is None else _FEW):
        if np.all(np.linalg.norm(rest, axis=0) <= goal):
            break
        ahead = np.where(kept, hessian @ direction, 0.0)
        curve = np.sum(direction * ahead, axis=0)
        length = np.divide(descent, curve, out=np.zeros_like(curve), where=curve > 0)
        found += length * direction
        rest -= length * ahead
        step = rest / scale
        before, descent = descent, np.sum(rest * step, axis=0)
        ratio = np.divide(descent, before, out=np.zeros_like(before), where=before > 0)
        direction = step + ratio * direction
    return found

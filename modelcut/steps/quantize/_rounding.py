"""Rounding that looks at a layer's outputs: later weights make up for what earlier ones lost.

The loss of a layer is tr((w - w0)^T h (w - w0)) with the Hessian h of its squared output error
(`steps.hessian`). Weights are rounded input by input, and what each loses is made up for by those
that are not rounded yet: GPTQ (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", algorithm 1), inputs of the largest activations first. Then
each weight takes the permitted value that is best beside all the others, input by input, until
nothing moves (coordinate descent: Behdin et al. 2023, "QuantEase", section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from modelcut.steps.hessian import damped, squared

Round: TypeAlias = "Callable[[np.ndarray, int], np.ndarray]"
"""From values of one input's weights, (groups, outputs), and its number, to permitted ones."""

_BLOCK = 128
_SWEEPS = 4
_CHEAP = 4e9
"""Multiply-adds that a sweep of coordinate descent may take: a second or two."""


@dataclass(frozen=True)
class Rounded:
    """Weights that are permitted.

    Attributes:
        values: float64, (groups, inputs, outputs).
        error: squared output error by the damped Hessian, (groups, outputs).
    """

    values: np.ndarray
    error: np.ndarray


def nearest(weights: np.ndarray, to: Round) -> np.ndarray:
    """Each weight as it is rounded by itself."""
    found = np.empty(weights.shape)
    for number in range(weights.shape[1]):
        found[:, number] = to(weights[:, number], number)
    return found


def gptq(weights: np.ndarray, gram: np.ndarray, damp: float, to: Round) -> Rounded:
    """The weights rounded one input after the other; see the module.

    Args:
        weights: (groups, inputs, outputs), float64.
        gram: (groups, inputs, inputs); not damped.
        damp: see `hessian.damped`.
        to: rounds the weights of one input.
    """
    groups, inputs, _ = weights.shape
    hessian = damped(gram, damp)
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    order = np.argsort(-diagonal.sum(axis=0), kind="stable")
    # Row j of the upper Cholesky factor of the inverse is the first row of the inverse Hessian of
    # the inputs from j on: what an update of the later inputs needs, for all j at once.
    # With the inputs in reverse it is the inverse of the Hessian's own lower factor.
    back = order[::-1]
    upper = _inverse(np.linalg.cholesky(hessian[:, back[:, None], back]))[:, ::-1, ::-1]
    work = weights[:, order].astype(np.float64)
    found = np.empty(work.shape)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.empty((groups, end - start, work.shape[2]))
        for j in range(start, end):
            found[:, j] = to(work[:, j], int(order[j]))
            error = (work[:, j] - found[:, j]) / upper[:, j, j, None]
            work[:, j + 1 : end] -= upper[:, j, j + 1 : end, None] * error[:, None]
            errors[:, j - start] = error
        if end < inputs:
            work[:, end:] -= np.matmul(upper[:, start:end, end:].transpose(0, 2, 1), errors)
    values = np.empty(found.shape)
    values[:, order] = found
    first = nearest(weights, to)
    if inputs * inputs * groups * work.shape[2] <= _CHEAP:
        values, first = (descend(weights, start, hessian, to) for start in (values, first))
    error, other = (squared(each - weights, hessian) for each in (values, first))
    better = other < error  # GPTQ is greedy: of few weights the nearest may be a better start
    return Rounded(np.where(better[:, None], first, values), np.where(better, other, error))


def _inverse(lower: np.ndarray) -> np.ndarray:
    """Inverses of lower triangular matrices, in a fraction of the work of `numpy.linalg.inv`."""
    size = lower.shape[-1]
    if size <= _BLOCK:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    found = np.zeros_like(lower)
    first, last = _inverse(lower[:, :half, :half]), _inverse(lower[:, half:, half:])
    found[:, :half, :half], found[:, half:, half:] = first, last
    np.matmul(last, np.matmul(lower[:, half:, :half], first), out=found[:, half:, :half])
    np.negative(found[:, half:, :half], out=found[:, half:, :half])
    return found


def descend(weights: np.ndarray, values: np.ndarray, hessian: np.ndarray, to: Round) -> np.ndarray:
    """Permitted weights, each of which is the best one beside all the others, or nearly.

    Args:
        weights: what they stand for, (groups, inputs, outputs).
        values: permitted ones to start from.
        hessian: positive definite, (groups, inputs, inputs).
        to: rounds the weights of one input.
    """
    found = values.copy()
    # Outputs first: a row changes where a weight does, and most weights stay.
    slope = np.ascontiguousarray(np.matmul(hessian, weights - found).transpose(0, 2, 1))
    inputs = weights.shape[1]
    for _ in range(_SWEEPS):
        moved = False
        for j in range(inputs):
            curve = hessian[:, j, j, None]
            better = to(found[:, j] + slope[:, :, j] / curve, j)
            change = better - found[:, j]
            # By the loss, not by the nearness alone: what is rounded may be float32.
            gain = change * (2 * slope[:, :, j] - curve * change)
            moves = np.nonzero(gain > 1e-9 * np.abs(curve * change * change))
            if not moves[0].size:
                continue
            moved = True
            found[:, j][moves] += change[moves]
            slope[moves] -= hessian[moves[0], j] * change[moves][:, None]
        if not moved:
            break
    return found

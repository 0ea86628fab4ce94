"""Which weights of one matrix are kept: the best subset of its inputs for each output.

The loss is that of `_hessian`. With all kept weights refitted, it is a choice of subsets, and two
known heuristics for it are combined, each where it is strong:

1. A start for the whole matrix at once: the alternating direction method of multipliers on
   "least squares, at most so many weights that are not zero" (Meng et al. 2024, ALPS, section
   3.2), with the Hessian scaled to a unit diagonal, so that each iteration is two products of
   matrices.
2. Exchanges: each output takes in the inputs that would lower its loss most, and then gives up
   the least needed weights one at a time by the exact saliency of Optimal Brain Surgeon, the
   inverse Hessian downdated after each (Frantar and Alistarh 2022, sections 4 and 5: greedy traces
   of each output, and one selection over all of them). Repeated while the loss falls. An inverse
   is of an output's own few weights, not of the whole layer: that makes it affordable.

What it costs is bounded by what SparseGPT's choice and a refit by conjugate gradients cost: where
outputs keep so many weights that one round would take longer (784 × 300 at a sparsity below 0.9),
there are no exchanges. Layers of more than 1024 inputs start from the masks of SparseGPT
(`_hessian.choose`), and one round may take some seconds (4096 × 1000 from 0.94 on). Small layers
also try the plain greedy surgeon from the full set, and the better mask is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from modelcut.arrays.blocks import in_threads
from modelcut.steps.prune._hessian import choose, refit

Sets: TypeAlias = "list[np.ndarray]"
"""Of each output, the indices of its kept weights."""

_WIDEST_START = 1024
"""Wider layers start from `choose`: the eigenvalues of their Hessian take too long."""
_ITERATIONS = 40
_EACH = 4
"""Iterations with the same penalty: one product each, and one inverse for all of them."""
_PENALTY = (0.02, 0.6)
"""Of the start, in its first and after its last iteration."""
_EXCHANGED = 0.12
"""Weights that are taken in at a time, as a fraction of those that an output keeps."""
_ROUNDS = 3
_GAIN = 0.003
"""The relative fall of the loss below which another round is not worth its time."""
_CHEAP = 3e8
"""Multiply-adds that are done in any case; a tenth of a second."""
_ONE = 7e8
"""Multiply-adds of a first round that is done in any case."""
_SMALL = 1e9
"""Outputs times cubed inputs, up to which the plain greedy surgeon is tried too."""
_FIRST = 2.5e10
"""Most multiply-adds of the first round of a wide layer; a few seconds."""
_LEAF = 16
"""Triangular matrices of less than twice as many rows are inverted directly."""
_CHUNK = 1 << 22
"""Bytes of inverse Hessians at a time: they should stay in a core's cache."""


def select(weights: np.ndarray, hessian: np.ndarray, fraction: float) -> np.ndarray:
    """The mask of what is pruned: `fraction` of the weights, or the zeros if they are more.

    Args:
        weights: kernel as a matrix, shape (d, outputs).
        hessian: positive definite, shape (d, d).
        fraction: fraction of the weights to prune, 0 to 1.

    Returns:
        Booleans of the shape of the weights; zeros are always pruned.
    """
    return _chosen(weights, hessian, fraction)[0]


def pruned(weights: np.ndarray, hessian: np.ndarray, fraction: float) -> np.ndarray:
    """The weights after `select` and `fit`; what the choice has solved for is not solved again.

    Args:
        weights: shape (d, outputs).
        hessian: positive definite, shape (d, d).
        fraction: 0 to 1.

    Returns:
        Float64, of the shape of the weights.
    """
    removed, values = _chosen(weights, hessian, fraction)
    return fit(weights, hessian, removed) if values is None else values


def _chosen(
    weights: np.ndarray, hessian: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """The mask of what is pruned, and the refitted weights where they are known."""
    target = weights.astype(np.float64)
    free = target != 0
    kept = min(target.size - round(fraction * target.size), int(free.sum()))
    if kept == 0 or kept == free.sum():
        return (~free, None) if kept else (np.ones(target.shape, bool), None)
    # Inputs of a unit norm: the same losses, and a better condition.
    scale = np.sqrt(np.diag(hessian))
    target *= scale[:, None]
    hessian = hessian / np.outer(scale, scale)
    curvature = 1 / np.diag(np.linalg.inv(hessian))
    if len(target) > _WIDEST_START:
        found = _exchange(target, hessian, ~choose(target, hessian, fraction), curvature)
    else:
        mask, near = _start(target, hessian, curvature, kept)
        found = _exchange(target, hessian, mask, curvature)
        if found.values is None:
            found = _Found(mask, fit(target, hessian, ~mask, near))
        if target.shape[1] * len(target) ** 3 <= _SMALL:
            sets = [np.flatnonzero(column) for column in free.T]
            sets = _narrowed(hessian, hessian @ target, sets, int(free.sum()) - kept, len(target))
            other = _exchange(target, hessian, _mask(sets, len(target)), curvature)
            found = other if other.loss < found.loss else found
    return ~found.mask, None if found.values is None else found.values / scale[:, None]


@dataclass(frozen=True)
class _Found:
    """A mask of what is kept; where exchanges were made the refitted weights, and their loss."""

    mask: np.ndarray
    values: np.ndarray | None = None
    loss: float = float("inf")


def _start(
    target: np.ndarray, hessian: np.ndarray, curvature: np.ndarray, kept: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mask of what is kept, by ADMM in float32, for the exchanges put it right.

    Args:
        target: the weights, shape (d, outputs).
        hessian: of a unit diagonal, shape (d, d).
        curvature: of each input where all others follow it, shape (d,).
        kept: how many weights.

    Returns:
        The mask, and weights with zeros elsewhere that are near their least squares optimum.
    """
    # The largest weights are kept: of a unit curvature they would be those of the largest
    # saliency where all others are there to follow, of a unit diagonal where none is.
    scale = curvature**0.25
    target = target * scale[:, None]
    hessian = hessian / np.outer(scale, scale)
    middle = float(np.median(np.diag(hessian))) ** 0.5
    values, basis = np.linalg.eigh(hessian)
    scaled = target.astype(np.float32)
    goal = (hessian @ target).astype(np.float32)
    values, basis = values.astype(np.float32), basis.astype(np.float32)
    free = target != 0
    penalties = middle * np.geomspace(*_PENALTY, _ITERATIONS // _EACH)
    sparse, dual = scaled, np.zeros_like(scaled)
    mask = free
    for penalty in penalties.astype(np.float32):
        root = basis / np.sqrt(values + penalty)
        inverse = root @ root.T
        for _ in range(_EACH):
            found = inverse @ (goal + penalty * sparse - dual)
            wanted = found + dual / penalty
            mask = _largest(np.where(free, np.abs(wanted), -1), kept)
            sparse = np.where(mask, wanted, 0)
            dual += penalty * (found - sparse)
    return mask, sparse / scale[:, None]


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(scores.size, bool)
    mask[np.argpartition(scores, scores.size - count, axis=None)[scores.size - count :]] = True
    return mask.reshape(scores.shape)


def _exchange(
    target: np.ndarray, hessian: np.ndarray, mask: np.ndarray, curvature: np.ndarray
) -> _Found:
    """A mask of as many kept weights with a smaller loss.

    Args:
        target: the weights, shape (d, outputs).
        hessian: of a unit diagonal, shape (d, d).
        mask: what is kept so far.
        curvature: of an input that is taken in, at least, shape (d,).

    Returns:
        Without refitted weights where exchanges would take too long: then the mask is as given.
    """
    d, outputs = target.shape
    sets = [np.flatnonzero(column) for column in mask.T]
    total = sum(map(len, sets))
    many = min(d, max(4, round(_EXCHANGED * total / outputs)))
    work, most = _work(sets, many), max(_CHEAP, 2.0 * d * d * outputs)
    if work > (_FIRST if d > _WIDEST_START else min(_FIRST, max(_ONE, most))):
        return _Found(mask)
    goal = hessian @ target
    values = solve(hessian, goal, sets)
    best = float(np.sum(goal * (target - values)))
    for number in range(_ROUNDS):
        if number and (work := work + _work(sets, many)) > most:
            break
        wider = _widened(target, hessian, goal, values, sets, many, curvature)
        depth = many + max(4, many // 2)
        narrow = _narrowed(hessian, goal, wider, sum(map(len, wider)) - total, depth)
        refitted = solve(hessian, goal, narrow)
        loss = float(np.sum(goal * (target - refitted)))
        if loss >= best:
            break
        sets, values, before, best = narrow, refitted, best, loss
        if loss > (1 - _GAIN) * before:
            break
    return _Found(_mask(sets, d), values, best)


def _work(sets: Sets, many: int) -> float:
    """Multiply-adds of a round, about."""
    return sum(4 / 3 * (len(each) + many) ** 3 for each in sets)


def _mask(sets: Sets, d: int) -> np.ndarray:
    mask = np.zeros((d, len(sets)), bool)
    for output, each in enumerate(sets):
        mask[each, output] = True
    return mask


def _widened(
    target: np.ndarray,
    hessian: np.ndarray,
    goal: np.ndarray,
    values: np.ndarray,
    sets: Sets,
    many: int,
    curvature: np.ndarray,
) -> Sets:
    """Each set with the inputs that promise the largest fall of the loss."""
    slope = goal - hessian @ values
    gain = np.where((target != 0) & ~_mask(sets, len(target)), slope**2 / curvature[:, None], -1)
    taken = np.argpartition(gain, len(gain) - many, axis=0)[len(gain) - many :]
    return [
        np.concatenate([each, rows[gain[rows, output] > 0]])
        for output, (each, rows) in enumerate(zip(sets, taken.T, strict=True))
    ]


def _narrowed(hessian: np.ndarray, goal: np.ndarray, sets: Sets, count: int, depth: int) -> Sets:
    """The sets without the `count` weights that are missed least, at most `depth` of each."""
    order: Sets = [np.empty(0, int)] * len(sets)
    losses: Sets = [np.empty(0)] * len(sets)

    def trace(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _trace(_chunk(hessian, goal, sets, outputs), depth)

    groups = _groups(sets)
    for group, traces in zip(groups, in_threads(trace, groups), strict=True):
        for output, inputs, missed in zip(group, *traces, strict=True):
            real = np.isfinite(missed)
            order[output], losses[output] = inputs[real], np.maximum.accumulate(missed[real])
    owner = np.repeat(np.arange(len(sets)), [len(each) for each in losses])
    least = np.argsort(np.concatenate(losses), kind="stable")[:count]
    counts = np.bincount(owner[least], minlength=len(sets))
    return [
        np.setdiff1d(each, inputs[:removed], assume_unique=True)
        for each, inputs, removed in zip(sets, order, counts, strict=True)
    ]


@dataclass(frozen=True)
class _Chunk:
    """Some outputs with sets of about the same size, padded to the largest.

    Attributes:
        outputs: indices of the outputs, shape (n,).
        inputs: indices of the kept weights of each output, shape (n, k).
        padded: where `inputs` is none, shape (n, k).
        curvature: the Hessian of each output's own weights, shape (n, k, k); the identity where
            padded.
        goal: the right-hand side of its normal equations, shape (n, k).
    """

    outputs: np.ndarray
    inputs: np.ndarray
    padded: np.ndarray
    curvature: np.ndarray
    goal: np.ndarray


def _groups(sets: Sets) -> list[np.ndarray]:
    """The outputs in groups of about the same size of set."""
    sizes = np.array([len(each) for each in sets])
    waiting = np.argsort(sizes, kind="stable")[::-1]
    waiting = waiting[sizes[waiting] > 0]
    groups = []
    while len(waiting):
        many = max(1, _CHUNK // (8 * int(sizes[waiting[0]]) ** 2))
        groups.append(waiting[:many])
        waiting = waiting[many:]
    return groups


def _chunk(hessian: np.ndarray, goal: np.ndarray, sets: Sets, outputs: np.ndarray) -> _Chunk:
    sizes = np.array([len(sets[output]) for output in outputs])
    padded = np.arange(sizes.max()) >= sizes[:, None]
    inputs = np.zeros(padded.shape, int)
    inputs[~padded] = np.concatenate([sets[output] for output in outputs])
    curvature = np.take(hessian, inputs[:, :, None] * len(hessian) + inputs[:, None, :])
    if padded.any():
        curvature[padded[:, :, None] | padded[:, None, :]] = 0
        row, place = np.nonzero(padded)
        curvature[row, place, place] = 1
    right = np.where(padded, 0, goal[inputs, outputs[:, None]])
    return _Chunk(outputs, inputs, padded, curvature, right)


def _trace(chunk: _Chunk, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Which weights each output gives up, one after the other, and how much the loss grows by each.

    Returns:
        Inputs and losses, both of shape (n, depth at most); where nothing is left the loss is
        infinite.
    """
    inverse = _inverse(chunk.curvature)
    values = np.matmul(inverse, chunk.goal[:, :, None])[:, :, 0]
    many, width = values.shape
    rows = np.arange(many)
    depth = min(depth, width)
    # The inverse less the outer products of the updates is the inverse of what is left.
    updates = np.zeros((many, depth, width))
    diagonal = np.diagonal(inverse, axis1=1, axis2=2).copy()
    removed = chunk.padded.copy()
    order, losses = np.zeros((many, depth), int), np.full((many, depth), np.inf)
    for step in range(depth):
        saliency = np.full_like(values, np.inf)
        np.divide(values**2, diagonal, out=saliency, where=~removed & (diagonal > 0))
        place = saliency.argmin(axis=1)
        losses[:, step], order[:, step] = saliency[rows, place], chunk.inputs[rows, place]
        left = np.isfinite(losses[:, step])
        column = inverse[rows, place]
        if step:
            ahead = updates[rows, :step, place][:, None, :]
            column = column - np.matmul(ahead, updates[:, :step])[:, 0]
        pivot = np.sqrt(np.where(left, diagonal[rows, place], 1))
        update = np.where(left[:, None], column / pivot[:, None], 0)
        values -= update * (values[rows, place] / pivot)[:, None]
        diagonal -= update**2
        updates[:, step] = update
        removed[rows, place] = True
    return order, losses


def _inverse(matrices: np.ndarray) -> np.ndarray:
    """Inverses of positive definite matrices, shape (n, k, k).

    By Cholesky factors: for matrices of this size twice as fast as LAPACK's general inversion.
    """
    lower = _lower_inverse(np.linalg.cholesky(matrices))
    return np.matmul(lower.transpose(0, 2, 1), lower)


def _lower_inverse(factors: np.ndarray) -> np.ndarray:
    """Inverses of lower triangular matrices, shape (n, k, k), by halves: products, mostly."""
    half = factors.shape[-1] // 2
    if half < _LEAF:
        return np.linalg.inv(factors)
    found = np.zeros_like(factors)
    found[:, :half, :half] = upper = _lower_inverse(factors[:, :half, :half])
    found[:, half:, half:] = lower = _lower_inverse(factors[:, half:, half:])
    found[:, half:, :half] = -np.matmul(np.matmul(lower, factors[:, half:, :half]), upper)
    return found


def solve(hessian: np.ndarray, goal: np.ndarray, sets: Sets) -> np.ndarray:
    """The weights of least loss, shape (d, outputs), zero outside of the sets."""
    found = np.zeros(goal.shape)

    def one(outputs: np.ndarray) -> None:
        chunk = _chunk(hessian, goal, sets, outputs)
        values = np.linalg.solve(chunk.curvature, chunk.goal[:, :, None])[:, :, 0]
        row, place = np.nonzero(~chunk.padded)
        found[chunk.inputs[row, place], chunk.outputs[row]] = values[row, place]

    list(in_threads(one, _groups(sets)))
    return found


def fit(
    weights: np.ndarray, hessian: np.ndarray, removed: np.ndarray, near: np.ndarray | None = None
) -> np.ndarray:
    """As `refit`: directly where that is less work, else by conjugate gradients."""
    d, outputs = weights.shape
    sets = [np.flatnonzero(column) for column in ~removed.T]
    if sum(len(each) ** 3 for each in sets) > (120 if near is None else 60) * d * d * outputs:
        return refit(weights, hessian, removed, near)
    return solve(hessian, hessian @ weights.astype(np.float64), sets)

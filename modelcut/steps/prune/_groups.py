"""Weights that are pruned together: blocks, n of every m, whole filters or inputs.

Scores are small arrays, one number per group, so that ranking them needs no streaming.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def lowest(
    scores: Mapping[str, np.ndarray], fraction: float, *, together: bool
) -> dict[str, np.ndarray]:
    """The groups of lowest score: exactly `fraction` of them, ties by index.

    Args:
        scores: tensor name -> scores, any shape.
        fraction: fraction of the groups to prune, 0 to 1.
        together: rank the groups of all tensors together, otherwise within each tensor.

    Returns:
        Tensor name -> boolean mask in the shape of its scores, true where the group is pruned.
    """
    if not together:
        return {
            name: _lowest(one.ravel(), fraction).reshape(one.shape) for name, one in scores.items()
        }
    every = np.concatenate([one.ravel() for one in scores.values()] or [np.zeros(0)])
    pruned = _lowest(every, fraction)
    ends = np.cumsum([one.size for one in scores.values()])
    parts = np.split(pruned, ends[:-1])
    return {
        name: part.reshape(one.shape)
        for (name, one), part in zip(scores.items(), parts, strict=True)
    }


def _lowest(scores: np.ndarray, fraction: float) -> np.ndarray:
    count = round(fraction * scores.size)
    pruned = np.zeros(scores.size, bool)
    if not count:
        return pruned
    ordered = np.where(np.isnan(scores), np.inf, scores)
    last = np.partition(ordered, count - 1)[count - 1]
    np.less(ordered, last, out=pruned)
    ties = np.flatnonzero(ordered == last)
    pruned[ties[: count - int(pruned.sum())]] = True
    return pruned


def evenly(scores: np.ndarray, fraction: float) -> np.ndarray:
    """The weights of lowest score, equally many per output: exactly `fraction` of all.

    The remainder is distributed one by one, to the outputs whose next score is smallest. An
    output that has more zeros already (its scores are negative there) keeps them; the
    others are then pruned less.

    Args:
        scores: shape (..., outputs); negative where a weight is zero already.
        fraction: fraction of all weights to prune, 0 to 1.

    Returns:
        A boolean mask of the shape of the scores, true where the weight is pruned.
    """
    flat = scores.reshape(-1, scores.shape[-1])
    depth, outputs = flat.shape
    order = np.argsort(flat, axis=0, kind="stable")
    zeros = np.count_nonzero(flat < 0, axis=0)
    below = np.cumsum(np.bincount(zeros, minlength=depth + 1)[:depth])
    totals = int(zeros.sum()) + np.concatenate([[0], np.cumsum(below)])
    count = round(fraction * flat.size)
    level = max(0, int(np.searchsorted(totals, count, side="right")) - 1)
    quota = np.maximum(zeros, level)
    left = max(0, count - int(totals[level]))
    if left:
        following = flat[order[level], np.arange(outputs)]
        following = np.where(zeros <= level, following, np.inf)
        quota[np.argsort(following, kind="stable")[:left]] += 1
    pruned = np.empty(flat.shape, bool)
    np.put_along_axis(pruned, order, np.arange(depth)[:, None] < quota, axis=0)
    return pruned.reshape(scores.shape)


def under(scores: np.ndarray, cutoff: float, most: int = 0) -> np.ndarray:
    """Which scores are below `cutoff` times the mean of the remaining ones, repeatedly.

    The largest is always kept, so that no layer vanishes.

    Args:
        scores: any shape; negative where the weight is pruned already.
        cutoff: threshold as a multiple of the mean score, 0 or more.
        most: number of rounds, each with the mean of the scores that remain; 0: until stable.

    Returns:
        A boolean mask of the shape of the scores, true where one is pruned, now or before.
    """
    pruned = scores < 0
    number = 0
    while not pruned.all() and (not most or number < most):
        left = scores[~pruned]
        limit = min(cutoff * float(left.mean(dtype=np.float64)), float(left.max()))
        after = pruned | (scores < limit)
        if np.array_equal(after, pruned):
            break
        pruned, number = after, number + 1
    return pruned


def keep_one(pruned: np.ndarray, scores: np.ndarray) -> bool:
    """Where all groups of a tensor would be pruned, keeps the one of highest score.

    Returns:
        Whether that was needed.
    """
    if not pruned.size or not pruned.all():
        return False
    pruned.reshape(-1)[int(np.argmax(scores))] = False
    return True


def outside_n_of_m(values: np.ndarray, axis: int, n: int, m: int) -> np.ndarray:
    """True where a weight is not among the `n` largest of its `m` neighbours along `axis`.

    The last, shorter group keeps `n` too. Of equal magnitudes the first ones are kept.
    """
    moved = np.moveaxis(np.abs(values), axis, -1)
    length = moved.shape[-1]
    padded = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -length % m)], constant_values=-1)
    grouped = padded.reshape(*padded.shape[:-1], -1, m)
    order = np.argsort(-grouped, axis=-1, kind="stable")
    pruned = np.ones(grouped.shape, bool)
    np.put_along_axis(pruned, order[..., :n], False, axis=-1)
    flat = pruned.reshape(padded.shape)[..., :length]
    return np.moveaxis(flat, -1, axis)


def block_scores(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Mean magnitude of each block of the last two axes; blocks at the ends may be smaller."""
    sizes = np.abs(values.astype(np.float32, copy=False))
    for axis, step in ((-2, rows), (-1, columns)):
        starts = np.arange(0, sizes.shape[axis], step)
        lengths = np.diff(np.append(starts, sizes.shape[axis]))
        shape = [1] * sizes.ndim
        shape[axis] = lengths.size
        sizes = np.add.reduceat(sizes, starts, axis=axis) / lengths.reshape(shape)
    return sizes


def of_blocks(pruned: np.ndarray, shape: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """The mask of the weights, from that of their blocks."""
    wide = np.repeat(np.repeat(pruned, rows, axis=-2), columns, axis=-1)
    return wide[..., : shape[-2], : shape[-1]]

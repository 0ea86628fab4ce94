"""Weights that go together: blocks, n of every m, whole filters or inputs.

Scores are small arrays, one number a group, so that ranking them needs no streaming.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def lowest(
    scores: Mapping[str, np.ndarray], share: float, *, together: bool
) -> dict[str, np.ndarray]:
    """Which groups go: exactly `share` of them, ties in order.

    Args:
        scores: tensor name -> scores, any shape.
        share: fraction of the groups to prune, 0 to 1.
        together: rank the groups of all tensors together, else each tensor's alone.

    Returns:
        Tensor name -> boolean mask in the shape of its scores, true where the group goes.
    """
    if not together:
        return {
            name: _lowest(one.ravel(), share).reshape(one.shape) for name, one in scores.items()
        }
    every = np.concatenate([one.ravel() for one in scores.values()] or [np.zeros(0)])
    gone = _lowest(every, share)
    ends = np.cumsum([one.size for one in scores.values()])
    parts = np.split(gone, ends[:-1])
    return {
        name: part.reshape(one.shape)
        for (name, one), part in zip(scores.items(), parts, strict=True)
    }


def _lowest(scores: np.ndarray, share: float) -> np.ndarray:
    count = round(share * scores.size)
    gone = np.zeros(scores.size, bool)
    if not count:
        return gone
    ordered = np.where(np.isnan(scores), np.inf, scores)
    last = np.partition(ordered, count - 1)[count - 1]
    np.less(ordered, last, out=gone)
    ties = np.flatnonzero(ordered == last)
    gone[ties[: count - int(gone.sum())]] = True
    return gone


def evenly(scores: np.ndarray, fraction: float) -> np.ndarray:
    """Which weights go where each output loses as many: exactly `fraction` of all of them.

    What does not divide is dealt out one by one, to the outputs whose next score is smallest. An
    output that has lost more already (its scores are negative there) is not given any back; the
    others then lose less.

    Args:
        scores: shape (..., outputs); negative where a weight is zero already.
        fraction: fraction of all weights to prune, 0 to 1.

    Returns:
        A boolean mask of the shape of the scores, true where the weight goes.
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
    gone = np.empty(flat.shape, bool)
    np.put_along_axis(gone, order, np.arange(depth)[:, None] < quota, axis=0)
    return gone.reshape(scores.shape)


def under(scores: np.ndarray, cutoff: float, most: int = 0) -> np.ndarray:
    """Which scores are below `cutoff` times the mean of those that are left, and so on.

    The largest is always left, so that no layer vanishes.

    Args:
        scores: any shape; negative where there is nothing left to remove.
        cutoff: threshold as a multiple of the mean score, 0 or more.
        most: rounds, each with the mean of what the one before it left; 0: until nothing changes.

    Returns:
        A boolean mask of the shape of the scores, true where one goes, or is gone.
    """
    gone = scores < 0
    number = 0
    while not gone.all() and (not most or number < most):
        left = scores[~gone]
        limit = min(cutoff * float(left.mean(dtype=np.float64)), float(left.max()))
        after = gone | (scores < limit)
        if np.array_equal(after, gone):
            break
        gone, number = after, number + 1
    return gone


def keep_one(gone: np.ndarray, scores: np.ndarray) -> bool:
    """Where all groups of a tensor would go, keeps the strongest; a layer must not vanish.

    Returns:
        Whether that was needed.
    """
    if not gone.size or not gone.all():
        return False
    gone.reshape(-1)[int(np.argmax(scores))] = False
    return True


def outside_n_of_m(values: np.ndarray, axis: int, n: int, m: int) -> np.ndarray:
    """True where a weight is not among the `n` largest of its `m` neighbours along `axis`.

    The last, shorter group keeps `n` too. Of equal magnitudes the first ones stay.
    """
    moved = np.moveaxis(np.abs(values), axis, -1)
    length = moved.shape[-1]
    padded = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -length % m)], constant_values=-1)
    grouped = padded.reshape(*padded.shape[:-1], -1, m)
    order = np.argsort(-grouped, axis=-1, kind="stable")
    gone = np.ones(grouped.shape, bool)
    np.put_along_axis(gone, order[..., :n], False, axis=-1)
    flat = gone.reshape(padded.shape)[..., :length]
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


def of_blocks(gone: np.ndarray, shape: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """The mask of the weights, from that of their blocks."""
    wide = np.repeat(np.repeat(gone, rows, axis=-2), columns, axis=-1)
    return wide[..., : shape[-2], : shape[-1]]

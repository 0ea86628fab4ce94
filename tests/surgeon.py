"""What second-order pruning is held against: written for clearness, not for speed."""

from __future__ import annotations

import heapq

import numpy as np


def refitted(weights: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The least squares optimum on the kept weights, one output after the other."""
    found = np.zeros(weights.shape)
    for output, column in enumerate(kept.T):
        rows = np.flatnonzero(column)
        if rows.size:
            goal = hessian[rows] @ weights[:, output]
            found[rows, output] = np.linalg.solve(hessian[np.ix_(rows, rows)], goal)
    return found


def magnitude(weights: np.ndarray, share: float) -> np.ndarray:
    """The kept weights where the smallest are pruned."""
    kept = np.ones(weights.size, bool)
    kept[np.argsort(np.abs(weights), axis=None, kind="stable")[: round(share * weights.size)]] = 0
    return kept.reshape(weights.shape)


def greedy(weights: np.ndarray, hessian: np.ndarray, *shares: float) -> list[np.ndarray]:
    """The kept weights by the greedy Optimal Brain Surgeon, for each of some shares.

    Frantar and Alistarh 2022 (Optimal Brain Compression), section 4: each output gives up its
    weights by the exact saliency, one at a time, with the inverse Hessian downdated; which outputs
    give up how many is told by the traces of all of them.
    """
    inverse = np.linalg.inv(hessian)
    traces = [_trace(column, inverse) for column in weights.T]
    masks = []
    for share in shares:
        kept = np.ones(weights.shape, bool)
        heap = [(losses[0], output, 0) for output, (_, losses) in enumerate(traces)]
        heapq.heapify(heap)
        for _ in range(round(share * weights.size)):
            _, output, place = heapq.heappop(heap)
            order, losses = traces[output]
            kept[order[place], output] = False
            if place + 1 < len(order):
                heapq.heappush(heap, (losses[place + 1], output, place + 1))
        masks.append(kept)
    return masks


def _trace(weights: np.ndarray, inverse: np.ndarray) -> tuple[list[int], list[float]]:
    left, weights, inverse = np.arange(len(weights)), weights.copy(), inverse.copy()
    alive = np.ones(len(weights), bool)
    order, losses = [], []
    for _ in range(len(weights)):
        saliency = np.full(len(left), np.inf)
        saliency[alive] = weights[alive] ** 2 / np.diag(inverse)[alive]
        place = int(saliency.argmin())
        order.append(int(left[place]))
        losses.append(float(saliency[place]))
        column = inverse[:, place] / inverse[place, place]
        weights -= column * weights[place]
        inverse -= np.outer(column, inverse[place])
        alive[place] = False
        if len(order) % 32 == 0:  # smaller matrices, for speed alone
            left, weights, inverse = left[alive], weights[alive], inverse[np.ix_(alive, alive)]
            alive = np.ones(len(left), bool)
    return order, losses


def error(inputs: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """|X W - X W'|^2 / |X W|^2."""
    return float(np.square(inputs @ (before - after)).sum() / np.square(inputs @ before).sum())

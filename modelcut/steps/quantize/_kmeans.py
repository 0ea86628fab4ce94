"""Clustering on a line: exact where there are few values, on a fine histogram where many.

Values on a line are assigned to intervals, so prefix sums answer every question about a cluster in
constant time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from modelcut.arrays import floats
from modelcut.arrays.blocks import in_threads, row_blocks
from modelcut.arrays.clock import working

Start = Literal["optimum", "linear", "density", "kmeans++"]

_FEW = 1 << 16
"""Values up to which they are sorted, rather than counted in bins."""
_SAMPLE = 1 << 16
_EXACT = 1 << 17
"""Points times clusters up to which the optimum is found by dynamic programming."""
_ROUNDS = 300
_COUNTED = 1 << 20
"""Values counted at a time: of float32, four for each bin, or the bins would take longer."""


@dataclass(frozen=True)
class Line:
    """Points on a line in ascending order, with weights.

    Attributes:
        points: float64, shape (n,), ascending, finite.
        weights: how many values each stands for, float64, shape (n,).
        exact: the points are the values themselves, not the middles of bins.
    """

    points: np.ndarray
    weights: np.ndarray
    exact: bool

    @cached_property
    def unit(self) -> float:
        """A power of two that brings the points near 1, or squares would overflow."""
        peak = float(np.abs(self.points).max(initial=0.0))
        return float(2.0 ** np.clip(np.frexp(peak)[1], -1000, 1000)) if peak else 1.0

    @cached_property
    def origin(self) -> float:
        """The mean, in units: sums of squares are taken about it, or they cancel."""
        return float(np.average(self.points / self.unit, weights=self.weights))

    @cached_property
    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prefix sums of weight, weight·x and weight·x²; each of shape (n + 1,).

        x is counted in units from the origin.
        """
        x = self.points / self.unit - self.origin
        parts = (self.weights, self.weights * x, self.weights * x * x)
        count, first, second = (np.concatenate([[0.0], np.cumsum(part)]) for part in parts)
        return count, first, second

    def means(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and weight of the points edges[i] … edges[i + 1] - 1; an empty one's mean is NaN."""
        count, first, _ = self.sums
        mass = np.diff(count[edges])
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (self.origin + np.diff(first[edges]) / mass) * self.unit
        # Rounding must not carry a mean out of its own cluster.
        last = self.points.size - 1
        low, high = self.points[np.minimum(edges[:-1], last)], self.points[edges[1:] - 1]
        return np.where(mass > 0, np.clip(means, low, high), np.nan), mass

    def errors(self, edges: np.ndarray) -> np.ndarray:
        """Squared error of the same clusters about their means, in units squared."""
        count, first, second = (np.diff(part[edges]) for part in self.sums)
        return np.maximum(second - first * first / np.maximum(count, 1e-300), 0)


def line_of(values: Any, *, zeros: bool) -> tuple[Line, bool]:
    """The finite values as points on a line.

    Args:
        values: of any shape and float dtype: an array, or what has its rows.
        zeros: count zeros too; else they are left out.

    Returns:
        The points (the distinct values where they are few, else the middles of `bins`), and
        whether all values are finite.
    """
    size = values.size
    if isinstance(values, np.ndarray):
        values = values.reshape(-1)
    exact = size <= _FEW or values.dtype.itemsize == 2
    if size <= _FEW:
        flat = values[:].reshape(-1)
        finite = flat[np.isfinite(flat)].astype(np.float64)
        points, counts = np.unique(finite, return_counts=True)
        all_finite = finite.size == flat.size
    else:
        middles = floats.middles(values.dtype)
        counts, sample = _counts(values, max(1, size // _SAMPLE))
        points = np.unique(sample[np.isfinite(sample)].astype(np.float64))
        if not exact and points.size < 1 << 12:
            # Few distinct values: where no bin holds two of them, the bins are exact.
            kept = middles.copy()
            kept[floats.of(points.astype(values.dtype))] = points
            if exact := _all_are(values, kept.astype(values.dtype)):
                middles = kept
        all_finite = not counts[np.isnan(middles)].any()
        used = np.flatnonzero((counts > 0) & ~np.isnan(middles))
        used = used[np.argsort(middles[used], kind="stable")]
        points, counts = middles[used], counts[used]
    kept_points = (points != 0) | zeros
    return Line(points[kept_points], counts[kept_points].astype(np.float64), exact), all_finite


def _counts(values: Any, step: int) -> tuple[np.ndarray, np.ndarray]:
    """How many values lie in each bin; and every so many of them, in flat order."""
    size, row = floats.count(values.dtype), max(1, values.size // max(1, len(values)))
    rows = max(1, _COUNTED // row)
    blocks = [slice(start, start + rows) for start in range(0, len(values), rows)]

    def count(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        with working("survey"):
            return one(rows)

    def one(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        flat = np.ascontiguousarray(values[rows]).reshape(-1)
        counts = np.bincount(floats.of(flat).astype(np.intp), minlength=size)
        return counts, flat[-rows.start * row % step :: step].copy()

    total, sampled = np.zeros(size, np.int64), []
    for counts, sample in in_threads(count, blocks):
        total += counts
        sampled.append(sample)
    return total, np.concatenate(sampled)


def _all_are(values: Any, of_bin: np.ndarray) -> bool:
    """Whether every value is the one that its bin stands for; ends at the first block that has
    another.
    """
    blocks = row_blocks(values.shape, values.dtype.itemsize)
    parts = (np.ascontiguousarray(values[rows]).reshape(-1) for rows in blocks)
    return all(np.array_equal(of_bin[floats.of(part)], part) for part in parts)


def clusters(line: Line, k: int, start: Start, rng: np.random.Generator) -> np.ndarray:
    """At most `k` centroids, ascending: the optimum where that is fast, else Lloyd's algorithm."""
    if line.points.size <= k:
        return line.points
    if line.points.size * k <= _EXACT:
        return optimum(line, k)
    if start == "optimum":
        return lloyd(line, optimum(coarser(line, _EXACT // k), k))
    return lloyd(line, started(line, k, start, rng))


def coarser(line: Line, n: int) -> Line:
    """About `n` points, each the mean of neighbors of equal mass of density^(1/3).

    That is how the intervals of a good quantizer lie (Panter and Dite 1951), so each of them is
    made of about as many of the points as any other.
    """
    gaps = np.diff(line.points, prepend=2 * line.points[0] - line.points[1]) / line.unit
    share = np.cumsum(np.cbrt(line.weights * gaps * gaps))
    edges = np.searchsorted(share, np.linspace(0, share[-1], n + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], edges, [line.points.size]]))
    points, weights = line.means(edges)
    return Line(points, weights, exact=False)


def optimum(line: Line, k: int) -> np.ndarray:
    """Centroids of the k-means optimum in one dimension, by dynamic programming.

    The best first point of the last cluster moves right with the cluster's end, so each layer of
    the table is filled by divide and conquer in O(n log n) (Grønlund et al. 2017, section 2; here
    level by level, so that NumPy does each level at once).

    Returns:
        At most `k` centroids, ascending; shape (min(k, n),).
    """
    n = line.points.size
    if n <= k:
        return line.points
    count, first, second = line.sums

    def cost(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Squared error of points start … end - 1 in one cluster."""
        mass = count[end] - count[start]
        sum1, sum2 = first[end] - first[start], second[end] - second[start]
        return np.maximum(sum2 - sum1 * sum1 / np.maximum(mass, 1e-300), 0)

    best = cost(np.zeros(n, np.int64), np.arange(1, n + 1))
    cuts = [np.zeros(n, np.int64)]
    for layer in range(1, k):
        best, cut = _next_layer(best, cost, layer, n)
        cuts.append(cut)
    edges = [n]
    for cut in reversed(cuts):
        edges.append(int(cut[edges[-1] - 1]))
    return line.means(np.array(edges[::-1]))[0]


def _next_layer(
    best: np.ndarray, cost: Callable[[np.ndarray, np.ndarray], np.ndarray], layer: int, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """One more cluster: for each last point, the least cost and where the last cluster begins.

    Rows before `layer` have fewer points than clusters; nothing asks for them again.
    """
    fresh = best.copy()
    cut = np.zeros(n, np.int64)
    # Work items: rows low … high of this layer, whose best cut lies in left … right.
    low, high = np.array([layer]), np.array([n - 1])
    left, right = np.array([layer]), np.array([n - 1])
    while low.size:
        middle = (low + high) // 2
        sizes = np.minimum(right, middle) - left + 1
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        owner = np.repeat(np.arange(sizes.size), sizes)
        tried = np.arange(offsets[-1]) - offsets[owner] + left[owner]
        total = best[tried - 1] + cost(tried, middle[owner] + 1)
        least = np.minimum.reduceat(total, offsets[:-1])
        hits = np.flatnonzero(total == least[owner])
        chosen = np.empty(sizes.size, np.int64)
        chosen[owner[hits][::-1]] = tried[hits][::-1]  # the first of equals
        fresh[middle], cut[middle] = least, chosen
        down, up = low < middle, middle < high
        low, high, left, right = (
            np.concatenate([low[down], middle[up] + 1]),
            np.concatenate([middle[down] - 1, high[up]]),
            np.concatenate([left[down], chosen[up]]),
            np.concatenate([chosen[down], right[up]]),
        )
    return fresh, cut


def started(line: Line, k: int, start: str, rng: np.random.Generator) -> np.ndarray:
    """Initial centroids: evenly over the range, evenly over the values, or by k-means++.

    Linear is what Han et al. 2016 (section 3.2) found best for accuracy; k-means++ is Arthur and
    Vassilvitskii 2007. At most `k`, ascending.
    """
    points = line.points
    if start == "linear":
        return np.linspace(points[0], points[-1], k)
    share = np.cumsum(line.weights) / line.weights.sum()
    last = points.size - 1
    if start == "density":
        places = np.searchsorted(share, (np.arange(k) + 0.5) / k)
        return np.unique(points[np.minimum(places, last)])
    chosen = [min(int(np.searchsorted(share, rng.random())), last)]
    distance = np.full(points.size, np.inf)
    for _ in range(k - 1):
        distance = np.minimum(distance, np.square((points - points[chosen[-1]]) / line.unit))
        chance = np.cumsum(distance * line.weights)
        if chance[-1] <= 0:
            break
        chosen.append(min(int(np.searchsorted(chance, rng.random() * chance[-1])), last))
    return np.unique(points[chosen])


def lloyd(line: Line, centres: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm until it converges; an empty cluster moves to where the error is largest.

    Returns:
        Centroids, ascending, distinct; as many as given, if there are as many points.
    """
    k, n = centres.size, line.points.size
    old = np.zeros(0, np.int64)
    for _ in range(_ROUNDS):
        inner = np.searchsorted(line.points, centres[1:] / 2 + centres[:-1] / 2, side="right")
        edges = np.unique(np.concatenate([[0], inner, [n]]))
        if edges.size <= k:
            edges = _split(line, edges, k)
        centres = line.means(edges)[0]
        if np.array_equal(edges, old):
            break
        old = edges
    return centres


def _split(line: Line, edges: np.ndarray, k: int) -> np.ndarray:
    """Halves the clusters of largest error that have two points, until there are `k`."""
    while edges.size <= k:
        errors = np.where(np.diff(edges) > 1, line.errors(edges), -1.0)
        missing = k + 1 - edges.size
        worst = np.argsort(-errors, kind="stable")[:missing]
        worst = worst[errors[worst] >= 0]
        if not worst.size:
            break
        middle = line.means(edges)[0][worst]
        cut = np.searchsorted(line.points, middle, side="right")
        cut = np.clip(cut, edges[worst] + 1, edges[worst + 1] - 1)
        edges = np.union1d(edges, cut)
    return edges


def weighted(
    line: Line, centres: np.ndarray, share: float, *, zeros: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Entropy-constrained quantization: least of error + trade · bits (Chou et al. 1989).

    Each round has three parts, none of which increases the sum: each value is assigned to the
    centroid of least cost in error and bits, each centroid moves to the mean of its values, and
    the bits of a code follow from its frequency. Codes without values vanish.

    Args:
        line: the values.
        centres: initial centroids, ascending.
        share: squared error that is accepted to save one bit, as a fraction of the mean square of
            the values.
        zeros: how many exact zeros there are besides; with any, a centroid of 0 is kept for
            them, and other values may join it.

    Returns:
        Centroids, ascending, shape (k,), and the edges between their intervals, shape (k - 1,).
    """
    points, unit = line.points / line.unit, line.unit
    centres = centres / unit
    trade = share * float(np.average(points * points, weights=line.weights))
    if zeros:
        centres = np.union1d(centres, [0.0])
    total = line.weights.sum() + zeros
    edges = (centres[1:] + centres[:-1]) / 2
    used = np.zeros(0)
    for _ in range(_ROUNDS):
        inner = np.searchsorted(points, edges, side="right")
        cuts = np.concatenate([[0], inner, [points.size]])
        if np.array_equal(cuts, used):
            break
        means, mass = line.means(cuts)
        at_zero = (centres == 0) & bool(zeros)
        means = np.where(at_zero, 0.0, means / unit)
        mass = mass + np.where(at_zero, zeros, 0.0)
        centres, owner = np.unique(means[mass > 0], return_inverse=True)
        rate = -np.log2(np.bincount(owner, mass[mass > 0]) / total)
        alive, edges = _envelope(centres, trade * rate)
        used = cuts if alive.size == means.size and alive.all() else np.zeros(0)
        centres = centres[alive]
    return centres * unit, edges * unit


def _envelope(centres: np.ndarray, price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the parabolas (x - c)² + price are lowest somewhere, and where they meet.

    Less x², a parabola is a straight line of slope -2c, so ascending centroids make the lower
    envelope from left to right; a line that comes in before the last one began buries it.

    Args:
        centres: strictly ascending, shape (k,).
        price: finite, shape (k,).

    Returns:
        A mask, shape (k,), and where each survivor gives way to the next.
    """
    alive: list[int] = []
    begins: list[float] = []
    for index, (centre, cost) in enumerate(zip(centres, price, strict=True)):
        begin = -np.inf
        while alive:
            last = alive[-1]
            gap = centre - centres[last]
            begin = (centre + centres[last]) / 2 + (cost - price[last]) / (2 * gap)
            if begin > begins[-1]:
                break
            alive.pop()
            begins.pop()
            begin = -np.inf
        alive.append(index)
        begins.append(float(begin))
    mask = np.zeros(centres.size, bool)
    mask[alive] = True
    return mask, np.array(begins[1:])

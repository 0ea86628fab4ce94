"""Mean and deviation of columns."""

from __future__ import annotations

from typing import Any

import numpy as np


class Statistics:
    """Mean and deviation of columns over blocks (Chan, Golub and LeVeque 1983).

    Attributes:
        count: number of values that are not NaN.
        mean: mean of these values; 0 where there are none.
        deviation: standard deviation of these values, once finished.
    """

    def __init__(self) -> None:
        self.count: Any = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0
        self.deviation: Any = 0.0

    def add(self, block: np.ndarray) -> None:
        good = ~np.isnan(block)
        count = good.sum(axis=0)
        filled = np.where(good, block, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(good, block - mean, 0.0) ** 2).sum(axis=0)
        total = self.count + count
        delta = mean - self.mean
        share = count / np.maximum(total, 1)
        self.mean = self.mean + delta * share
        self._squares = self._squares + squares + delta**2 * self.count * share
        self.count = total

    def finish(self) -> Statistics:
        self.deviation = np.sqrt(self._squares / np.maximum(self.count, 1))
        return self

"""Removes the connections of least sensitivity (Lee, Ajanthan and Torr 2019, section 4.1, eq. 6).

As `taylor`, but of the loss over all rows at once: what raises it on some rows and lowers it on
others counts as little. Meant for networks before training; on trained ones the mean gradient is
near zero, and mostly noise.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from modelcut.steps.prune._gradients import Gradients, Kind


class Snip(Gradients):
    """Prune the weights of smallest |w · mean ∂L/∂w|, the connection sensitivity."""

    kind: ClassVar[Kind] = "mean"

    def score(self, weights: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        return np.abs(weights * statistic)

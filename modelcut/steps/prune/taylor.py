"""Removes the weights whose loss would change least, to first order (Molchanov et al. 2019).

Their section 3.1: the change of the loss when w becomes 0 is |w · ∂L/∂w|, taken batch by batch and
averaged, so that gradients of opposite signs do not cancel.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from modelcut.steps.prune._gradients import Gradients, Kind


class Taylor(Gradients):
    """Prune the weights of smallest mean |w · ∂L/∂w|, the first-order change of the loss."""

    kind: ClassVar[Kind] = "magnitude"

    def score(self, weights: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        return np.abs(weights) * statistic

"""Removes the weights to which the loss is least sensitive."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from modelcut.steps.prune._gradients import Gradients, Kind


class Gradient(Gradients):
    """Prune the weights whose loss gradient has the smallest mean magnitude |∂L/∂w|."""

    kind: ClassVar[Kind] = "magnitude"

    def score(self, weights: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        del weights
        return statistic

"""Removes the weights whose loss would change least, to second order.

Optimal Brain Damage (LeCun, Denker and Solla 1990, section 2.2) with the diagonal of the Hessian
replaced by that of the empirical Fisher information, the mean square of the gradient of single
rows (Theis et al. 2018, section 3.1, eq. 7): w^2 F / 2.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from modelcut.steps.prune._gradients import Gradients, Kind


class Fisher(Gradients):
    """Prune the weights of smallest w² · mean (∂L/∂w)², the second-order change of the loss."""

    kind: ClassVar[Kind] = "square"

    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024, description="Maximum number of training samples to use."
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Batch size of the gradients; 1 gives the empirical Fisher information, "
        "larger values are faster and approximate it.",
    )

    def score(self, weights: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        return np.square(weights) * statistic / 2

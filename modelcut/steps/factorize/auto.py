"""Takes for each layer the method that saves most at the same error."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from modelcut import steps
from modelcut.steps.factorize._choose import Option
from modelcut.steps.factorize._factorize import Factorization
from modelcut.steps.factorize._parts import Decomposition
from modelcut.steps.factorize._target import Target
from modelcut.steps.factorize._whiten import Statistics

_SLOW = {"cp": 1 << 17}
"""Methods that find no factors in closed form, and the most weights for which they are tried."""


class Auto(Factorization):
    """Factorize each layer by the method that saves most at the same error."""

    rank: Literal["vbmf"] | None = Field(
        default=None,
        description="vbmf: the ranks that tell signal from noise by variational Bayes; a number "
        "would mean something else to each method.",
    )

    def refusal(self, target: Target) -> str:
        reasons = [method.refusal(target) for method in self._methods()]
        return "" if "" in reasons else reasons[0]

    def _methods(self) -> list[Factorization]:
        names = [name for name in steps.methods("factorize") if name != "auto"]
        fields: dict[str, Any] = {} if self.rank is None else {"rank": self.rank}
        found = [steps.find("factorize", name)(**fields) for name in names]
        return [method for method in found if isinstance(method, Factorization)]

    def decomposed(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None
    ) -> Decomposition:
        raise NotImplementedError("each method has its own")

    def options(
        self, target: Target, matrix: np.ndarray, statistics: Statistics | None, memo: Any = None
    ) -> list[Option] | str:
        found: list[Option] = []
        reasons = []
        for method in self._methods():
            reason = method.refusal(target)
            if reason or target.values > _SLOW.get(method.method, target.values):
                reasons.append(reason or f"{method.method} would take long")
                continue
            some = method.options(target, matrix, statistics, memo)
            if isinstance(some, str):
                reasons.append(some)
            else:
                found += some
        return found or "; ".join(reasons)

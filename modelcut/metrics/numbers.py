"""How certain the errors of a regression are: a bootstrap in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelcut.metrics.intervals import of_sample

_GROUPS = 1000
_LEAST_GROUPS = 100
_MOST_SUMS = 1 << 18
_REPLICATES = 400
_FEW = 10
"""Of fewer samples a bootstrap tells too little."""

_SIGNS = {"mae_increase": ("mae", 1), "rmse_increase": ("rmse", 1), "r2_drop": ("r2", -1)}
"""What changes -> its metric, and the sign of after minus before that is a loss."""


class Numbers:
    """Sums of the errors of one or two networks on the same samples.

    Samples are dealt to at most 1,000 groups in turn, and the bootstrap (Efron 1979) draws groups:
    up to that number they are the samples themselves; of more, means of groups vary as means of
    samples do.
    """

    def __init__(self, units: int, networks: int) -> None:
        """Nothing is summed up yet.

        Args:
            units: values of the output.
            networks: one or two.
        """
        self._groups = int(np.clip(_MOST_SUMS // max(1, units), 0, _GROUPS))
        self._rows = 0
        self._drawn: tuple[int, list[dict[str, np.ndarray]]] | None = None
        if self._groups < _LEAST_GROUPS:
            return
        shape = (self._groups, units)
        self._shift = np.zeros(units)
        self._counts = np.zeros(self._groups)
        self._labels = np.zeros((2, *shape))
        self._errors = np.zeros((networks, 2, *shape))

    def look(self, truth: np.ndarray, found: Sequence[np.ndarray]) -> None:
        """Takes a batch: labels and each network's values, all (samples, units)."""
        if self._groups < _LEAST_GROUPS:
            return
        truth = truth.astype(np.float64).reshape(len(truth), -1)
        if not self._rows:
            self._shift = truth.mean(axis=0)  # squares of what is near zero keep their digits
        for start in range(0, len(truth), self._groups):
            part = slice(start, start + self._groups)
            labels = truth[part] - self._shift
            group = (self._rows + np.arange(len(labels))) % self._groups  # none stands twice
            self._counts[group] += 1
            self._labels[0, group] += labels
            self._labels[1, group] += np.square(labels)
            for network, values in enumerate(found):
                error = values[part].astype(np.float64) - truth[part]
                self._errors[network, 0, group] += np.abs(error)
                self._errors[network, 1, group] += np.square(error)
            self._rows += len(labels)

    def of_one(self, network: int) -> dict[str, Any]:
        """The intervals of a network's MAE, RMSE and R²; {} where there are none."""
        found = self._replicates()
        return self._told(found[network]) if found else {}

    def of_both(self) -> dict[str, Any]:
        """The intervals of what changed from the first network to the second."""
        found = self._replicates()
        if len(found) < 2:
            return {}
        before, after = found
        changes = {name: sign * (after[key] - before[key]) for name, (key, sign) in _SIGNS.items()}
        return self._told(changes)

    def _told(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        finite = {name: each for name, each in values.items() if np.isfinite(each).all()}
        return {name: of_sample(each) for name, each in finite.items()}

    def _replicates(self) -> list[dict[str, np.ndarray]]:
        """MAE, RMSE and R² of each network in each replicate, as means over the units."""
        if self._groups < _LEAST_GROUPS or self._rows < _FEW:
            return []
        if self._drawn and self._drawn[0] == self._rows:
            return self._drawn[1]
        used = min(self._rows, self._groups)
        rng = np.random.default_rng(0)
        draws = rng.multinomial(used, np.full(used, 1 / used), size=_REPLICATES).astype(np.float64)
        rows = (draws @ self._counts[:used])[:, None]
        with np.errstate(all="ignore"):
            mean = draws @ self._labels[0, :used] / rows
            spread = draws @ self._labels[1, :used] - rows * np.square(mean)
            found = []
            for absolute, squared in self._errors:
                mae, sse = draws @ absolute[:used] / rows, draws @ squared[:used]
                r2 = np.where(spread > 0, 1 - sse / spread, np.where(sse == 0, 1.0, 0.0))
                rmse = np.sqrt(sse / rows)
                each = {"mae": mae, "rmse": rmse, "r2": r2}
                found.append({name: values.mean(axis=1) for name, values in each.items()})
        self._drawn = self._rows, found
        return found

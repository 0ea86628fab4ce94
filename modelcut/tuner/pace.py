"""How long trainings are where the time of a search is limited: several must fit into it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from modelcut.tuner.trial import batches_of

PROBES = (1 / 27, 1 / 9)
"""Fractions of the first training that are run to learn how long a batch takes."""
_TRIALS = 6
"""Trials that a worker should be able to do in the time: the ladder's, and some more."""
_LEAST = 1 / 27


class Pace:
    """Shortens all trainings by one factor, so that `_TRIALS` of them fit into the time.

    Attributes:
        factor: what the lengths of trainings are multiplied by; None as long as it is not known.
    """

    def __init__(self, seconds: float | None, *, open_: bool) -> None:
        """Nothing is measured yet.

        Args:
            seconds: wall time of the search; None: no limit.
            open_: whether the lengths of trainings are the search's own choice: what a user wrote
                is left as it is.
        """
        self._seconds = seconds
        self.factor = None if seconds is not None and open_ else 1.0
        self._probed: dict[float, float] = {}
        self._whole: list[float] = []

    def probes(self, recipe: Mapping[str, Any]) -> tuple[float, ...]:
        """Which fractions of a recipe's training are run before its whole."""
        return () if self.factor is not None or not batches_of(recipe) else PROBES

    def learn(self, recipe: Mapping[str, Any], fraction: float, seconds: float) -> None:
        """Takes up how long a probe took; after the last one the factor is known."""
        self._probed[fraction] = seconds
        if self.factor is not None or fraction != PROBES[-1]:
            return
        batches = batches_of(recipe)
        short = self._probed.get(PROBES[0], 0.0)
        # The first probe has more to start than the second, which makes this too low, if anything.
        rate = max(1e-9, (seconds - short) / ((PROBES[1] - PROBES[0]) * batches))
        around = max(0.0, seconds - rate * PROBES[1] * batches)
        assert self._seconds is not None
        left = self._seconds / _TRIALS - around
        self.factor = float(f"{min(1.0, max(_LEAST, left / (rate * batches))):.3g}")

    def took(self, seconds: float) -> None:
        """Takes up how long a whole trial took."""
        self._whole.append(seconds)

    def late(self, elapsed: float) -> bool:
        """Whether no further trial should be begun: less than half of one is left.

        Args:
            elapsed: seconds since the search began.
        """
        if self._seconds is None:
            return False
        usual = median(self._whole) if self._whole else 0.0
        return elapsed >= self._seconds or bool(self._whole and elapsed + usual / 2 > self._seconds)

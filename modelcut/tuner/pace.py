"""How long trainings are where the time of a search is limited: several of them fill it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from modelcut.tuner.trial import batches_of

PROBES = (1, 60, 180)
"""Batches of the first training that are run to learn how long one takes; the first starts all."""
_TRIALS = 6
"""Trials that a worker should be able to do in the time: the ladder's, and some more."""
_ENOUGH = 16
"""Trials of a worker beyond which longer trainings are worth more than further ones."""
_MUCH = 1.2
_LEAST, _MOST = 1 / 30, 3.0
_CORRECTED = 4.0
"""Most by which the first trial lengthens the others: part of its training may have been kept."""


class Pace:
    """Multiplies the lengths of all trainings by one factor, so that a search fills its time.

    Trainings are shortened where fewer than `_TRIALS` trials would fit into it, and lengthened
    where more than `_ENOUGH` would, or more than were asked for.

    Attributes:
        factor: what the lengths of trainings are multiplied by; None as long as it is not known.
    """

    def __init__(self, seconds: float | None, trials: int, *, open_: bool) -> None:
        """Nothing is measured yet.

        Args:
            seconds: wall time of the search; None: no limit.
            trials: most that a worker is to do.
            open_: whether the lengths of trainings are the search's own choice: what a user wrote
                is left as it is.
        """
        self._seconds = seconds
        self._few, self._most = min(_TRIALS, trials), min(_ENOUGH, trials)
        self.factor = None if seconds is not None and open_ else 1.0
        self._probed: dict[int, float] = {}
        self._around = 0.0
        self._rough = False
        self._whole: list[float] = []

    def probes(self, recipe: Mapping[str, Any]) -> tuple[float, ...]:
        """Which fractions of a recipe's training are run before its whole."""
        batches = batches_of(recipe)
        if self.factor is not None or batches < 3 * PROBES[-1]:
            return ()
        return tuple(count / batches for count in PROBES)

    def learn(self, recipe: Mapping[str, Any], fraction: float, seconds: float) -> bool:
        """Takes up how long a probe took.

        Args:
            recipe: its recipe.
            fraction: of the training that was run.
            seconds: of the whole run.

        Returns:
            Whether the factor is known: it was the last one, or that would take longer than a
            trial should.
        """
        batches = batches_of(recipe)
        done = round(fraction * batches)
        self._probed[done] = seconds
        start, few, many = PROBES
        if done == start:
            return False
        before = few if done == many else start
        rate = max(1e-6, (seconds - self._probed.get(before, 0.0)) / (done - before))
        around = max(0.0, seconds - rate * done)
        assert self._seconds is not None
        if done != many and around + rate * many <= self._seconds / self._few:
            return False
        if self.factor is None:
            self._around = around
            self.factor = self._fitting(self._seconds, 0, rate * batches)
            # As long as a probe: its training is kept, and how long it takes is known.
            self._rough = round(self.factor * batches) not in self._probed
        return True

    def took(self, seconds: float, elapsed: float) -> None:
        """Takes up how long a whole trial took; the first corrects what the probes had told.

        Args:
            seconds: of the trial.
            elapsed: seconds since the search began.
        """
        self._whole.append(seconds)
        if self._rough and self._seconds is not None and self.factor is not None:
            self._rough = False
            whole = max(1e-6, seconds - self._around) / self.factor
            found = self._fitting(self._seconds - elapsed, 1, whole)
            self.factor = min(found, _bounded(_CORRECTED * self.factor))

    def _fitting(self, seconds: float, done: int, training: float) -> float:
        """The factor with which trials fill the time.

        Args:
            seconds: that are left.
            done: number of trials before.
            training: seconds that the trainings of a trial take as they are.
        """
        shortened, lengthened = (
            (seconds / max(1, count - done) - self._around) / training
            for count in (self._few, self._most)
        )
        return _bounded(max(min(shortened, 1.0), lengthened))

    def longer(self, factor: float) -> bool:
        """Whether trainings are much longer by now than those of this factor."""
        return self.factor is not None and self.factor > _MUCH * factor

    def late(self, elapsed: float, *, found: bool) -> bool:
        """Whether no further trial should be begun: less than half of one is left.

        Args:
            elapsed: seconds since the search began.
            found: whether any trial meets the limits; if none does, one more is worth the time.
        """
        if self._seconds is None:
            return False
        usual = median(self._whole) if self._whole and found else 0.0
        return elapsed >= self._seconds or elapsed + usual / 2 > self._seconds


def _bounded(factor: float) -> float:
    return float(f"{min(_MOST, max(_LEAST, factor)):.3g}")

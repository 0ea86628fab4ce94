"""The first trials: known points, then the boldest of a row of points whose limits hold.

Most of what a space varies goes together: who prunes more also takes fewer centroids, and trains
longer. Along that one line the boldest point within the limits is found by bisection, in the
logarithm of the number of points, before a sampler varies each value by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class First:
    """What is tried before a sampler is asked; points are values by parameter.

    Attributes:
        known: points that train nothing, tried in this order.
        ladder: from careful to bold; bisected.
        trials: of the ladder, at most.
        untrained: steps of a recipe that is outside the space and trains nothing; tried at the end
            where no other trial met the limits, such as when the time was too short to train.
        last: name of the parameter that is the length of the last of several trainings, a choice
            whose values ascend; "": there is none.
        note: what a user should know of the space.
    """

    known: tuple[Mapping[str, Any], ...] = ()
    ladder: tuple[Mapping[str, Any], ...] = ()
    trials: int = 5
    untrained: tuple[Mapping[str, Any], ...] = ()
    last: str = ""
    note: str = ""


class Ladder:
    """Divides a row of points until the boldest one that holds is found.

    One worker bisects it. Several try as many points at once, which divide what is left into equal
    parts: what they need not wait for is tried before it is known whether it is needed.
    """

    def __init__(
        self, points: Sequence[Mapping[str, Any]], trials: int, *, bold: bool, at_once: int = 1
    ) -> None:
        """Nothing is tried yet.

        Args:
            points: from careful to bold.
            trials: how many are tried at most.
            bold: whether the boldest point that holds is sought, or, where the limits are on the
                size and the quality is maximized, the most careful one.
            at_once: how many are tried at the same time.
        """
        self._points = points if bold else points[::-1]
        self._left = trials
        self._at_once = at_once
        self._open: set[int] = set()
        self._holds, self._fails = -1, len(points)

    def next(self) -> tuple[int, Mapping[str, Any]] | None:
        """The number of a rung and its point; None when there is nothing more to try."""
        inside = [rung for rung in sorted(self._open) if self._holds < rung < self._fails]
        edges = [self._holds, *inside, self._fails]
        # The widest gap; of equals, the careful one.
        gap, low = max((high - low, -low) for low, high in itertools.pairwise(edges))
        low = -low
        rung = low + gap // (max(1, self._at_once - len(inside)) + 1)
        if self._left <= 0 or gap < 2:
            return None
        rung = max(rung, low + 1)
        self._left -= 1
        self._open.add(rung)
        return rung, self._points[rung]

    def beyond(self, best: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A point a little bolder than the first that failed, and than the best one so far.

        Values of the best one may be bolder than those of a rung that failed, for layers differ and
        a training may hold what failed in another one by chance.

        Args:
            best: the best point, on the ladder or near it.
        """
        if not self._points:
            return None
        last = len(self._points) - 1
        found = {}
        for name, value in self._points[0].items():
            here = self._nearest(name, best.get(name, value))
            found[name] = self._points[min(max(self._fails + 1, here + 2), last)][name]
        return found

    def _nearest(self, name: str, value: float) -> int:
        """The rung whose value is nearest."""
        rungs = range(len(self._points))
        return min(rungs, key=lambda rung: abs(self._points[rung][name] - value))

    def forget(self, rung: int) -> None:
        """Takes a rung for one that was never tried."""
        self._open.discard(rung)
        self._left += 1

    def tell(self, rung: int, *, holds: bool) -> None:
        """What became of a rung; one that was tried by an earlier search counts, too."""
        if rung in self._open:
            self._open.remove(rung)
        else:
            self._left -= 1
        if holds:
            self._holds = max(self._holds, rung)
        else:
            self._fails = min(self._fails, rung)


def trials_for(points: int, trials: int, at_once: int) -> int:
    """How many trials a ladder takes, where one worker bisects it in `trials`.

    Args:
        points: number of its points.
        trials: of one worker.
        at_once: how many are tried at the same time.
    """
    if at_once == 1 or points < 1:
        return trials
    rounds = max(1, math.ceil(math.log(points + 1) / math.log(at_once + 1) - 1e-9))
    # Some are tried in vain: what was begun before them tells what they would have told.
    return min(points, at_once * rounds + at_once - 1)

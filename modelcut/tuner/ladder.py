"""The first trials: known points, then the boldest of a row of points whose limits hold.

Most of what a space varies goes together: who prunes more also takes fewer centroids, and trains
longer. Along that one line the boldest point within the limits is found by bisection, in the
logarithm of the number of points, before a sampler varies each value by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class First:
    """Points that are tried before a sampler is asked, as values by parameter.

    Attributes:
        known: tried in this order.
        ladder: from careful to bold; bisected.
        trials: of the ladder, at most.
    """

    known: tuple[Mapping[str, Any], ...] = ()
    ladder: tuple[Mapping[str, Any], ...] = ()
    trials: int = 4


class Ladder:
    """Bisects a row of points.

    What is still being tried counts as one that fails, so that several workers try several.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]], trials: int, *, bold: bool) -> None:
        """Nothing is tried yet.

        Args:
            points: from careful to bold.
            trials: how many are tried at most.
            bold: whether the boldest point that holds is sought, or, where the limits are on the
                size and the quality is maximized, the most careful one.
        """
        self._points = points if bold else points[::-1]
        self._left = trials
        self._open: set[int] = set()
        self._holds, self._fails = -1, len(points)

    def next(self) -> tuple[int, Mapping[str, Any]] | None:
        """The number of a rung and its point; None when there is nothing more to try."""
        fails = min([self._fails, *self._open])
        rung = (self._holds + fails) // 2
        if self._left <= 0 or rung <= self._holds or rung in self._open:
            return None
        self._left -= 1
        self._open.add(rung)
        return rung, self._points[rung]

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

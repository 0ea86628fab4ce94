"""Channels that become one: a union-find over their numbers; 0 stands for those that are kept."""

from __future__ import annotations

import numpy as np

from modelcut.graph.keras.channel_values import MAX_VALUES, Barrier

MAX_CHANNELS = 1 << 21
"""So many channels of all layers together are told apart."""


class Unions:
    """Channels by number, which of them are the same, and why some are kept."""

    def __init__(self, why: str) -> None:
        """Args: why: the reason for channel 0, where nothing better is known."""
        self._parent = [0]
        self._why: dict[int, str] = {0: why}
        # What was done with an array is not done again, and the array is held so that its id stays.
        self._pinned: dict[int, np.ndarray] = {}
        self._joined: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def new(self, count: int) -> np.ndarray:
        """Channels that have not been before."""
        first = len(self._parent)
        if count > MAX_VALUES or first + count > MAX_CHANNELS:
            raise Barrier("has too many channels")
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, one: int) -> int:
        """The number that stands for a channel and all that are the same."""
        parent = self._parent
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    def pin(self, ids: np.ndarray | None, why: str) -> None:
        """Keeps channels; the first reason counts."""
        if ids is None or id(ids) in self._pinned:
            return
        self._pinned[id(ids)] = ids
        for one in np.unique(ids).tolist():
            self._why.setdefault(self.find(one), why)

    def put_first(self, ids: np.ndarray, why: str) -> None:
        """Keeps channels for a reason that is told before any other."""
        for one in np.unique(ids).tolist():
            if one:
                self._why[self.find(one)] = why

    def join(self, one: np.ndarray, other: np.ndarray, why: str) -> None:
        """Makes channels the same, index by index; `why`: the reason, where that keeps them."""
        if one is other or (id(one), id(other)) in self._joined:
            return
        if one.size != other.size:
            raise Barrier("has channels that do not go together")
        self._joined[id(one), id(other)] = one, other
        count = len(self._parent)
        pairs = np.unique(one * count + other)
        for a, b in zip((pairs // count).tolist(), (pairs % count).tolist(), strict=True):
            first, second = sorted((self.find(a), self.find(b)))
            if first == second:
                continue
            # The reason that was found for a channel tells more than that of number 0.
            if second in self._why:
                if first and first not in self._why:
                    self._why[first] = self._why[second]
            elif first == 0:
                self._why.setdefault(second, why)
            if first:
                self._parent[second] = first

    def reason(self, one: int) -> str:
        """Why a channel is kept that is."""
        return self._why[self.find(one)]

    def final(self) -> np.ndarray:
        """For each number the one that stands for it, 0 for those that are kept; int64."""
        roots = np.array([self.find(one) for one in range(len(self._parent))])
        pinned = np.zeros(len(roots), bool)
        pinned[list(self._why)] = True
        return np.where(pinned[roots], 0, roots)

"""Channels that become one: a union-find over their numbers; 0 stands for those that are kept."""

from __future__ import annotations

import numpy as np

from modelcut.graph.keras.channel_values import MAX_VALUES, Barrier

MAX_CHANNELS = 1 << 24
"""So many channels of all layers together are told apart."""


class Unions:
    """Channels by number, which of them are the same, and why some are kept."""

    def __init__(self, why: str) -> None:
        """Args: why: the reason for channel 0, where nothing better is known."""
        self._parent = [0]
        self._why: dict[int, str] = {0: why}

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
        for one in np.unique(ids).tolist() if ids is not None else ():
            self._why.setdefault(self.find(one), why)

    def put_first(self, ids: np.ndarray, why: str) -> None:
        """Keeps channels for a reason that is told before any other."""
        for one in np.unique(ids).tolist():
            if one:
                self._why[self.find(one)] = why

    def join(self, one: np.ndarray, other: np.ndarray, why: str) -> None:
        """Makes channels the same, index by index; `why`: the reason, where that keeps them."""
        if one is other:
            return
        if one.size != other.size:
            raise Barrier("has channels that do not go together")
        pairs = np.unique(np.stack([one, other], axis=1), axis=0) if one.size > 64 else None
        rows = zip(one.tolist(), other.tolist(), strict=True) if pairs is None else pairs.tolist()
        for a, b in rows:
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

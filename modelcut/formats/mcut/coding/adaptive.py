"""The symbol at each position: row by row, under counts that adapt.

On their own, in the context of the nearest neighbour, or in that of the column's balance.
"""

from __future__ import annotations

import numpy as np

from modelcut.formats.mcut.coding import fixed

ALONE, NEIGHBOUR, BALANCE = range(3)
"""The ways."""

MOST_KINDS = 32
"""Of symbols that are coded in contexts."""


class Values:
    """The symbols at the positions, row by row, under counts that adapt.

    Attributes:
        seen: symbol + 1 where one is known, 0 elsewhere; shape (height, width).
    """

    trust = 8
    """How many symbols of a context the counts of all weigh."""

    def __init__(self, shape: tuple[int, int], kinds: int, lag: int, way: int) -> None:
        self.kinds, self.lag, self.way = kinds, lag, way
        self.seen = np.zeros(shape, np.uint16)
        self.all = np.zeros(kinds, np.int64)
        contexts = {ALONE: 0, NEIGHBOUR: kinds + 1, BALANCE: 5}[way]
        self.own = np.zeros((contexts, kinds), np.int64)
        self.high = np.zeros(shape[1], np.int32)
        self.count = np.zeros(shape[1], np.int32)
        self.row = 0

    def frequencies(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Of this row: a table of frequencies, and which line of it each column follows.

        Args:
            columns: int64, shape (m,), ascending.

        Returns:
            int64, shape (kinds,), and None; or shape (contexts, kinds), and shape (m,).
        """
        frequencies = (2 * self.all + 1) * fixed.TOTAL // (2 * int(self.all.sum()) + self.kinds)
        frequencies = fixed.filled(np.maximum(frequencies, 1))
        if self.way == ALONE:
            return frequencies, None
        total = self.own.sum(axis=1, keepdims=True) + self.trust
        table = (self.own * fixed.TOTAL + self.trust * frequencies) // total
        table = fixed.filled(np.maximum(table, 1))
        return table, self._neighbours(columns) if self.way == NEIGHBOUR else self._sides(columns)

    def _neighbours(self, columns: np.ndarray) -> np.ndarray:
        found = np.zeros(columns.size, np.uint16)
        for back in (1, self.lag, self.lag - 1, self.lag + 1, 2):
            if 0 < back <= self.row and (self.lag or back <= 2):
                found = np.where(found, found, self.seen[self.row - back, columns])
        return found

    def _sides(self, columns: np.ndarray) -> np.ndarray:
        high, count = self.high[columns], self.count[columns] + 2
        return np.minimum((2 * high + 2) * 5 // (2 * count), 4)

    def add(self, columns: np.ndarray, values: np.ndarray, lines: np.ndarray | None) -> None:
        """Advances to the next row."""
        self.seen[self.row, columns] = values + 1
        self.all += np.bincount(values, minlength=self.kinds)
        if lines is not None:
            both = lines.astype(np.int64) * self.kinds + values
            self.own += np.bincount(both, minlength=self.own.size).reshape(self.own.shape)
        self.high[columns] += values >= self.kinds // 2
        self.count[columns] += 1
        self.row += 1


def rows_of(
    values: np.ndarray, kept: np.ndarray, kinds: int, lag: int, way: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """The symbols at the positions, row by row, with their models and their bits."""
    if kinds < 2:
        return [], 0.0
    model = Values(kept.shape, kinds, lag, way)
    parts, bits = [], 0.0
    for row in range(kept.shape[0]):
        columns = np.flatnonzero(kept[row])
        if not columns.size:
            model.row += 1
            continue
        own = values[row, columns].astype(np.int32)
        table, lines = model.frequencies(columns)
        if lines is not None:
            table = table[lines]
            hit = table[np.arange(own.size), own]
        else:
            hit = table[own]
        bits += float((np.log2(fixed.TOTAL) - np.log2(hit)).sum())
        parts.append((own, table))
        model.add(columns, own, lines)
    return parts, bits

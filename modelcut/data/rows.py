"""Training rows: kept in memory where they fit, else streamed and shuffled in a bounded buffer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from modelcut.data._spill import Spill
from modelcut.errors import InputError

if TYPE_CHECKING:  # a step that speaks of rows only, and its --help, need no CSV reader
    from modelcut.data.csv import Batch, Csv

Part = Literal["all", "train", "validation"]
_CHUNK_VALUES = 1 << 21


@dataclass(frozen=True)
class Rows:
    """Some rows, as the network takes them.

    Attributes:
        inputs: an array for each input of the network, in its order, (rows, …).
        labels: an array for each output, decoded as `metrics.labels_for` does: int64 (rows,) for
            classes, int64 (rows, units) for several labels, float64 (rows, units) for numbers.
            None where the CSV has no labels.
    """

    inputs: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...] | None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, index: slice | np.ndarray) -> Rows:
        labels = None if self.labels is None else tuple(part[index] for part in self.labels)
        return Rows(tuple(part[index] for part in self.inputs), labels)

    def put(self, index: slice | np.ndarray, rows: Rows) -> None:
        """Overwrites some rows."""
        mine, theirs = (*self.inputs, *(self.labels or ())), (*rows.inputs, *(rows.labels or ()))
        for part, other in zip(mine, theirs, strict=True):
            part[index] = other

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(part.nbytes for part in (*self.inputs, *(self.labels or ())))


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part.inputs for part in parts), strict=True)
    labels = None
    if parts[0].labels is not None:
        pairs = zip(*(part.labels or () for part in parts), strict=True)
        labels = tuple(np.concatenate(column) for column in pairs)
    return Rows(tuple(np.concatenate(column) for column in columns), labels)


class RowStore:
    """The rows of one CSV for one network."""

    def __init__(
        self,
        table: Csv,
        decode: Callable[[Batch], Rows],
        *,
        seed: int = 0,
        memory: int | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            table: the CSV, bound to the network's inputs.
            decode: makes arrays and labels of a batch.
            seed: which rows are set aside for validation.
            memory: bytes of rows that may be kept, and of the buffer that shuffles beyond it.
        """
        self._table = table
        self._decode = decode
        self._seed = seed
        self._memory = _default_memory() if memory is None else memory
        self._kept: Rows | None = None
        self._spill: Spill | None = None
        self._read = False
        width = len(table.columns.order())
        self._chunk = int(np.clip(_CHUNK_VALUES // max(1, width), 1, 4096))

    @property
    def in_memory(self) -> bool:
        """Whether the rows, once read, all fit."""
        return self._kept is not None

    @property
    def in_file(self) -> bool:
        """Whether the rows, once read, are in a scratch file."""
        return self._spill is not None

    def batches(
        self, size: int, *, part: Part = "all", share: float = 0.0, shuffle: int = -1
    ) -> Iterator[Rows]:
        """Rows in batches of `size` (the last may be smaller); see `lab.Lab.rows`."""
        self._fill()
        found = False
        kept = self._kept
        if kept is not None:
            index = self._order(len(kept), part, share, shuffle)
            for start in range(0, len(index), size):
                found = True
                yield kept[index[start : start + size]]
        else:
            for rows in _cut(self._streamed(part, share, shuffle, size), size):
                found = True
                yield rows
        if not found:
            what = "validation" if part == "validation" else "training"
            raise InputError(
                f"{self._table.path}: no rows are left for {what}", "give more rows, or no share"
            )

    def _fill(self) -> None:
        """Keeps all rows in memory if they fit, else in a scratch file if that has room; once."""
        if self._read:
            return
        parts: list[Rows] = []
        have = 0
        spill: Spill | None = None
        for rows in self._parsed():
            have += rows.nbytes
            if spill is None and have * 2 <= self._memory:  # joining them needs as much again
                parts.append(rows)
                continue
            fresh = [rows]
            if spill is None:
                spill, fresh = Spill(), [*parts, rows]
                parts.clear()
            if not all(map(spill.add, fresh)):
                spill.close()
                spill = None
                break
        self._kept = joined(parts) if parts else None
        self._spill = spill
        self._read = True

    def _chunks(self) -> Iterator[Rows]:
        return self._parsed() if self._spill is None else iter(self._spill)

    def _parsed(self) -> Iterator[Rows]:
        for batch in self._table.batches(self._chunk):
            yield self._decode(batch)

    def _order(self, count: int, part: Part, share: float, shuffle: int) -> np.ndarray:
        index = np.flatnonzero(self._chosen(0, count, part, share))
        if shuffle >= 0:
            np.random.default_rng([self._seed, shuffle]).shuffle(index)
        return index

    def _chosen(self, start: int, count: int, part: Part, share: float) -> np.ndarray:
        """Which of the rows from number `start` on belong to a part."""
        if part == "all" or share <= 0:
            return np.full(count, part != "validation")
        aside = _hash(np.arange(start, start + count, dtype=np.uint64), self._seed) < share
        return aside if part == "validation" else ~aside

    def _streamed(self, part: Part, share: float, shuffle: int, size: int) -> Iterator[Rows]:
        """Chunks of a part; shuffled, if so wished."""
        chunks = self._of(part, share)
        if shuffle < 0:
            return chunks
        rng = np.random.default_rng([self._seed, shuffle])
        return _mixed(chunks, self._memory // 2, 2 * size, rng)

    def _of(self, part: Part, share: float) -> Iterator[Rows]:
        start = 0
        for rows in self._chunks():
            chosen = self._chosen(start, len(rows), part, share)
            start += len(rows)
            yield rows if chosen.all() else rows[chosen]


def _mixed(
    chunks: Iterator[Rows], memory: int, least: int, rng: np.random.Generator
) -> Iterator[Rows]:
    """Rows in random order, as far as a full buffer can bring it about.

    Each row that comes takes the place of one that is drawn from the buffer and goes on.

    Args:
        chunks: the rows.
        memory: bytes of the buffer.
        least: rows that it has at least.
        rng: draws.
    """
    buffer: Rows | None = None
    have = length = 0
    for rows in chunks:
        if not len(rows):
            continue
        length = max(length, len(rows))
        if buffer is None:
            capacity = max(least, len(rows), memory // max(1, rows.nbytes // len(rows)))
            buffer = _room(rows, capacity)
        fits = min(len(rows), len(buffer) - have)
        buffer.put(slice(have, have + fits), rows[:fits])
        have += fits
        if fits < len(rows):
            places = rng.choice(have, len(rows) - fits, replace=False)
            drawn = buffer[places]
            buffer.put(places, rows[fits:])
            yield drawn
    if buffer is not None:
        order = rng.permutation(have)
        for start in range(0, have, length):
            yield buffer[order[start : start + length]]


def _room(like: Rows, count: int) -> Rows:
    """Rows of the same kind that hold nothing yet."""
    inputs, labels = (
        None if parts is None else tuple(np.empty((count, *p.shape[1:]), p.dtype) for p in parts)
        for parts in (like.inputs, like.labels)
    )
    assert inputs is not None
    return Rows(inputs, labels)


def _cut(chunks: Iterator[Rows], size: int) -> Iterator[Rows]:
    """Chunks of any length as batches of one."""
    waiting: list[Rows] = []
    have = 0
    for chunk in chunks:
        if not len(chunk):
            continue
        waiting.append(chunk)
        have += len(chunk)
        if have < size:
            continue
        rows = joined(waiting)
        for start in range(0, have - size + 1, size):
            yield rows[start : start + size]
        rest = have % size
        waiting = [rows[have - rest :]] if rest else []
        have = rest
    if have:
        yield joined(waiting)


def _hash(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A share in [0, 1) for each number, the same wherever it is computed (splitmix64)."""
    with np.errstate(over="ignore"):
        z = numbers + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _default_memory() -> int:
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        physical = 4 << 30
    return int(min(4 << 30, physical // 8))

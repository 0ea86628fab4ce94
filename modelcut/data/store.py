"""The samples of one source for one network: in memory, or streamed and shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modelcut.data._spill import Spill
from modelcut.errors import InputError

if TYPE_CHECKING:  # a step that speaks of rows only, and its --help, need no CSV reader
    from modelcut.data.table import Batch, Table
from modelcut.data.rows import (
    _CHUNK_VALUES,
    Part,
    Rows,
    _cut,
    _default_memory,
    _hash,
    _mixed,
    joined,
)

Teach = Callable[[Rows], Sequence[np.ndarray]]
_TAUGHT = 128
"""Rows that a teacher is run on at a time."""


class RowStore:
    """The rows of one CSV for one network."""

    def __init__(
        self,
        table: Table,
        decode: Callable[[Batch], Rows],
        *,
        seed: int = 0,
        memory: int | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            table: the CSV, bound to the network's inputs.
            decode: makes arrays and labels of a batch.
            seed: seed that selects the samples set aside for validation.
            memory: bytes of rows that may be kept, and of the buffer that shuffles beyond it.
        """
        self._table = table
        self._decode = decode
        self._seed = seed
        self._memory = _default_memory() if memory is None else memory
        self._kept: Rows | None = None
        self._spill: Spill | None = None
        self._read = False
        self._teacher: Teach | None = None
        self._outputs: tuple[np.ndarray, ...] | None = None
        width = table.width
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
        self,
        size: int,
        *,
        part: Part = "all",
        share: float = 0.0,
        shuffle: int = -1,
        teach: Teach | None = None,
    ) -> Iterator[Rows]:
        """Rows in batches of `size` (the last may be smaller); see `runtime.Runtime.rows`.

        `teach` gives `Rows.taught` of a batch. It is asked once for each of the rows, and only
        where these and what it gives fit into memory.
        """
        self._fill()
        found = False
        kept = self._kept
        if kept is not None:
            kept = replace(kept, taught=self._taught(kept, teach) if teach else None)
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
                f"{self._table.path}: no samples are left for {what}",
                "give more samples, or a smaller fraction",
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

    def _taught(self, kept: Rows, teach: Teach) -> tuple[np.ndarray, ...] | None:
        """What a teacher gives for all rows, in batches that are the same whatever is trained."""
        if self._teacher != teach:
            first, outputs = teach(kept[:_TAUGHT]), None
            sizes = [len(kept) * part.nbytes // len(part) for part in first]
            if kept.nbytes + sum(sizes) <= self._memory:
                outputs = tuple(
                    np.empty((len(kept), *part.shape[1:]), part.dtype) for part in first
                )
                for start in range(0, len(kept), _TAUGHT):
                    rows = slice(start, start + _TAUGHT)
                    parts = teach(kept[rows]) if start else first
                    for whole, part in zip(outputs, parts, strict=True):
                        whole[rows] = part
            # Not before: what was interrupted is done again.
            self._teacher, self._outputs = teach, outputs
        return self._outputs

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

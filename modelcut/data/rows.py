"""Training rows: kept in memory where they fit, else streamed and shuffled in a bounded buffer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from modelcut.errors import UsageError

Part = Literal["all", "train", "validation", "calibration"]


_CHUNK_VALUES = 1 << 21

T = TypeVar("T")


def with_labels(labels: T | None, source: object) -> T:
    """The labels of a CSV, for work that cannot be done without.

    Args:
        labels: the labels, or the label columns; None: the CSV has none.
        source: the CSV as a message names it.

    Raises:
        UsageError: there are none.
    """
    if labels is None:
        raise UsageError(f"{source}: has no labels", "--label names the column or array of labels")
    return labels


@dataclass(frozen=True)
class Rows:
    """Some rows, as the network takes them.

    Attributes:
        inputs: an array for each input of the network, in its order, (rows, …).
        labels: an array for each output, decoded as `metrics.labels_for` does: int64 (rows,) for
            classes, int64 (rows, units) for several labels, float64 (rows, units) for numbers.
            None where the CSV has no labels.
        taught: what a teacher gives for each output, float32 (rows, units), logits of decisions;
            None where it was not computed beforehand.
    """

    inputs: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...] | None
    taught: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, index: slice | np.ndarray) -> Rows:
        labels, taught = (
            None if parts is None else tuple(part[index] for part in parts)
            for parts in (self.labels, self.taught)
        )
        return Rows(tuple(part[index] for part in self.inputs), labels, taught)

    def put(self, index: slice | np.ndarray, rows: Rows) -> None:
        """Overwrites some rows."""
        mine, theirs = (*self.inputs, *(self.labels or ())), (*rows.inputs, *(rows.labels or ()))
        for part, other in zip(mine, theirs, strict=True):
            part[index] = other

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = (*self.inputs, *(self.labels or ()), *(self.taught or ()))
        return sum(part.nbytes for part in parts)


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


def _mixed(
    chunks: Iterator[Rows], memory: int, least: int, rng: np.random.Generator
) -> Iterator[Rows]:
    """Rows in random order, as far as a full buffer can bring it about.

    Each row that comes takes the place of one that is drawn from the buffer and goes on.

    Args:
        chunks: the samples, in chunks.
        memory: maximum size of the buffer in bytes.
        least: minimum number of samples in the buffer.
        rng: random generator that the samples are drawn with.
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

"""Two CSVs of one: the samples for training, and those on which choices are judged."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modelcut.data.csv import Csv
from modelcut.data.parquet import Parquet
from modelcut.data.source import lines
from modelcut.data.table import Table
from modelcut.errors import InputError, UsageError

_MOST_CLASSES = 1000
"""More distinct labels than this are numbers, not classes."""


def split(
    table: Table, fraction: float, seed: int, train: Path, validation: Path
) -> tuple[int, int]:
    """Writes the rows of a CSV to two others; each class has the same fraction in both.

    Args:
        table: the CSV, bound to a network's inputs.
        fraction: fraction of the samples that is set aside for validation, 0 to 1.
        seed: seed of the choice.
        train: path of the CSV for training; written.
        validation: path of the CSV for validation; written.

    Returns:
        Numbers of samples in the two.

    Raises:
        UsageError: it is no CSV.
        InputError: one of the two would have no samples.
    """
    if not isinstance(table, Csv) or isinstance(table, Parquet):
        raise UsageError(
            f"{table.path}: only a CSV is split into training and validation samples",
            "give the others with --validate",
        )
    labels = [] if table.columns.reconstructs else table.columns.labels
    counts: Counter[tuple[str, ...]] = Counter()
    for row in _rows(table):
        counts[_label(row, labels)] += 1
        if len(counts) > _MOST_CLASSES:
            labels, counts = [], Counter()
            break
    if not labels:
        counts = Counter({(): sum(1 for _ in _rows(table))})
    rng = np.random.default_rng(seed)
    # Of each class the first to be written are no better than the others: a random order.
    aside = {
        label: np.isin(np.arange(count), rng.permutation(count)[: round(count * fraction)])
        for label, count in sorted(counts.items())
    }
    seen: Counter[tuple[str, ...]] = Counter()
    sizes = [0, 0]
    with (
        train.open("w", encoding="utf-8", newline="") as one,
        validation.open("w", encoding="utf-8", newline="") as two,
    ):
        dialect = table.columns.dialect
        writers = [
            csv.writer(file, delimiter=dialect.delimiter, lineterminator="\n")
            for file in (one, two)
        ]
        if dialect.header:
            for writer in writers:
                writer.writerow(dialect.first)
        for row in _rows(table):
            label = _label(row, labels)
            index = int(aside[label][seen[label]])
            seen[label] += 1
            sizes[index] += 1
            writers[index].writerow(row)
    for size, what in zip(sizes, ("training", "validation"), strict=True):
        if not size:
            raise InputError(
                f"{table.path}: {sum(sizes)} samples cannot be split: none is left for {what}",
                "give more samples, or --validate FILE.csv",
            )
    return sizes[0], sizes[1]


def _rows(table: Csv) -> Iterator[list[str]]:
    """The rows of data, as cells."""
    dialect = table.columns.dialect
    for number, (_, row) in enumerate(lines(table.path, dialect.delimiter)):
        if number or not dialect.header:
            yield row


def _label(row: list[str], labels: list[int]) -> tuple[str, ...]:
    return tuple(row[column].strip() for column in labels if column < len(row))

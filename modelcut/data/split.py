"""Two sources of samples made of one: for training, and those on which choices are judged.

Each has the form of the original: a CSV, arrays, Parquet, or a folder of images by class.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.arrays import Arrays, load
from modelcut.data.csv import Csv
from modelcut.data.dialect import CsvDialect
from modelcut.data.images import Images
from modelcut.data.parquet import Parquet
from modelcut.data.source import lines
from modelcut.data.table import Table
from modelcut.errors import InputError, UsageError

_MOST_CLASSES = 1000
"""More distinct labels than this are numbers, not classes."""
_ROWS = 4096


def split_paths(source: Path, folder: Path) -> tuple[Path, Path]:
    """Where the samples for training and those for validation are written."""
    suffix = source.suffix.lower()
    if source.is_dir():
        suffix = ""
    elif suffix not in (".npz", ".npy", ".parquet"):
        suffix = ".csv"
    return folder / f"train{suffix}", folder / f"validation{suffix}"


def split(table: Table, fraction: float, seed: int, folder: Path) -> tuple[Path, Path]:
    """Writes the samples of a source to two others; each class has the same fraction in both.

    Args:
        table: the source, bound to a network's inputs.
        fraction: fraction of the samples that is set aside for validation, 0 to 1.
        seed: seed of the choice.
        folder: where they are written; images are linked to, not copied.

    Returns:
        Paths of the samples for training and of those for validation.

    Raises:
        UsageError: samples of this kind cannot be split.
        InputError: one of the two would have no samples, or none of a class that is a folder.
    """
    drafts = folder / "split.part"
    shutil.rmtree(drafts, ignore_errors=True)
    drafts.mkdir()
    made = split_paths(table.path, drafts)
    if isinstance(table, Parquet):
        _parquet(table, fraction, seed, made)
    elif isinstance(table, Csv):
        _csv(table, fraction, seed, made)
    elif isinstance(table, Arrays):
        _arrays(table, fraction, seed, made)
    elif isinstance(table, Images):
        _images(table, fraction, seed, made)
    else:
        raise UsageError(
            f"{table.path}: samples of this kind are not split for training and validation",
            "give the others with --validate",
        )
    paths = split_paths(table.path, folder)
    for draft, path in zip(made, paths, strict=True):
        draft.replace(path)
    drafts.rmdir()
    return paths


def aside(
    labels: Iterable[Hashable], fraction: float, seed: int, path: Path, *, least: int = 0
) -> np.ndarray:
    """Which samples are set aside for validation: bool (samples,).

    Args:
        labels: the class of each sample.
        fraction: fraction of each class that is set aside; of classes of which it would be none,
            the fraction of all of them together.
        seed: seed of the choice.
        path: of the samples, for messages.
        least: so many of each class are in both parts at least.

    Raises:
        InputError: one of the parts would have no samples, or too few of a class.
    """
    numbers: dict[Hashable, int] = {}
    found = np.fromiter((numbers.setdefault(label, len(numbers)) for label in labels), np.int64)
    if len(numbers) > _MOST_CLASSES:
        found, numbers = np.zeros(len(found), np.int64), {(): 0}
    names = sorted(numbers, key=str)
    groups = [np.flatnonzero(found == numbers[name]) for name in names]
    for name, group in zip(names, groups, strict=True):
        if len(group) < 2 * least:
            raise InputError(
                f"{path}: class {name} has {len(group)} sample, too few to set some aside",
                "give more samples, or others with --validate",
            )
    if not least:
        # Labels so rare that none would be set aside, such as most numbers, are one group.
        rare = [not round(len(group) * fraction) for group in groups]
        pool = [group for group, few in zip(groups, rare, strict=True) if few]
        groups = [group for group, few in zip(groups, rare, strict=True) if not few]
        groups += [np.sort(np.concatenate(pool))] if pool else []
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(found), bool)
    for group in groups:
        # Of each class the first to be written are no better than the others: a random order.
        order = rng.permutation(len(group))
        count = min(max(round(len(group) * fraction), least), len(group) - least)
        chosen[group[order[:count]]] = True
    for size, what in ((int((~chosen).sum()), "training"), (int(chosen.sum()), "validation")):
        if not size:
            raise InputError(
                f"{path}: {len(found)} samples cannot be split: none is left for {what}",
                "give more samples, or others with --validate",
            )
    return chosen


def _csv(table: Csv, fraction: float, seed: int, made: tuple[Path, Path]) -> None:
    dialect = table.columns.dialect
    labels = [] if table.reconstructs else table.columns.labels
    chosen = aside(
        (_cells(row, labels) for row in _rows(table.path, dialect)), fraction, seed, table.path
    )
    _write(_rows(table.path, dialect), dialect, chosen, made)


def _images(table: Images, fraction: float, seed: int, made: tuple[Path, Path]) -> None:
    """Links to the files of a folder, or the rows of a CSV with whole paths in them."""
    if table.path.is_dir():
        found = [(path, str(label[0]) if table.own else "") for path, label in table.rows()]
        kinds = [path.relative_to(table.path).parts[0] for path, _ in found]
        chosen = aside(kinds, fraction, seed, table.path, least=1)
        for (path, _), index in zip(found, chosen, strict=True):
            place = made[int(index)] / path.relative_to(table.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), place)
        return
    dialect = CsvDialect.of(table.path, table.options)
    labels = [dialect.first.index(name) for name in table.own if name in dialect.first]
    column = dialect.first.index(str(table.options.images))
    chosen = aside(
        (_cells(row, labels) for row in _rows(table.path, dialect)), fraction, seed, table.path
    )
    whole = (
        [
            str((table.path.parent / cell.strip()).resolve()) if at == column else cell
            for at, cell in enumerate(row)
        ]
        for row in _rows(table.path, dialect)
    )
    _write(whole, dialect, chosen, made)


def _parquet(table: Parquet, fraction: float, seed: int, made: tuple[Path, Path]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [] if table.reconstructs else [table.columns.names[at] for at in table.columns.labels]
    with pq.ParquetFile(table.path) as file:
        rows = file.metadata.num_rows

        def labels() -> Iterator[Hashable]:
            for batch in file.iter_batches(_ROWS, columns=names):
                yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)

        chosen = aside(labels() if names else [()] * rows, fraction, seed, table.path)
        with (
            pq.ParquetWriter(made[0], file.schema_arrow) as one,
            pq.ParquetWriter(made[1], file.schema_arrow) as two,
        ):
            start = 0
            for batch in file.iter_batches(_ROWS):
                part = chosen[start : start + batch.num_rows]
                start += batch.num_rows
                one.write_batch(batch.filter(pa.array(~part)))
                two.write_batch(batch.filter(pa.array(part)))


def _arrays(table: Arrays, fraction: float, seed: int, made: tuple[Path, Path]) -> None:
    count = len(next(iter(table.arrays.values())))
    labels: Iterable[Hashable] = [()] * count
    if table.truth and not table.reconstructs:
        labels = zip(*(map(tuple, values.tolist()) for values in table.truth), strict=True)
    chosen = aside(labels, fraction, seed, table.path)
    found = load(table.path)
    for path, kept in zip(made, (~chosen, chosen), strict=True):
        if path.suffix == ".npy":
            np.save(path, found["x"][kept])
            continue
        parts: dict[str, Any] = {
            # What is no array of samples, such as names of classes, stays as it is.
            name: values[kept] if values.ndim and len(values) == count else values
            for name, values in found.items()
        }
        np.savez(path, **parts)


def _rows(path: Path, dialect: CsvDialect) -> Iterator[list[str]]:
    """The rows of data, as cells."""
    for number, (_, row) in enumerate(lines(path, dialect.delimiter)):
        if number or not dialect.header:
            yield row


def _cells(row: list[str], columns: list[int]) -> tuple[str, ...]:
    return tuple(row[column].strip() for column in columns if column < len(row))


def _write(
    rows: Iterable[list[str]], dialect: CsvDialect, chosen: np.ndarray, made: tuple[Path, Path]
) -> None:
    with (
        made[0].open("w", encoding="utf-8", newline="") as one,
        made[1].open("w", encoding="utf-8", newline="") as two,
    ):
        writers = [
            csv.writer(file, delimiter=dialect.delimiter, lineterminator="\n")
            for file in (one, two)
        ]
        if dialect.header:
            for writer in writers:
                writer.writerow(dialect.first)
        for row, index in zip(rows, chosen, strict=True):
            writers[int(index)].writerow(row)

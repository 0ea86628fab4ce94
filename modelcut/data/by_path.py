"""Samples that are files: paths in a column of a CSV, or a folder with a folder for each class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.columns import INPUT, Columns
from modelcut.data.csv import Csv
from modelcut.data.dialect import CsvDialect
from modelcut.data.options import DataOptions, InputSpec
from modelcut.data.table import Batch, Cleaning, Table
from modelcut.errors import InputError, UsageError
from modelcut.safety import printable

MOST_VALUES = 64 << 20
"""Values of a file, or pixels of an image, that are read into memory."""

_BLOCK = 256

Rows = Callable[[], Iterator[tuple[Path, Any]]]
"""Gives the path of each sample, and its labels or None."""


class NotFiniteError(InputError):
    """A file holds NaN, infinity, or what its input's dtype has no number for."""


@dataclass
class FilesTable(Table):
    """A file for each sample of a model's only input; see `table.Table`.

    Attributes:
        spec: the model's input.
        rows: gives the path and the labels of each sample.
        own: names of the label columns.
    """

    path: Path
    options: DataOptions
    spec: InputSpec
    rows: Rows
    own: list[str]
    cleaning: Cleaning = field(default_factory=Cleaning)
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [*self.own, *("value" for _ in range(self.width))]

    @property
    def labels(self) -> list[int]:
        if self.reconstructs:
            return self.features[self.spec.name]
        return list(range(len(self.own)))

    @property
    def features(self) -> dict[str, list[int]]:
        start = len(self.own)
        return {self.spec.name: list(range(start, start + prod(n or 1 for n in self.spec.shape)))}

    @property
    def reconstructs(self) -> bool:
        return self.options.label == INPUT

    def batches(self, size: int) -> Iterator[Batch]:
        self.cleaning = Cleaning()
        samples = islice(self.rows(), self.options.limit)
        while block := list(islice(samples, min(size, _BLOCK))):
            parts, labels = [], []
            for path, label in block:
                self.cleaning.rows_read += 1
                try:
                    parts.append(self.decoded(path))
                except InputError as error:
                    if self.options.clean == "fail":
                        raise
                    if isinstance(error, NotFiniteError):
                        self.cleaning.dropped_nonfinite += 1
                    else:
                        self.cleaning.dropped_unreadable += 1
                    continue
                labels.append(label)
            self.cleaning.rows_used += len(parts)
            if parts:
                yield self._batch(np.stack(parts), labels)
        if not self.cleaning.rows_used:
            raise InputError(f"{self.path}: no usable files are left")

    @abstractmethod
    def decoded(self, path: Path) -> np.ndarray:
        """The values of a file, in one shape for all files.

        Raises:
            InputError: it is damaged, too large, or does not fit the input.
        """

    def preprocessed(self, values: np.ndarray) -> np.ndarray:
        """What is done with a batch before `scale`."""
        return values

    def _batch(self, parts: np.ndarray, labels: list[Any]) -> Batch:
        values = self.preprocessed(parts)
        if self.options.scale is not None:
            values = values * np.float32(self.options.scale)
        dtype = "float32" if self.spec.dtype == "bfloat16" else self.spec.dtype
        inputs = {self.spec.name: np.ascontiguousarray(values.astype(dtype))}
        if self.reconstructs:
            return Batch(inputs, values.reshape(len(values), -1).astype(np.float64))
        if not self.own:
            return Batch(inputs, None)
        table = np.stack([np.atleast_1d(np.asarray(label)) for label in labels])
        return Batch(inputs, table if table.dtype == object else table.astype(np.float64))


def only_input(path: Path, what: str, inputs: Sequence[InputSpec]) -> InputSpec:
    """The model's input, if it has one, of numbers.

    Raises:
        InputError: it has several, or takes text.
    """
    if len(inputs) != 1 or inputs[0].dtype == "string":
        kinds = ", ".join(printable(f"{spec.name} ({spec.dtype})", 60) for spec in inputs)
        raise InputError(f"{path}: {what} are for a model with one input of numbers, not {kinds}")
    return inputs[0]


def check_cleaning(options: DataOptions, what: str) -> None:
    """Refuses options that are for tables of numbers.

    Raises:
        UsageError: with the option.
    """
    for name, plain in (("outliers", ("keep",)), ("clean", ("fail", "drop"))):
        if getattr(options, name) not in plain:
            raise UsageError(
                f"--{name} {getattr(options, name)}: is for tables, not for {what}", "leave it out"
            )


def of_folder(
    path: Path, options: DataOptions, suffixes: tuple[str, ...], *, labelled: bool
) -> tuple[DataOptions, Rows, list[str]]:
    """The samples of a folder of folders, one for each class.

    Returns:
        The options with the names of the classes, the samples, and the names of the label columns.

    Raises:
        InputError: there are none.
    """
    folders = sorted(part for part in path.iterdir() if part.is_dir())
    files = {folder: sorted(_files(folder, suffixes)) for folder in folders}
    files = {folder: found for folder, found in files.items() if found}
    if not files:
        raise InputError(
            f"{path}: holds no folders with such files",
            f"known: {' '.join(suffixes)}, in class folders",
        )
    names = [folder.name for folder in files]
    if options.classes is None and labelled and options.label is None:
        options = replace_options(options, classes=names)

    def rows() -> Iterator[tuple[Path, Any]]:
        # One of each class in turn: a limit, and the first batches, see all of them.
        columns = [[(file, folder.name) for file in found] for folder, found in files.items()]
        for at in range(max(map(len, columns))):
            for column in columns:
                if at < len(column):
                    file, name = column[at]
                    yield file, np.array([name], object)

    return options, rows, ["class"] if labelled and options.label != INPUT else []


def of_column(
    path: Path, options: DataOptions, field: str, *, labelled: bool
) -> tuple[Rows, list[str], list[str]]:
    """The samples that a column of a CSV names.

    Args:
        path: the CSV.
        options: how it is read.
        field: the option that names the column.
        labelled: whether labels are read.

    Returns:
        The samples, the names of the label columns, and notes on how the CSV is read.

    Raises:
        InputError: it has no header.
        UsageError: it has no such column.
    """
    wanted = getattr(options, field)
    dialect = CsvDialect.of(path, options)
    if not dialect.header:
        raise InputError(f"{path}: --{field} names a column, and the file has no header")
    if wanted not in dialect.first:
        raise UsageError(
            f"{path}: has no column {printable(str(wanted), 40)!r}",
            f"its columns: {printable(', '.join(dialect.first[:12]), 200)}",
        )
    # The column of paths is read as an input of text; all other columns but labels are left out.
    text = InputSpec("path", (1,), "string")
    inner = replace_options(options, **{field: None}, scale=None, inputs={"path": [wanted]})
    columns = Columns.join(path, inner, [text], labelled=labelled)
    table = Csv(columns)

    def rows() -> Iterator[tuple[Path, Any]]:
        for batch in table.batches(1024):
            for index, name in enumerate(batch.inputs["path"].reshape(-1)):
                label = None if batch.labels is None else batch.labels[index]
                yield path.parent / str(name), label

    own = [] if table.reconstructs else [columns.names[index] for index in columns.labels]
    return rows, own, [*dialect.notes, *columns.notes]


def replace_options(options: DataOptions, **fields: Any) -> DataOptions:
    """The options with some fields replaced."""
    return options.model_copy(update=fields)


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    for part in folder.rglob("*"):
        if part.suffix.lower() in suffixes and part.is_file():
            yield part

"""Rows of a CSV as batches for a model: cleaned, scaled, in the shape and dtype of each input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.blocks import MISSING, NONFINITE, UNREADABLE, Blocks
from modelcut.data.columns import Columns, row_shape
from modelcut.data.options import DataOptions, InputSpec
from modelcut.data.statistics import Statistics
from modelcut.data.table import Batch, Cleaning, Table
from modelcut.errors import InputError, UsageError
from modelcut.safety import printable


@dataclass
class Csv(Table):
    """A CSV bound to a model's inputs; see `open`."""

    columns: Columns
    cleaning: Cleaning = field(default_factory=Cleaning)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        path: Path,
        options: DataOptions,
        inputs: Sequence[InputSpec],
        *,
        labelled: bool = True,
    ) -> Csv:
        """Looks at the first lines, and joins columns to inputs; see `Columns.join`.

        Raises:
            InputError: not a CSV, or one whose columns do not fit the model.
            UsageError: an option names a column or an input that is not there.
        """
        columns = Columns.join(path, options, inputs, labelled=labelled)
        return cls(columns, warnings=[*columns.dialect.notes, *columns.notes])

    def blocks(self) -> Blocks:
        """The cells, parsed block by block."""
        return Blocks(self.columns)

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self.columns.path

    @property
    def options(self) -> DataOptions:  # type: ignore[override]
        return self.columns.options

    @property
    def names(self) -> list[str]:
        return self.columns.names

    @property
    def features(self) -> dict[str, list[int]]:
        return self.columns.features

    @property
    def reconstructs(self) -> bool:
        return self.columns.reconstructs

    @property
    def labels(self) -> list[int]:
        return self.columns.order() if self.columns.reconstructs else self.columns.labels

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows, cleaned, in batches of `size` (the last may be smaller).

        Raises:
            InputError: a bad row, where rows are not to be cleaned; or no row is left.
        """
        self.cleaning = Cleaning()
        statistics = self._statistics()
        waiting: list[tuple[np.ndarray, np.ndarray | None]] = []
        have = 0
        for features, labels in self._clean_blocks(statistics):
            waiting.append((features, labels))
            have += len(features)
            while have >= size:
                taken, waiting = _take(waiting, size)
                have -= size
                yield self._batch(*taken)
        if have:
            yield self._batch(*_take(waiting, have)[0])
        if self.cleaning.rows_used == 0:
            raise InputError(f"{self.path}: no usable rows are left")

    def _batch(self, features: np.ndarray, labels: np.ndarray | None) -> Batch:
        scale = self.columns.options.scale
        inputs, start = {}, 0
        for name, columns in self.columns.features.items():
            spec = self.columns.specs[name]
            part: Any = features[:, start : start + len(columns)]
            start += len(columns)
            if spec.dtype != "string" and scale is not None:
                part = part * scale
            shape = row_shape(spec.shape, len(columns))
            assert shape is not None
            dtype = object if spec.dtype == "string" else _numpy_dtype(spec.dtype)
            inputs[name] = np.ascontiguousarray(part.astype(dtype)).reshape(len(part), *shape)
        if self.columns.reconstructs:
            parts = [part.reshape(len(part), -1) for part in inputs.values()]
            labels = np.concatenate(parts, axis=1).astype(np.float64)
        return Batch(inputs, labels)

    def _clean_blocks(
        self, statistics: Statistics | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        options, cleaning = self.columns.options, self.cleaning
        for block in self.blocks():
            features, bad = block.features, block.bad
            rows = len(features)
            if options.limit is not None:
                rows = min(rows, options.limit - cleaning.rows_read)
                if rows <= 0:
                    return
                features, bad = features[:rows], bad[:rows]
            labels = None if block.labels is None else block.labels[:rows]
            cleaning.rows_read += rows
            keep = np.ones(rows, bool)
            if bad.any() and options.clean == "impute" and statistics is not None:
                holes = (bad > 0) & (block.bad_labels[:rows, None] == 0) & self._numeric()
                cleaning.imputed_cells += int(holes.sum())
                features = np.where(holes, statistics.mean, features)
                bad = np.where(holes, 0, bad)
            worst = bad.max(axis=1, initial=0)
            worst = np.maximum(worst, block.bad_labels[:rows])
            if worst.any():
                keep &= worst == 0
                cleaning.dropped_missing += int((worst == MISSING).sum())
                cleaning.dropped_nonfinite += int((worst == NONFINITE).sum())
                cleaning.dropped_unreadable += int((worst == UNREADABLE).sum())
            if options.outliers != "keep":
                features, keep = self._outliers(features, keep, statistics)
            if not keep.all():
                features = features[keep]
                labels = None if labels is None else labels[keep]
            cleaning.rows_used += len(features)
            if len(features):
                yield features, labels

    def _outliers(
        self, features: np.ndarray, keep: np.ndarray, statistics: Statistics | None
    ) -> tuple[np.ndarray, np.ndarray]:
        options = self.columns.options
        numeric = self._numeric()
        numbers = features[:, numeric].astype(np.float64)
        if options.outlier_range is not None:
            low, high = (np.full(numbers.shape[1], end) for end in options.outlier_range)
        else:
            assert statistics is not None
            assert options.outlier_z is not None
            reach = options.outlier_z * statistics.deviation[numeric]
            low, high = statistics.mean[numeric] - reach, statistics.mean[numeric] + reach
        outside = (numbers < low) | (numbers > high)
        if options.outliers == "clip":
            self.cleaning.clipped_cells += int(outside[keep].sum())
            features = features.copy()
            features[:, numeric] = np.clip(numbers, low, high)
            return features, keep
        gone = outside.any(axis=1) & keep
        self.cleaning.dropped_outliers += int(gone.sum())
        return features, keep & ~gone

    def _numeric(self) -> np.ndarray:
        """Which of the feature columns hold numbers."""
        return np.isin(self.columns.order(), self.columns.numeric())

    def _statistics(self) -> Statistics | None:
        """Mean and deviation of each feature column over the good cells, in a pass of its own.

        Those of columns of text are NaN.

        Raises:
            InputError: cells of a column are to be filled that has no good one.
            UsageError: no column holds numbers.
        """
        options = self.columns.options
        numeric = self._numeric()
        for name, wanted in (("clean", "impute"), ("outliers", "clip"), ("outliers", "drop")):
            if getattr(options, name) == wanted and not numeric.any():
                raise UsageError(
                    f"--{name} {wanted}: {self.path} has no column of numbers for the model",
                    "leave it out" if name == "outliers" else "use --clean drop",
                )
        if options.clean != "impute" and options.outlier_z is None:
            return None
        found = Statistics()
        for block in self.blocks():
            good = (block.bad == 0) & numeric
            found.add(np.where(good, block.features, np.nan).astype(np.float64))
        found.finish()
        empty = np.flatnonzero(numeric & (found.count == 0))
        if options.clean == "impute" and empty.size:
            name = printable(self.columns.names[self.columns.order()[empty[0]]], 40)
            raise InputError(
                f"{self.path}: column {name!r} has no number to take the mean of",
                "--clean impute fills cells with the mean of the others",
            )
        return found


def _take(
    waiting: list[tuple[np.ndarray, np.ndarray | None]], size: int
) -> tuple[tuple[np.ndarray, np.ndarray | None], list[tuple[np.ndarray, np.ndarray | None]]]:
    """The first `size` rows of some blocks, and what is left."""
    taken, have = [], 0
    rest = list(waiting)
    while have < size:
        features, labels = rest.pop(0)
        room = size - have
        if len(features) > room:
            later = None if labels is None else labels[room:]
            rest.insert(0, (features[room:], later))
            features, labels = features[:room], None if labels is None else labels[:room]
        taken.append((features, labels))
        have += len(features)
    features = np.concatenate([part for part, _ in taken]) if len(taken) > 1 else taken[0][0]
    parts = [labels for _, labels in taken if labels is not None]
    return (features, np.concatenate(parts) if parts else None), rest


def _numpy_dtype(name: str) -> np.dtype:
    return np.dtype("float32") if name == "bfloat16" else np.dtype(name)


def open_table(
    path: Path, options: DataOptions, inputs: Sequence[InputSpec], *, labelled: bool = True
) -> Csv:
    """See `Csv.open`."""
    return Csv.open(path, options, inputs, labelled=labelled)

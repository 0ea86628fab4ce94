"""Rows of a CSV as batches for a model.

pyarrow reads and parses, block by block. Its parser is strict where Python's is lax (0x10, 1_000,
digits of other scripts are no numbers); where it refuses a block, the cells are looked at one by
one, to drop the row or to say which cell it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.options import DataOptions, InputSpec
from modelcut.data.source import (
    complaint,
    first_rows,
    is_nonfinite,
    is_number,
    open_bytes,
)
from modelcut.errors import InputError, UsageError
from modelcut.safety import printable

_BLOCK_BYTES = 8 << 20
_LABEL_NAMES = ("label", "target", "class", "y")


@dataclass(frozen=True)
class Batch:
    """Some rows.

    Attributes:
        inputs: by input name, shape (rows, *input shape), in the input's dtype.
        labels: float64 (rows, label columns), or text (rows, 1) as objects; None without labels.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass
class Cleaning:
    """What was found and done while reading, in rows and cells."""

    rows_read: int = 0
    rows_used: int = 0
    dropped_missing: int = 0
    dropped_nonfinite: int = 0
    dropped_unreadable: int = 0
    dropped_outliers: int = 0
    imputed_cells: int = 0
    clipped_cells: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)


@dataclass
class Csv:
    """A CSV bound to a model's inputs; see `open`."""

    path: Path
    options: DataOptions
    names: list[str]
    header: bool
    features: dict[str, list[int]]
    labels: list[int]
    specs: dict[str, InputSpec]
    cleaning: Cleaning = field(default_factory=Cleaning)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, options: DataOptions, inputs: Sequence[InputSpec]) -> Csv:
        """Looks at the first lines, and joins columns to inputs.

        Raises:
            InputError: not a CSV, or one whose columns do not fit the model.
            UsageError: an option names a column or an input that is not there.
        """
        first, second = first_rows(path, options.delimiter)
        header = options.header
        if header == "auto":
            header = not all(is_number(c) or is_nonfinite(c) or not c for c in first)
            # A table of text labels has text in every row: then only names make a header.
            if header and second is not None and len(second) == len(first):
                header = any(
                    not is_number(a) and (is_number(b) or not b)
                    for a, b in zip(first, second, strict=True)
                ) or not any(is_number(a) for a in first)
        if header and second is None:
            raise InputError(f"{path}: has a header and no rows")
        names = _unique(first) if header else [str(i) for i in range(len(first))]
        if len(names) > 1 and names[-1] == "" and second is not None and second[-1] == "":
            names[-1] = "(empty)"
        made = cls(path, options, names, bool(header), {}, [], {spec.name: spec for spec in inputs})
        made.labels = made._label_columns(inputs)
        made.features = made._feature_columns(inputs)
        return made

    def _column(self, wanted: int | str) -> int:
        if isinstance(wanted, str) and wanted in self.names:
            return self.names.index(wanted)
        if isinstance(wanted, int) and -len(self.names) <= wanted < len(self.names):
            return wanted % len(self.names)
        raise UsageError(
            f"{self.path}: has no column {wanted!r}",
            f"its columns: {', '.join(printable(n, 30) for n in self.names[:8])}"
            + (" …" if len(self.names) > 8 else ""),
        )

    def _label_columns(self, inputs: Sequence[InputSpec]) -> list[int]:
        wanted = self.options.label
        if wanted is not None:
            several = wanted if isinstance(wanted, list) else [wanted]
            return [self._column(name) for name in several]
        lower = [name.lower() for name in self.names]
        for name in _LABEL_NAMES:
            if name in lower:
                return [lower.index(name)]
        widths = [_width(spec.shape) for spec in inputs]
        usable = [i for i, name in enumerate(self.names) if name != "(empty)"]
        if all(width is not None for width in widths):
            needed = sum(width or 0 for width in widths)
            if needed == len(usable):
                return []
        return [usable[-1]]

    def _feature_columns(self, inputs: Sequence[InputSpec]) -> dict[str, list[int]]:
        rest = [
            index
            for index, name in enumerate(self.names)
            if index not in self.labels and name != "(empty)"
        ]
        if self.options.inputs:
            return self._named_columns(inputs, self.options.inputs, rest)
        if len(inputs) > 1:
            groups = {spec.name: self._by_prefix(spec.name, rest) for spec in inputs}
            if all(groups.values()):
                for spec in inputs:
                    self._check_width(spec, len(groups[spec.name]))
                return groups
        unknown = [spec for spec in inputs if _width(spec.shape) is None]
        if len(unknown) > 1:
            raise UsageError(
                f"{self.path}: the model has several inputs of unknown size",
                "say which columns go where with --inputs '{name: glob*}'",
            )
        fixed = sum(_width(spec.shape) or 0 for spec in inputs)
        result, start = {}, 0
        for spec in inputs:
            width = _width(spec.shape)
            width = len(rest) - fixed if width is None else width
            result[spec.name] = rest[start : start + width]
            start += width
        if start != len(rest):
            sizes = " + ".join(str(_width(spec.shape) or "?") for spec in inputs)
            found = f"{len(rest)} feature columns" + ("" if self.labels else " and no label")
            raise InputError(
                f"{self.path}: has {found}, the model takes {sizes}",
                "--label names the label column, --inputs the columns of each input",
            )
        for spec in inputs:
            self._check_width(spec, len(result[spec.name]))
        return result

    def _by_prefix(self, name: str, rest: list[int]) -> list[int]:
        patterns = (name, f"{name}_*", f"{name}.*", f"{name}[[]*")
        return [i for i in rest if any(fnmatchcase(self.names[i], p) for p in patterns)]

    def _named_columns(
        self, inputs: Sequence[InputSpec], wanted: Mapping[str, list[str] | str], rest: list[int]
    ) -> dict[str, list[int]]:
        known = {spec.name: spec for spec in inputs}
        for name in wanted:
            if name not in known:
                raise UsageError(
                    f"the model has no input {name!r}", f"its inputs: {', '.join(known)}"
                )
        result = {}
        for name, spec in known.items():
            columns = wanted.get(name, [])
            if isinstance(columns, str):
                found = [i for i in rest if fnmatchcase(self.names[i], columns)]
            else:
                found = [self._column(column) for column in columns]
            if not found:
                raise UsageError(f"{self.path}: no column for the model's input {name!r}")
            self._check_width(spec, len(found))
            result[name] = found
        return result

    def _check_width(self, spec: InputSpec, width: int) -> None:
        if _shape(spec.shape, width) is None:
            shape = "×".join("?" if n is None else str(n) for n in spec.shape)
            raise InputError(
                f"{self.path}: {width} columns do not fill the input {spec.name!r} of {shape}"
            )

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
        scale = self.options.scale
        inputs, start = {}, 0
        for name, columns in self.features.items():
            spec = self.specs[name]
            part: Any = features[:, start : start + len(columns)]
            start += len(columns)
            if spec.dtype != "string" and scale is not None:
                part = part * scale
            shape = _shape(spec.shape, len(columns))
            assert shape is not None
            dtype = object if spec.dtype == "string" else _numpy_dtype(spec.dtype)
            inputs[name] = np.ascontiguousarray(part.astype(dtype)).reshape(len(part), *shape)
        return Batch(inputs, labels)

    def _numeric(self) -> list[int]:
        """Feature columns that must be numbers."""
        return [
            column
            for name, columns in self.features.items()
            if self.specs[name].dtype != "string"
            for column in columns
        ]

    def _clean_blocks(
        self, statistics: _Statistics | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        options, cleaning = self.options, self.cleaning
        for block in self._blocks():
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
                holes = (bad > 0) & ~block.bad_labels[:rows, None]
                cleaning.imputed_cells += int(holes.sum())
                features = np.where(holes, statistics.mean, features)
                bad = np.where(holes, 0, bad)
            worst = bad.max(axis=1, initial=0)
            worst = np.maximum(worst, np.where(block.bad_labels[:rows], _MISSING, 0))
            if worst.any():
                keep &= worst == 0
                cleaning.dropped_missing += int((worst == _MISSING).sum())
                cleaning.dropped_nonfinite += int((worst == _NONFINITE).sum())
                cleaning.dropped_unreadable += int((worst == _UNREADABLE).sum())
            if options.outliers != "keep" and features.dtype != object:
                features, keep = self._outliers(features, keep, statistics)
            if not keep.all():
                features = features[keep]
                labels = None if labels is None else labels[keep]
            cleaning.rows_used += len(features)
            if len(features):
                yield features, labels

    def _outliers(
        self, features: np.ndarray, keep: np.ndarray, statistics: _Statistics | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.options.outlier_range is not None:
            low, high = (np.full(features.shape[1], end) for end in self.options.outlier_range)
        else:
            assert statistics is not None
            assert self.options.outlier_z is not None
            reach = self.options.outlier_z * statistics.deviation
            low, high = statistics.mean - reach, statistics.mean + reach
        outside = (features < low) | (features > high)
        if self.options.outliers == "clip":
            self.cleaning.clipped_cells += int(outside[keep].sum())
            return np.clip(features, low, high), keep
        gone = outside.any(axis=1) & keep
        self.cleaning.dropped_outliers += int(gone.sum())
        return features, keep & ~gone

    def _statistics(self) -> _Statistics | None:
        """Mean and deviation of each feature column over the good rows, in a pass of its own."""
        if self.options.clean != "impute" and self.options.outlier_z is None:
            return None
        found = _Statistics()
        for block in self._blocks():
            if block.features.dtype == object:
                raise UsageError("columns of text have no mean", "use --clean drop")
            found.add(np.where(block.bad == 0, block.features, np.nan))
        return found.finish()

    def _blocks(self) -> Iterator[_Block]:
        """Parsed blocks; on a cell that does not parse, the careful way from the start of it."""
        import pyarrow as pa

        done = 0
        try:
            for batch in self._read(numeric=True):
                block = self._parsed(batch)
                if block.bad.any() or block.bad_labels.any():
                    self._refuse_if_failing()
                done += len(block.features)
                yield block
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            self._refuse_if_failing(structural=str(error))
            skip = done
            try:
                for batch in self._read(numeric=False):
                    if skip >= batch.num_rows:
                        skip -= batch.num_rows
                        continue
                    yield self._careful(batch.slice(skip))
                    skip = 0
            except pa.ArrowInvalid as again:
                what = complaint(
                    self.path, self.options.delimiter, self.names, [], header=self.header
                )
                text = what or f"{self.path}: not valid CSV: {' '.join(str(again).split())[:120]}"
                raise InputError(text) from None

    def _refuse_if_failing(self, structural: str = "") -> None:
        """Says which cell is bad, where bad cells are an error."""
        if self.options.clean != "fail":
            return
        numeric = self._numeric()
        what = complaint(self.path, self.options.delimiter, self.names, numeric, header=self.header)
        if not what and structural:
            what = f"{self.path}: not valid CSV: {' '.join(structural.split())[:120]}"
        if what:
            raise InputError(what, "--clean drop leaves bad rows out")

    def _read(self, *, numeric: bool) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv

        columns = [str(index) for index in range(len(self.names))]
        numbers = set(self._numeric()) if numeric else set()
        used = sorted({*self.labels, *(c for part in self.features.values() for c in part)})
        with open_bytes(self.path) as file:
            reader = csv.open_csv(
                pa.PythonFile(file, "r"),
                read_options=csv.ReadOptions(
                    column_names=columns,
                    skip_rows=int(self.header),
                    # Some blocks are read ahead, and numbers take more room than their text.
                    block_size=min(_BLOCK_BYTES, max(_BLOCK_BYTES >> 3, len(self.names) << 10)),
                    use_threads=True,
                ),
                parse_options=csv.ParseOptions(
                    delimiter=self.options.delimiter, newlines_in_values=False
                ),
                convert_options=csv.ConvertOptions(
                    include_columns=[columns[i] for i in used],
                    column_types={
                        columns[i]: pa.float64() if i in numbers else pa.string() for i in used
                    },
                    null_values=["", "nan", "NaN", "NAN", "-nan"],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
            yield from reader

    def _parsed(self, batch: Any) -> _Block:
        numeric = set(self._numeric())
        order = [c for part in self.features.values() for c in part]
        text = len(numeric) < len(order)
        features = np.empty((batch.num_rows, len(order)), object if text else np.float64)
        for position, column in enumerate(order):
            values = batch.column(str(column)).to_numpy(zero_copy_only=False)
            features[:, position] = values
        bad = np.zeros(features.shape, np.uint8)
        if not text:
            bad[~np.isfinite(features)] = _NONFINITE
            bad[np.isnan(features)] = _MISSING
        labels, bad_labels = self._labels_of(batch)
        return _Block(features, bad, labels, bad_labels)

    def _careful(self, batch: Any) -> _Block:
        """Cell by cell, for blocks that hold something unreadable."""
        order = [c for part in self.features.values() for c in part]
        numeric = set(self._numeric())
        text = len(numeric) < len(order)
        features = np.full(
            (batch.num_rows, len(order)), "" if text else 0.0, object if text else float
        )
        bad = np.zeros(features.shape, np.uint8)
        for position, column in enumerate(order):
            for row, cell in enumerate(batch.column(str(column)).to_pylist()):
                if column not in numeric:
                    features[row, position] = cell or ""
                elif cell is None:
                    bad[row, position] = _MISSING
                elif is_number(cell):
                    features[row, position] = float(cell)
                else:
                    bad[row, position] = _NONFINITE if is_nonfinite(cell) else _UNREADABLE
        labels, bad_labels = self._labels_of(batch)
        return _Block(features, bad, labels, bad_labels)

    def _labels_of(self, batch: Any) -> tuple[np.ndarray | None, np.ndarray]:
        """Labels as numbers where all of them are, else as text; and which are missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        missing = np.zeros(batch.num_rows, bool)
        if not self.labels:
            return None, missing
        parts = []
        for column in self.labels:
            values = batch.column(str(column))
            missing |= values.is_null().to_numpy(zero_copy_only=False)
            try:
                numbers = pc.cast(pc.utf8_trim_whitespace(values), pa.float64())
                parts.append(numbers.to_numpy(zero_copy_only=False).astype(object))
            except pa.ArrowInvalid:
                parts.append(np.array([v or "" for v in values.to_pylist()], dtype=object))
        if missing.any() and self.options.clean == "fail":
            row = int(np.flatnonzero(missing)[0]) + self.cleaning.rows_read + 1 + self.header
            raise InputError(
                f"{self.path}:{row}: has no label", "--clean drop leaves such rows out"
            )
        table = np.stack(parts, axis=1)
        if not any(isinstance(value, str) for value in table.ravel()):
            return table.astype(np.float64), missing
        return table, missing


_MISSING, _NONFINITE, _UNREADABLE = 1, 2, 3


@dataclass(frozen=True)
class _Block:
    """Parsed rows: features (rows, columns), what is wrong with each cell, labels."""

    features: np.ndarray
    bad: np.ndarray
    labels: np.ndarray | None
    bad_labels: np.ndarray


class _Statistics:
    """Mean and deviation of columns over blocks (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self._count: Any = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0
        self.deviation: Any = 0.0

    def add(self, block: np.ndarray) -> None:
        good = ~np.isnan(block)
        count = good.sum(axis=0)
        filled = np.where(good, block, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(good, block - mean, 0.0) ** 2).sum(axis=0)
        total = self._count + count
        delta = mean - self.mean
        share = count / np.maximum(total, 1)
        self.mean = self.mean + delta * share
        self._squares = self._squares + squares + delta**2 * self._count * share
        self._count = total

    def finish(self) -> _Statistics:
        self.deviation = np.sqrt(self._squares / np.maximum(self._count, 1))
        return self


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


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}.{seen[name] - 1}")
    return result


def _width(shape: Sequence[int | None]) -> int | None:
    return None if None in shape else prod(n for n in shape if n is not None)


def _shape(shape: Sequence[int | None], width: int) -> tuple[int, ...] | None:
    """The shape of one row of `width` values; None where they do not fill it."""
    unknown = [axis for axis, n in enumerate(shape) if n is None]
    known = prod(n for n in shape if n is not None)
    if not unknown:
        return tuple(n for n in shape if n is not None) if known == width else None
    if known == 0 or width % known:
        return None
    # Only one length can be told from a count: of several, the first takes it all.
    lengths = iter([width // known, *(1,) * (len(unknown) - 1)])
    return tuple(next(lengths) if n is None else n for n in shape)


def _numpy_dtype(name: str) -> np.dtype:
    return np.dtype("float32") if name == "bfloat16" else np.dtype(name)

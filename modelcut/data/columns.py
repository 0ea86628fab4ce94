"""Which columns of a CSV feed which input of a model, and which hold the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.dialect import CsvDialect
from modelcut.data.options import DataOptions, InputSpec
from modelcut.errors import InputError, UsageError
from modelcut.safety import printable

_LARGEST = float(np.finfo(np.float64).max)
INPUT = "input"
"""As label: what goes in is what should come out."""
_LABEL_NAMES = ("label", "target", "class", "y")


@dataclass
class Columns:
    """The columns of a CSV, joined to a model's inputs; see `join`.

    Attributes:
        names: unique names of all columns; their numbers where there is no header.
        dialect: how the file is written.
        ignored: numbers of columns that are neither labels nor features.
        reconstructs: the labels are the features themselves, as an autoencoder learns them.
        specs: name, shape and dtype of each model input.
        labels: numbers of the label columns.
        features: numbers of the columns of each input, by its name.
        limits: the least and the largest number that a column can hold, by its number.
        notes: what was recognized and is no matter of course, for the user.
    """

    path: Path
    options: DataOptions
    names: list[str]
    dialect: CsvDialect
    specs: dict[str, InputSpec]
    labels: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    reconstructs: bool = False
    features: dict[str, list[int]] = field(default_factory=dict)
    limits: dict[int, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def join(
        cls,
        path: Path,
        options: DataOptions,
        inputs: Sequence[InputSpec],
        *,
        labelled: bool = True,
        dialect: CsvDialect | None = None,
    ) -> Columns:
        """Looks at the first lines, and joins columns to inputs.

        Args:
            path: path of the CSV file.
            options: how the CSV is parsed.
            inputs: name, shape and dtype of each model input.
            labelled: whether labels are read; if not, their columns are ignored and may be missing.
            dialect: names and first rows of a source that is no CSV; None: those of the CSV.

        Raises:
            InputError: not a CSV, or one whose columns do not fit the model.
            UsageError: an option names a column or an input that is not there.
        """
        dialect = dialect or CsvDialect.of(path, options)
        first = dialect.first
        names = list(first) if dialect.header else [str(i) for i in range(len(first))]
        if len(names) > 1 and names[-1] == "" and dialect.rows and dialect.rows[0][-1] == "":
            names[-1] = "(empty)"
        double = next((name for name, count in Counter(names).items() if count > 1), None)
        if double is not None:
            said = (
                f"two columns are called {printable(double, 40)!r}"
                if double
                else "two columns have no name"
            )
            raise InputError(
                f"{path}: {said}",
                "give each its own name; --header false where the first line is a sample",
            )
        made = cls(path, options, names, dialect, {spec.name: spec for spec in inputs})
        made.reconstructs = options.label == INPUT and INPUT not in names
        if made.reconstructs:
            made.ignored = made._beside(inputs)
        else:
            found = made._label_columns(inputs, labelled=labelled)
            made.labels, made.ignored = (found, []) if labelled else ([], found)
        made.features = made._feature_columns(inputs)
        made.notes += made._about_index()
        made.limits = made._limits()
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

    def _beside(self, inputs: Sequence[InputSpec]) -> list[int]:
        """A label column that an autoencoder has no use for."""
        needed = sum(_width(spec.shape) or 0 for spec in inputs)
        usable = [i for i, name in enumerate(self.names) if name != "(empty)"]
        named = [i for i in usable if self.names[i].lower() in _LABEL_NAMES]
        return named if needed and len(usable) - len(named) == needed else []

    def _label_columns(self, inputs: Sequence[InputSpec], *, labelled: bool = True) -> list[int]:
        wanted = self.options.label
        if wanted is not None:
            parts = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
            several = [n for part in parts for n in (part if isinstance(part, list) else [part])]
            if not labelled:
                several = [name for name in several if isinstance(name, int) or name in self.names]
            return [self._column(name) for name in several]
        lower = [name.lower() for name in self.names]
        for name in _LABEL_NAMES:
            if name in lower:
                return [lower.index(name)]
        widths = [_width(spec.shape) for spec in inputs]
        usable = [i for i, name in enumerate(self.names) if name != "(empty)"]
        counter = self._index()
        usable = usable if counter is None else usable[1:]
        if all(width is not None for width in widths):
            needed = sum(width or 0 for width in widths)
            if needed == len(usable):
                return []
        return [usable[-1]]

    def _feature_columns(self, inputs: Sequence[InputSpec]) -> dict[str, list[int]]:
        rest = [
            index
            for index, name in enumerate(self.names)
            if index not in (*self.labels, *self.ignored) and name != "(empty)"
        ]
        counter = self._index()
        widths = [_width(spec.shape) for spec in inputs]
        exact = None not in widths and len(rest) == sum(width or 0 for width in widths) + 1
        if counter in rest and exact and not self.options.inputs:
            rest.remove(counter)
            self.notes.append(
                f"{self.path}: the column {self.names[counter]!r} only counts the rows: left out"
            )
        if self.options.inputs:
            return self._named_columns(inputs, self.options.inputs, rest)
        if len(inputs) > 1:
            groups = self._by_name(inputs, rest)
            if all(groups.values()):
                for spec in inputs:
                    self._check_width(spec, len(groups[spec.name]))
                return groups
        unknown = [spec for spec in inputs if _width(spec.shape) is None]
        if len(unknown) > 1:
            raise UsageError(
                f"{self.path}: the model has several inputs of unknown size",
                "assign columns to inputs with --inputs '{name: glob*}'",
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

    def _by_name(self, inputs: Sequence[InputSpec], rest: list[int]) -> dict[str, list[int]]:
        """The columns of each input: of its name, else those that begin with it.

        A column that begins with the names of several inputs is that of the longest.
        """
        groups: dict[str, list[int]] = {spec.name: [] for spec in inputs}
        exact = {spec.name for spec in inputs if row_shape(spec.shape, 1) is not None}
        exact &= {self.names[index] for index in rest}
        for index in rest:
            column = self.names[index]
            if column in exact:
                groups[column] = [index]
                continue
            found = [spec.name for spec in inputs if _begins(column, spec.name)]
            if found and (longest := max(found, key=len)) not in exact:
                groups[longest].append(index)
        return groups

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
                found = [i for i in rest if self.names[i] == columns]
                found = found or [i for i in rest if fnmatchcase(self.names[i], columns)]
            else:
                found = [self._column(column) for column in columns]
            if not found:
                raise UsageError(f"{self.path}: no column for the model's input {name!r}")
            self._check_width(spec, len(found))
            result[name] = found
        return result

    def _check_width(self, spec: InputSpec, width: int) -> None:
        if width == 0:
            raise InputError(
                f"{self.path}: no column is left for the model's input {spec.name!r}",
                "one column is the label; --delimiter sets the separator of the cells",
            )
        if row_shape(spec.shape, width) is None:
            shape = "×".join("?" if n is None else str(n) for n in spec.shape)
            raise InputError(
                f"{self.path}: {width} columns do not fill the input {spec.name!r} of {shape}"
            )

    @property
    def header(self) -> bool:
        """Whether the first line holds the names."""
        return self.dialect.header

    def _index(self) -> int | None:
        """The number of a column that only counts the rows, as pandas writes it."""
        if not self.header or self.names[0] not in ("Unnamed: 0", "", "index"):
            return None
        cells = [row[0] for row in self.dialect.rows if row]
        counts = [str(number) for number in range(len(cells))]
        return 0 if len(cells) > 1 and cells == counts else None

    def _about_index(self) -> list[str]:
        index = self._index()
        if index is None or index not in {*self.order(), *self.labels}:
            return []
        return [
            f"{self.path}: the column {self.names[index]!r} only counts the rows and goes into the "
            "model; pandas leaves it out with to_csv(index=False)"
        ]

    def _limits(self) -> dict[int, tuple[float, float]]:
        """What a column's numbers must not pass, before they are scaled, to be finite as inputs.

        Labels are held against what a network gives: float32.
        """
        limits = {column: _range("float32", None) for column in self.labels}
        for name, columns in self.features.items():
            own = _range(self.specs[name].dtype, self.options.scale)
            limits.update(dict.fromkeys(columns, own))
        return limits

    def dtype_of(self, column: int) -> str:
        """The dtype that a column is for."""
        for name, columns in self.features.items():
            if column in columns:
                return self.specs[name].dtype
        return "float32"

    def order(self) -> list[int]:
        """Feature columns, input by input."""
        return [column for part in self.features.values() for column in part]

    def numeric(self) -> list[int]:
        """Feature columns that must be numbers."""
        return [
            column
            for name, columns in self.features.items()
            if self.specs[name].dtype != "string"
            for column in columns
        ]


def _begins(column: str, name: str) -> bool:
    """Whether a column's name is that of an input, or one of a series for it."""
    return column == name or column.startswith((f"{name}_", f"{name}.", f"{name}["))


def _range(dtype: str, scale: float | None) -> tuple[float, float]:
    """The least and the largest number that a dtype can hold once it is multiplied by `scale`."""
    if dtype in ("string", "bool"):
        return -_LARGEST, _LARGEST
    kind = np.dtype("float32" if dtype == "bfloat16" else dtype)
    info: Any = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    low, high = float(info.min), float(info.max)
    if scale == 0:
        return -_LARGEST, _LARGEST
    if scale is not None:
        low, high = sorted((low / scale, high / scale))
    return max(low, -_LARGEST), min(high, _LARGEST)


def _width(shape: Sequence[int | None]) -> int | None:
    return None if None in shape else prod(n for n in shape if n is not None)


def row_shape(shape: Sequence[int | None], width: int) -> tuple[int, ...] | None:
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

"""Which columns of a CSV feed which input of a model, and which hold the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

from modelcut.data.options import DataOptions, InputSpec
from modelcut.data.source import first_rows, is_nonfinite, is_number
from modelcut.errors import InputError, UsageError
from modelcut.safety import printable

INPUT = "input"
"""As label: what goes in is what should come out."""
_LABEL_NAMES = ("label", "target", "class", "y")


@dataclass
class Columns:
    """The columns of a CSV, joined to a model's inputs; see `join`.

    Attributes:
        names: of all columns, each once; their numbers where there is no header.
        header: whether the first line holds the names.
        features: numbers of the columns of each input, by its name.
        labels: numbers of the label columns.
        ignored: numbers of columns that are neither labels nor features.
        reconstructs: the labels are the features themselves, as an autoencoder learns them.
        specs: the inputs, by name.
    """

    path: Path
    options: DataOptions
    names: list[str]
    header: bool
    specs: dict[str, InputSpec]
    labels: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    reconstructs: bool = False
    features: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def join(
        cls,
        path: Path,
        options: DataOptions,
        inputs: Sequence[InputSpec],
        *,
        labelled: bool = True,
    ) -> Columns:
        """Looks at the first lines, and joins columns to inputs.

        Args:
            path: of the CSV.
            options: how it is read.
            inputs: of the model.
            labelled: labels are wanted; else their columns are left out, and may be missing.

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
        made = cls(path, options, names, bool(header), {spec.name: spec for spec in inputs})
        made.reconstructs = options.label == INPUT and INPUT not in names
        if made.reconstructs:
            made.ignored = made._beside(inputs)
        else:
            found = made._label_columns(inputs, labelled=labelled)
            made.labels, made.ignored = (found, []) if labelled else ([], found)
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

    def _beside(self, inputs: Sequence[InputSpec]) -> list[int]:
        """A label column that an autoencoder has no use for."""
        needed = sum(_width(spec.shape) or 0 for spec in inputs)
        usable = [i for i, name in enumerate(self.names) if name != "(empty)"]
        named = [i for i in usable if self.names[i].lower() in _LABEL_NAMES]
        return named if needed and len(usable) - len(named) == needed else []

    def _label_columns(self, inputs: Sequence[InputSpec], *, labelled: bool = True) -> list[int]:
        wanted = self.options.label
        if wanted is not None:
            several = wanted if isinstance(wanted, list) else [wanted]
            if not labelled:
                several = [name for name in several if isinstance(name, int) or name in self.names]
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
            if index not in (*self.labels, *self.ignored) and name != "(empty)"
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
        if row_shape(spec.shape, width) is None:
            shape = "×".join("?" if n is None else str(n) for n in spec.shape)
            raise InputError(
                f"{self.path}: {width} columns do not fill the input {spec.name!r} of {shape}"
            )

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


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}.{seen[name] - 1}")
    return result


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

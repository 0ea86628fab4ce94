"""Samples in NumPy's own files: `.npz` with an array for each input and one of labels, `.npy`."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.columns import row_shape
from modelcut.data.options import DataOptions, InputSpec
from modelcut.data.table import Batch, Cleaning, Table
from modelcut.errors import InputError, UsageError
from modelcut.safety import check_path, printable

_INPUTS = ("x", "X", "x_test", "x_train", "features", "data", "arr_0")
_LABELS = ("y", "Y", "y_test", "y_train", "label", "labels", "target", "arr_1")
_MOST_BYTES = 8 << 30
_PLAIN_BYTES = 1 << 30
_MOST_RATIO = 100
"""Beyond `_PLAIN_BYTES`, arrays may be so many times larger than their file."""
_MOST_ARRAYS = 10_000
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass
class Arrays(Table):
    """Arrays whose first axis is the samples; see `table.Table`.

    Attributes:
        specs: the model's inputs.
        arrays: the array of each input, by the input's name.
        truth: arrays of labels, each (samples, columns); empty without labels.
        own: names of their columns, in this order; repeated where two outputs share a label.
    """

    path: Path
    options: DataOptions
    specs: dict[str, InputSpec]
    arrays: dict[str, np.ndarray]
    truth: list[np.ndarray]
    own: list[str]
    cleaning: Cleaning = field(default_factory=Cleaning)
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [
            *dict.fromkeys(self.own),
            *(name for name, part in self._parts() for _ in range(part)),
        ]

    @property
    def labels(self) -> list[int]:
        if self.reconstructs:
            return [column for part in self.features.values() for column in part]
        at = {name: number for number, name in enumerate(dict.fromkeys(self.own))}
        return [at[name] for name in self.own]

    @property
    def features(self) -> dict[str, list[int]]:
        found, start = {}, len(set(self.own))
        for name, width in self._parts():
            found[name] = list(range(start, start + width))
            start += width
        return found

    @property
    def reconstructs(self) -> bool:
        return self.options.label == "input"

    def _parts(self) -> list[tuple[str, int]]:
        return [(name, prod(values.shape[1:])) for name, values in self.arrays.items()]

    def batches(self, size: int) -> Iterator[Batch]:
        self.cleaning = Cleaning()
        count = len(next(iter(self.arrays.values())))
        count = min(count, self.options.limit or count)
        step = max(size, size * (4096 // max(1, size)))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            block = {name: values[part] for name, values in self.arrays.items()}
            labels = [values[part] for values in self.truth]
            kept = self._kept(block, labels, start)
            if not kept.all():
                block = {name: values[kept] for name, values in block.items()}
                labels = [values[kept] for values in labels]
            for at in range(0, int(kept.sum()), size):
                yield self._batch(
                    {name: values[at : at + size] for name, values in block.items()},
                    [values[at : at + size] for values in labels],
                )
        if not self.cleaning.rows_used:
            raise InputError(f"{self.path}: no usable samples are left")

    def _kept(
        self, block: dict[str, np.ndarray], labels: list[np.ndarray], start: int
    ) -> np.ndarray:
        """Which samples of a block are finite.

        Raises:
            InputError: one is not, and bad samples are not to be dropped.
        """
        rows = len(next(iter(block.values())))
        good = np.ones(rows, bool)
        for name, values in block.items():
            fine = finite(values, self.specs[name], self.options.scale)
            if self.options.clean == "fail" and not fine.all():
                row = start + int(np.flatnonzero(~fine)[0])
                raise InputError(
                    f"{self.path}: sample {row} of {printable(name, 40)!r} holds a value that is "
                    f"not finite in {self.specs[name].dtype}",
                    "--clean drop leaves bad samples out",
                )
            good &= fine
        for values in labels:
            if values.dtype.kind != "f":
                continue
            fine = np.isfinite(values).all(axis=1)
            if self.options.clean == "fail" and not fine.all():
                row = start + int(np.flatnonzero(~fine)[0])
                raise InputError(f"{self.path}: sample {row} has no finite label")
            good &= fine
        self.cleaning.rows_read += rows
        self.cleaning.rows_used += int(good.sum())
        self.cleaning.dropped_nonfinite += int(rows - good.sum())
        return good

    def _batch(self, block: dict[str, np.ndarray], labels: list[np.ndarray]) -> Batch:
        inputs = {}
        for name, values in block.items():
            spec = self.specs[name]
            part: Any = values
            if self.options.scale is not None and spec.dtype != "string":
                part = part * self.options.scale
            shape = row_shape(spec.shape, prod(values.shape[1:]))
            assert shape is not None
            dtype = "float32" if spec.dtype == "bfloat16" else spec.dtype
            kind: Any = object if spec.dtype == "string" else np.dtype(dtype)
            inputs[name] = np.ascontiguousarray(part.astype(kind)).reshape(len(part), *shape)
        if self.reconstructs:
            parts = [part.reshape(len(part), -1) for part in inputs.values()]
            return Batch(inputs, np.concatenate(parts, axis=1).astype(np.float64))
        if not labels:
            return Batch(inputs, None)
        text = any(values.dtype.kind == "U" for values in labels)
        columns = [values.astype(object if text else np.float64) for values in labels]
        return Batch(inputs, np.concatenate(columns, axis=1))


def open_table(
    path: Path, options: DataOptions, inputs: Sequence[InputSpec], *, labelled: bool = True
) -> Arrays:
    """Opens a file of arrays, and joins them to a model's inputs.

    In an `.npz`, an array belongs to the input of its name; a model of one input also takes x, X,
    x_test, features, data or arr_0. Labels are the arrays that `label` names (one, several, or
    those of each output), else y, labels, target or arr_1. An `.npy` holds the samples of the only
    input, without labels.

    Raises:
        InputError: not such a file, or arrays that do not fit the model.
        UsageError: an option names an array that is not there, or is for tables.
    """
    for name, plain in (("clean", ("fail", "drop")), ("outliers", ("keep",))):
        if getattr(options, name) not in plain:
            raise UsageError(
                f"--{name} {getattr(options, name)}: is for tables, not for arrays ({path})",
                "leave it out" if name == "outliers" else "--clean drop leaves bad samples out",
            )
    found = load(path)
    if path.suffix.lower() == ".npy" and len(inputs) != 1:
        raise InputError(f"{path}: is one array, the model has {len(inputs)} inputs", "use .npz")
    labels = _label_names(path, options, found, labelled=labelled)
    arrays = {spec.name: _input(path, options, spec, inputs, found, labels) for spec in inputs}
    truth = [_truth(path, found[name], name) for name in labels] if labelled else []
    lengths = {len(values) for values in (*arrays.values(), *truth)}
    if lengths == {0}:
        raise InputError(f"{path}: holds no samples")
    if len(lengths) != 1:
        counts = ", ".join(f"{name}: {len(values)}" for name, values in found.items())
        raise InputError(f"{path}: arrays of different lengths ({printable(counts, 120)})")
    columns = [_columns(name, values.shape[1]) for name, values in zip(labels, truth, strict=False)]
    if isinstance(options.label, dict) and truth:
        # From here on its columns, of which an array may have several.
        parts = iter(columns)
        wanted = {
            output: [column for _ in _listed(names) for column in next(parts)]
            for output, names in options.label.items()
        }
        options = options.model_copy(update={"label": wanted})
    specs = {spec.name: spec for spec in inputs}
    return Arrays(path, options, specs, arrays, truth, [name for part in columns for name in part])


def _truth(path: Path, labels: np.ndarray, name: str) -> np.ndarray:
    """Labels as samples by columns.

    Raises:
        InputError: they are no numbers and no text.
    """
    if labels.dtype.kind not in "fiubUS":
        raise InputError(
            f"{path}: array {printable(name, 40)!r} holds {labels.dtype}, and labels are numbers "
            "or text"
        )
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: array {printable(name, 40)!r} is no UTF-8 text") from None
    shape = labels.shape or (1,)
    return labels.reshape(shape[0], prod(shape[1:]))


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; nothing in it is unpickled.

    Raises:
        InputError: it is damaged, holds objects, or expands beyond the limit.
    """
    check_path(path)
    try:
        if path.suffix.lower() == ".npy":
            found = {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            _check_archive(path)
            with np.load(path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
    except BROKEN as error:
        why = printable(" ".join(str(error).split()), 120)
        raise InputError(f"{path}: cannot be read as NumPy arrays: {why}") from None
    if not found:
        raise InputError(f"{path}: holds no arrays")
    return found


BROKEN = (
    *(ValueError, OSError, EOFError, KeyError, SyntaxError, RecursionError, NotImplementedError),
    RuntimeError,  # a member that is encrypted
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What NumPy raises on files that are none of its own."""


def _check_archive(path: Path) -> None:
    """Looks at what an `.npz` declares, before anything is allocated.

    Raises:
        InputError: it expands beyond the limit, or an array is larger than its member.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MOST_ARRAYS:
            raise InputError(f"{path}: holds more than {_MOST_ARRAYS:,} arrays")
        total = sum(member.file_size for member in members)
        most = max(_PLAIN_BYTES, min(_MOST_BYTES, _MOST_RATIO * path.stat().st_size))
        if total > most:
            raise InputError(f"{path}: expands to {total:,} bytes, more than {most:,}")
        for member in members:
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                read = _HEADERS.get(np.lib.format.read_magic(file))
                if read is None:
                    continue
                shape, _, dtype = read(file)
            declared = prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or declared > member.file_size:
                name = printable(member.filename.removesuffix(".npy"), 40)
                raise InputError(
                    f"{path}: damaged: array {name!r} of shape {shape} and {dtype} is larger than "
                    "what is stored"
                )


def _label_names(
    path: Path, options: DataOptions, found: dict[str, np.ndarray], *, labelled: bool
) -> list[str]:
    """The arrays of labels, in the order in which `label` names them."""
    wanted = options.label
    if wanted == "input":
        return []
    if wanted is None:
        return [name for name in _LABELS if name in found][:1]
    parts = wanted.values() if isinstance(wanted, dict) else [wanted]
    names = [name for part in parts for name in _listed(part)]
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"--label {name}: {path} has arrays: name one of them", _known(found))
        if name not in found and labelled:
            raise UsageError(f"{path}: has no array {name!r}", _known(found))
    return [name for name in names if name in found]


def _listed(names: Any) -> list[Any]:
    return names if isinstance(names, list) else [names]


def _input(
    path: Path,
    options: DataOptions,
    spec: InputSpec,
    inputs: Sequence[InputSpec],
    found: dict[str, np.ndarray],
    labels: Sequence[str],
) -> np.ndarray:
    """The array of one input.

    Raises:
        UsageError: none is named like it.
        InputError: its shape or dtype does not fit.
    """
    wanted = (options.inputs or {}).get(spec.name)
    if wanted is not None and not (isinstance(wanted, str) and wanted in found):
        raise UsageError(f"{path}: has no array {wanted!r}", _known(found))
    names = [wanted] if wanted else [spec.name, *(_INPUTS if len(inputs) == 1 else ())]
    name = next((each for each in names if each in found and each not in labels), None)
    rest = [each for each in found if each not in labels]
    if name is None and len(inputs) == 1 and len(rest) == 1:
        name = rest[0]
    if name is None:
        raise UsageError(
            f"{path}: no array is named like the model's input {printable(spec.name, 60)!r}",
            _known(found) + "; --inputs '{input: array}' says which",
        )
    values = found[name]
    width = prod(values.shape[1:])
    if values.ndim == 0 or row_shape(spec.shape, width) is None:
        shape = "×".join("?" if n is None else str(n) for n in spec.shape)
        raise InputError(
            f"{path}: array {printable(name, 40)!r} of shape {values.shape} does not fill the "
            f"input {printable(spec.name, 40)!r} of {shape}, a sample at each index of the first "
            "axis"
        )
    text = values.dtype.kind in "US"
    if text != (spec.dtype == "string") or values.dtype.kind not in "fiubUS":
        raise InputError(
            f"{path}: array {printable(name, 40)!r} holds {values.dtype}, the input "
            f"{printable(spec.name, 40)!r} takes {spec.dtype}"
        )
    return values


def finite(values: np.ndarray, spec: InputSpec, scale: float | None) -> np.ndarray:
    """Which samples are finite once they are scaled and in the input's dtype."""
    if spec.dtype in ("string", "bool") or values.dtype.kind not in "fiu":
        return np.ones(len(values), bool)
    kind = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
    info: Any = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    with np.errstate(over="ignore", invalid="ignore"):
        wide = values.reshape(len(values), -1).astype(np.float64)
        wide = wide * scale if scale is not None else wide
        inside = (wide >= float(info.min)) & (wide <= float(info.max))
    return np.asarray(inside.all(axis=1))


def _columns(label: str, count: int) -> list[str]:
    return [label] if count == 1 else [f"{label}_{number}" for number in range(count)]


def _known(found: dict[str, np.ndarray]) -> str:
    return "its arrays: " + printable(", ".join(list(found)[:12]), 200)

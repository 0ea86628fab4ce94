"""Samples that are arrays in `.npy` files: a column of paths, or folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelcut.data.arrays import BROKEN, finite
from modelcut.data.by_path import (
    MOST_VALUES,
    FilesTable,
    NotFiniteError,
    check_cleaning,
    of_column,
    of_folder,
    only_input,
)
from modelcut.data.columns import row_shape
from modelcut.data.options import DataOptions, InputSpec
from modelcut.errors import InputError, UsageError
from modelcut.safety import check_path, printable

SUFFIXES = (".npy",)


@dataclass
class ArrayFiles(FilesTable):
    """An `.npy` for each sample: an array of the input's shape, or its values in one axis.

    Attributes:
        shape: the shape of all samples; of an input of open length, that of the first file.
        first: the file that has shown it.
    """

    shape: tuple[int, ...] | None = None
    first: str = ""

    def decoded(self, path: Path) -> np.ndarray:
        values = self._read(path)
        shape = _fitting(values.shape, self.spec)
        if shape is None:
            wanted = _shown(self.spec.shape)
            raise InputError(
                f"{path}: an array of {_shown(values.shape)} does not fill the model's {wanted}"
            )
        if self.shape is None:
            self.shape, self.first = shape, str(path)
        if shape != self.shape:
            raise InputError(
                f"{path}: is {_shown(shape)}, and {self.first} is {_shown(self.shape)}",
                "give all samples one length, such as by zeros at their ends",
            )
        if not finite(values[None], self.spec, self.options.scale).all():
            raise NotFiniteError(f"{path}: holds a value that is not finite in {self.spec.dtype}")
        return np.ascontiguousarray(values).reshape(shape)

    def _read(self, path: Path) -> np.ndarray:
        """The array of a file; nothing is unpickled, and no more is read than it may hold."""
        try:
            check_path(path)
            # Mapped: what the header promises is held against the size of the file, not allocated.
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(mapped, np.ndarray):
                raise ValueError("an archive of arrays, not one array")
            if mapped.size > MOST_VALUES:
                raise InputError(f"{path}: {mapped.size:,} values are more than {MOST_VALUES:,}")
            if mapped.dtype.kind not in "fiub":
                raise ValueError(f"holds {mapped.dtype}, not numbers")
            return np.array(mapped)
        except BROKEN as error:
            why = printable(" ".join(str(error).split()), 120)
            raise InputError(f"{path}: cannot be read as an .npy: {why}") from None
        except UsageError as error:
            raise InputError(error.message, error.hint) from None


def open_table(
    path: Path, options: DataOptions, inputs: Sequence[InputSpec], *, labelled: bool = True
) -> ArrayFiles:
    """Looks at a folder of folders of `.npy` files, or at a CSV with a column of paths.

    Raises:
        InputError: there are none, or the model does not take them.
        UsageError: an option names what is not there.
    """
    spec = only_input(path, "arrays by path", inputs)
    check_cleaning(options, "arrays by path")
    if path.is_dir():
        options, rows, own = of_folder(path, options, SUFFIXES, labelled=labelled)
        return ArrayFiles(path, options, spec, rows, own)
    rows, own, notes = of_column(path, options, "arrays", labelled=labelled)
    return ArrayFiles(path, options, spec, rows, own, warnings=notes)


def _fitting(shape: tuple[int, ...], spec: InputSpec) -> tuple[int, ...] | None:
    """The shape in which an array goes into the input; None where it does not."""
    if len(shape) == len(spec.shape):
        fits = all(want in (None, have) for want, have in zip(spec.shape, shape, strict=True))
        return shape if fits and 0 not in shape else None
    return row_shape(spec.shape, shape[0]) if len(shape) == 1 and shape[0] else None


def _shown(shape: Sequence[int | None]) -> str:
    return "×".join("?" if n is None else str(n) for n in shape) or "no axes"

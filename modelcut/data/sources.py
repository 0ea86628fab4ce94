"""Which source a file is, by its name: a table in text, arrays, Parquet, or a file a sample."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from modelcut.data.options import DataOptions, InputSpec
from modelcut.data.table import Table
from modelcut.errors import InputError, UsageError
from modelcut.safety import check_path

_SOURCES = {".npz": "arrays", ".npy": "arrays", ".parquet": "parquet"}
"""Suffix -> module with `open_table`; folders hold a file a sample, all else is a CSV."""

_BY_PATH = {"images": "images", "arrays": "array_files", "audio": "audio"}
"""Option that names a column of paths -> module."""


def open_table(
    path: Path, options: DataOptions, inputs: Sequence[InputSpec], *, labelled: bool = True
) -> Table:
    """Looks at a source of samples, and joins it to a model's inputs.

    Args:
        path: a CSV (also `.gz` or `.zst`), `.npz`, `.npy`, `.parquet`, or a folder of images,
            sounds or `.npy` files.
        options: how it is read.
        inputs: name, shape and dtype of each model input.
        labelled: whether labels are read; if not, they are ignored and may be missing.

    Raises:
        InputError: it is damaged, or does not fit the model.
        UsageError: an option names what is not there, or is for another source.
    """
    module = _SOURCES.get(path.suffix.lower(), "csv")
    named = next((name for name in _BY_PATH if getattr(options, name) is not None), None)
    if path.is_dir():
        if named:
            raise UsageError(
                f"--{named} {getattr(options, named)}: {path} is a folder", "leave it out"
            )
        module = _of_folder(path)
    elif named:
        module = _BY_PATH[named]
    if module != "images" and options.preprocess != "none":
        raise UsageError(
            f"--preprocess {options.preprocess}: is for images, and {path} holds none",
            "--images names a column of paths",
        )
    found: Table = import_module(f"modelcut.data.{module}").open_table(
        path, options, inputs, labelled=labelled
    )
    return found


def _of_folder(path: Path) -> str:
    """The module for the files in a folder of folders."""
    from modelcut.data import array_files, audio, images

    there = {part.suffix.lower() for part in path.rglob("*")}
    for module in (images, audio, array_files):
        if there.intersection(module.SUFFIXES):
            return module.__name__.rpartition(".")[2]
    return "images"


def check_source(path: Path) -> None:
    """Refuses what is neither a file on disk nor a folder of folders of images; looks only.

    Raises:
        UsageError: it is not there, is remote, or is a device.
        InputError: it is empty.
    """
    if not path.is_dir():
        check_path(path)
    elif not any(part.is_dir() for part in path.iterdir()):
        raise InputError(
            f"{path}: is a folder without samples",
            "a folder of images, sounds or .npy files for each class is read",
        )

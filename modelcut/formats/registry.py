"""Finds the format of a file by its content, and that of an output by its name.

Adding a format is adding a module and its line in `_FORMATS`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from modelcut.errors import InputError, ModelcutError, UsageError
from modelcut.formats.base import Format, WriteOptions
from modelcut.graph.architecture import Dialect
from modelcut.graph.scan import Finding
from modelcut.model.model import Model
from modelcut.safety import check_system, printable

_FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hdf5": ("keras.h5", (".h5", ".hdf5")),
    "saved_model_zip": ("saved_model.zip", (".zip",)),  # before `keras_zip`, which takes any zip
    "keras_zip": ("keras.keras_zip", (".keras",)),
    "saved_model": ("saved_model.folder", (".savedmodel", ".saved_model")),
    "saved_model_tar": ("saved_model.tar", (".tar.gz", ".tgz")),
    "mcut": ("mcut.container", (".mcut",)),
    "litert": ("litert.tflite", (".tflite",)),
    "onnx": ("onnx.onnx", (".onnx",)),
}
"""Name -> module with one subclass of `Format`, and suffixes of outputs; in the order of `sniff`.

The names are stored in `.mcut` files and in reports. The suffixes are here, so that no module is
imported to learn them.
"""


def names() -> tuple[str, ...]:
    """The names of all formats."""
    return tuple(_FORMATS)


def suffixes() -> tuple[str, ...]:
    """The suffixes of all formats."""
    return tuple(suffix for _, suffixes in _FORMATS.values() for suffix in suffixes)


@cache
def by_name(name: str) -> Format:
    """The format of this name.

    Raises:
        KeyError: there is none.
    """
    place, own = _FORMATS[name]
    module = import_module(f"modelcut.formats.{place}")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    # The module first: in Python 3.10 `list[int]` passes for a class, but not in issubclass.
    own_kinds = [k for k in kinds if k.__module__ == module.__name__ and issubclass(k, Format)]
    (kind,) = own_kinds
    return kind(name, own)


def of_model(model: Model) -> Format:
    """The format that a model has, inside of the file that it may be packed in."""
    return by_name(model.origin.format)


def of_file(model: Model) -> Format:
    """The format of the file that a model was read from."""
    return by_name(model.origin.container or model.origin.format)


def open_model(path: Path) -> Model:
    """Recognises a file by its content and reads it.

    Returns:
        A model that holds the file open: `with open_model(path) as model:` closes it.

    Raises:
        InputError: there is no such file, it is of no known format, or it is broken.
        UnsafeError: the file reaches outside itself.
        UsageError: this is Windows.
    """
    check_system()
    for name in _FORMATS:
        candidate = by_name(name)
        if candidate.sniff(path):
            with _damage_told(path):
                return candidate.read(path)
    raise InputError(
        f"{path}: not a model file that modelcut knows",
        "it reads Keras .h5/.hdf5 and .keras files, SavedModel folders and archives of them, "
        ".mcut, .tflite and .onnx",
    )


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Reports an unforeseen exception of a reader as damage to the file.

    Raises:
        InputError: there was one.
    """
    try:
        yield
    except (ModelcutError, OSError, MemoryError):
        raise
    except Exception as error:
        what = printable(f"{type(error).__name__}: {error}", 200)
        raise InputError(
            f"{path}: damaged, or of a kind that modelcut does not know ({what})",
            "if Keras opens it, please report it",
        ) from error


@contextlib.contextmanager
def plain_file(model: Model) -> Iterator[tuple[Path, str]]:
    """A file of a model that was read, and the suffix by which an engine recognises its format.

    Args:
        model: as it was opened, perhaps from a packed file, which is then unpacked for as long as
            the file is needed.
    """
    file_format = of_file(model)
    whole = model.origin.path.is_dir() == file_format.folder  # else it is unzipped in a folder
    if whole and not model.origin.rewritten and not file_format.packed:
        yield model.origin.path, file_format.engine_suffix
        return
    unpacked = None if model.origin.rewritten else file_format.unpacked(model)
    if unpacked is not None:
        yield unpacked, of_model(model).engine_suffix
        return
    with scratch_file(model, WriteOptions(compression="none")) as (file, inner):
        yield file, inner.engine_suffix


@contextlib.contextmanager
def scratch_file(model: Model, options: WriteOptions) -> Iterator[tuple[Path, Format]]:
    """A model written in the format it was read from, for as long as it is needed.

    Args:
        model: which.
        options: how.
    """
    writer = of_model(model)
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        file = Path(folder) / f"model{writer.engine_suffix}"
        if writer.folder:
            file.mkdir()
        writer.write(model, file, options)
        yield file, writer


def for_output(path: Path, model: Model) -> Format:
    """The format that the name of an output asks for; without a suffix, a folder.

    Raises:
        UsageError: no format has this suffix, or it cannot hold this model.
    """
    if path.name in ("", ".."):
        raise UsageError(f"{path}: is a folder, not the name of an output", "add a file name")
    suffix = suffix_of(path).lower()
    if not suffix or suffix[1:].isdigit():  # "small", or a version such as "1.2"
        suffix = ".savedmodel"
    for name, (_, own) in _FORMATS.items():
        if suffix in own:
            candidate = by_name(name)
            final = of_model(model).final
            if candidate.folder and path.is_dir() and by_name("keras_zip").sniff(path):
                raise UsageError(f"{path}: is an unzipped .keras model", "name a .keras file")
            if reason := final or candidate.refusal(model) or _beyond_engines(candidate, model):
                raise UsageError(f"{path}: {reason}")
            return candidate
    raise UsageError(
        f"{path}: unknown output format", f"use one of these suffixes: {', '.join(suffixes())}"
    )


def _beyond_engines(one: Format, model: Model) -> str:
    """Why no engine could make such a file of this model: Keras 1 wrote it."""
    known = model.architecture is None or model.architecture.dialect is not Dialect.KERAS1
    if known or not one.needs_engine(model):
        return ""
    return f"written by {model.origin.writer}, which no engine loads; name the output .h5 or .mcut"


def suffix_of(path: Path) -> str:
    """The suffix of a name, all of it where a format has one of two parts (`.tar.gz`)."""
    double = (s for s in suffixes() if s.count(".") == 2 and path.name.lower().endswith(s))
    return next((path.name[-len(s) :] for s in double), path.suffix)


def check_runnable(model: Model, *, trust: bool) -> bool:
    """Has the format check a network that is not built from an architecture.

    Returns:
        Whether it did; False: the architecture must be checked instead.

    Raises:
        UnsafeError: it would do more than compute.
        InputError: it is damaged in a part that only an engine reads.
    """
    with _damage_told(model.origin.path):
        return of_model(model).check_runnable(model, trust=trust)


def dangers(model: Model) -> list[Finding]:
    """What an engine would do with a model besides computing; see `Format.dangers`."""
    with _damage_told(model.origin.path):
        return of_model(model).dangers(model)


def facts(model: Model) -> dict[str, Any]:
    """What its format can tell about a model beside its layers, by the format's name."""
    found = of_model(model).facts(model)
    return {model.origin.format: found} if found else {}

"""One module a file format; each offers `sniff`, `read`, `write`, found here by content or name.

A format module has: `NAME` and the functions of `Format`. What is out of the ordinary it says
itself: `FOLDER` (its models are folders), `PACKED` (Keras cannot open them; `unpacked` says where
that lies which it can), `OWN_CODING` (why `--compression` is not for it), `needs_engine` (which
models of others an engine makes them of), `fixed_graph` (why a model cannot have its layers edited
on the way into it), `FINAL` (why nothing can be made of its models), and `check_runnable` where no
architecture is needed to run a network. Adding a format is adding a module and its line in
`_SUFFIXES`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from modelcut.errors import InputError, ModelcutError, UsageError
from modelcut.formats.base import Format, WriteOptions
from modelcut.graph.architecture import Dialect
from modelcut.model.model import Model
from modelcut.safety import printable

_MODULES = {
    "hdf5": "keras.h5",
    "saved_model_zip": "saved_model.zip",
    "keras_zip": "keras.keras_zip",
    "saved_model": "saved_model.folder",
    "saved_model_tar": "saved_model.tar",
    "mcut": "mcut.container",
    "litert": "litert.tflite",
}
"""Where each format is; the names are kept in `.mcut` files and in reports."""

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "hdf5": (".h5", ".hdf5"),
    "saved_model_zip": (".zip",),  # before `keras_zip`, which takes any zip
    "keras_zip": (".keras",),
    "saved_model": (".savedmodel", ".saved_model"),
    "saved_model_tar": (".tar.gz", ".tgz"),
    "mcut": (".mcut",),
    "litert": (".tflite",),
}
"""Modules in the order in which they look at a file, and what names them as an output.

Here, not in the modules, so that none is imported to learn that it is not meant.
"""


def names() -> tuple[str, ...]:
    """Of all formats."""
    return tuple(_SUFFIXES)


def suffixes() -> tuple[str, ...]:
    """By which the files of all formats are told."""
    return tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)


def module(name: str) -> Format:
    """The format of this name."""
    return cast("Format", import_module(f"modelcut.formats.{_MODULES[name]}"))


def needs_engine(one: Format, model: Model) -> bool:
    """Whether an engine makes the file of this model, which must be handed to its writer."""
    ask: Callable[[Model], bool] | None = getattr(one, "needs_engine", None)
    return ask is not None and ask(model)


def is_own(one: Format, model: Model) -> bool:
    """Whether a file of this format, or what it is an archive of, is what the model was read from.

    All that such a file holds beside the weights can go into it again.
    """
    return one.NAME.startswith(model.origin.format)


def open_model(path: Path) -> Model:
    """Recognises a file by its content and reads it.

    Raises:
        InputError: there is no such file, it is of no known format, or it is broken.
        UnsafeError: the file reaches outside itself.
    """
    for name in _SUFFIXES:
        candidate = module(name)
        if candidate.sniff(path):
            with _damage_told(path):
                return candidate.read(path)
    raise InputError(
        f"{path}: not a model file that modelcut knows",
        "it reads Keras .h5/.hdf5 and .keras files, SavedModel folders and archives of them, .mcut "
        "and .tflite",
    )


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """What a reader stumbles over lies in the file.

    Raises:
        InputError: it did.
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
    """A file of a model that was read, and the suffix by which an engine tells the format.

    Args:
        model: as it was opened, perhaps of a packed file, which is then unpacked for as long as
            the file is needed.
    """
    kind = module(model.origin.container or model.origin.format)
    whole = model.origin.path.is_dir() == is_folder(kind)  # else it lies unzipped in a folder
    if whole and not model.origin.rewritten and not getattr(kind, "PACKED", False):
        yield model.origin.path, engine_suffix(kind)
        return
    if (unpacked := getattr(kind, "unpacked", None)) is not None:
        yield unpacked(model), engine_suffix(module(model.origin.format))
        return
    with scratch_file(model, WriteOptions(compression="none")) as (file, inner):
        yield file, engine_suffix(inner)


@contextlib.contextmanager
def scratch_file(model: Model, options: WriteOptions) -> Iterator[tuple[Path, Format]]:
    """A model written in the format it was read from, for as long as it is needed.

    Args:
        model: which.
        options: how.
    """
    writer = module(model.origin.format)
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        file = Path(folder) / f"model{engine_suffix(writer)}"
        if is_folder(writer):
            file.mkdir()
        writer.write(model, file, options)
        yield file, writer


def engine_suffix(one: Format) -> str:
    """By which an engine tells a file of this format: "" for a folder."""
    return "" if is_folder(one) else _SUFFIXES[one.NAME][0]


def for_output(path: Path, model: Model) -> Format:
    """The format that the name of an output asks for; without a suffix, a folder.

    Raises:
        UsageError: no format has this suffix, or it cannot hold this model.
    """
    if path.name in ("", ".."):
        raise UsageError(f"{path}: is a place, not the name of an output", "add a name to it")
    suffix = suffix_of(path).lower()
    if not suffix or suffix[1:].isdigit():  # "small", or a version such as "1.2"
        suffix = ".savedmodel"
    for name, own in _SUFFIXES.items():
        if suffix in own:
            candidate = module(name)
            final = getattr(module(model.origin.format), "FINAL", "")
            if is_folder(candidate) and path.is_dir() and module("keras_zip").sniff(path):
                raise UsageError(f"{path}: is an unzipped .keras model", "name a .keras file")
            if reason := final or candidate.refusal(model) or _beyond_engines(candidate, model):
                raise UsageError(f"{path}: {reason}")
            return candidate
    raise UsageError(f"{path}: unknown kind of output", f"name it {', '.join(suffixes())}")


def _beyond_engines(one: Format, model: Model) -> str:
    """Why no engine could make such a file of this model: Keras 1 wrote it."""
    known = model.architecture is None or model.architecture.dialect is not Dialect.KERAS1
    if known or not needs_engine(one, model):
        return ""
    return f"written by {model.origin.writer}, which no engine loads; name the output .h5 or .mcut"


def suffix_of(path: Path) -> str:
    """The suffix of a name, all of it where a format has one of two parts (`.tar.gz`)."""
    double = (s for s in suffixes() if s.count(".") == 2 and path.name.lower().endswith(s))
    return next((path.name[-len(s) :] for s in double), path.suffix)


def check_runnable(model: Model, *, trust: bool) -> bool:
    """Lets the format look at a network that is not built from an architecture.

    Returns:
        Whether it is such a format; else the architecture must be looked at.

    Raises:
        UnsafeError: it would do more than compute.
        InputError: it is damaged where only its running looks.
    """
    check = getattr(module(model.origin.format), "check_runnable", None)
    if check is None:
        return False
    with _damage_told(model.origin.path):
        check(model, trust=trust)
    return True


def facts(model: Model) -> dict[str, Any]:
    """What its format can tell of a model besides its layers, for the report; often nothing."""
    tell = getattr(module(model.origin.format), "facts", None)
    return {model.origin.format: tell(model)} if tell else {}


def warnings(writer: Format, output: Any) -> list[str]:
    """What a user should know of a file that was written, from the report's `output`."""
    tell = getattr(writer, "warnings", None)
    return list(tell(output)) if tell else []


def is_folder(writer: Format) -> bool:
    """Whether a model of this format is a folder."""
    return bool(getattr(writer, "FOLDER", False))

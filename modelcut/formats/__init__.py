"""One module a file format; each offers `sniff`, `read`, `write`, found here by content or name.

A format module has: `NAME`, `SUFFIXES` (that name it as an output), and the functions of
`Format`. Adding a format is adding a module and its name to `_MODULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from modelcut.encoding import Encoding
from modelcut.errors import InputError, ModelcutError, UsageError
from modelcut.measure import Meter
from modelcut.model import Model, Tensor
from modelcut.safety import printable

_MODULES = ("hdf5", "keras_zip", "litert")

Compression = Literal["none", "fast", "best"]


@dataclass(frozen=True)
class WriteOptions:
    """How a model is written.

    Attributes:
        compression: none; fast (ISA-L's deflate); best (slow deflate at its highest level).
        keep_optimizer: keep the optimizer's state; refused where a shape changed.
        provenance: plain JSON data to be kept in the file's one entry of that kind.
        meter: gives the meter that watches a tensor, or None.
        convert: has an engine make a file of a model that was read from a scratch file (the model,
            where to, the name of the entry for the provenance), and gives facts about it.
    """

    compression: Compression = "fast"
    keep_optimizer: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    meter: Callable[[Tensor], Meter | None] = lambda _: None
    convert: Callable[[Model, Path, str], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Written:
    """What a writer wrote.

    Attributes:
        stored: tensor name -> bytes that its values take in the file.
        encodings: tensor name -> the encoding its values ended with.
        dropped: what was left out, in words.
        facts: about a file that an engine made.
    """

    stored: dict[str, int]
    encodings: dict[str, Encoding]
    dropped: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Format(Protocol):
    """What a module in this folder offers."""

    NAME: str
    SUFFIXES: tuple[str, ...]

    def sniff(self, path: Path) -> bool:
        """Whether the content of `path` is of this format; reads a few bytes."""

    def read(self, path: Path) -> Model:
        """Reads the architecture; tensors stay in the file until pulled. Runs no code.

        Raises:
            InputError: the file is broken.
            UnsafeError: the file reaches outside itself.
        """

    def refusal(self, model: Model) -> str:
        """Why this model cannot be written in this format; "" where it can."""

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Writes the model to a new file, one tensor at a time, the same bytes every time.

        Raises:
            ModelcutError: the model cannot be written in this format, or an edit failed.
            OSError: the file system's own words.
        """


def module(name: str) -> Format:
    """The format of this name."""
    return cast("Format", import_module(f"modelcut.formats.{name}"))


def needs_engine(one: Format) -> bool:
    """Whether a file of this format is made by an engine, which must be handed to its writer."""
    return bool(getattr(one, "NEEDS_ENGINE", False))


def open_model(path: Path) -> Model:
    """Recognises a file by its content and reads it.

    Raises:
        InputError: there is no such file, it is of no known format, or it is broken.
        UnsafeError: the file reaches outside itself.
    """
    for name in _MODULES:
        candidate = module(name)
        if candidate.sniff(path):
            try:
                return candidate.read(path)
            except (ModelcutError, OSError, MemoryError):
                raise
            except Exception as error:
                what = printable(f"{type(error).__name__}: {error}", 200)
                raise InputError(
                    f"{path}: damaged, or of a kind that modelcut does not know ({what})",
                    "if Keras opens it, please report it",
                ) from error
    raise InputError(
        f"{path}: not a model file that modelcut knows",
        "it reads Keras .h5/.hdf5 and .keras files, and LiteRT's .tflite",
    )


def for_output(path: Path, model: Model) -> Format:
    """The format that the name of an output asks for; the input's own where it does not say.

    Raises:
        UsageError: no format has this suffix, or it cannot hold this model.
    """
    suffixes: list[str] = []
    for name in _MODULES:
        candidate = module(name)
        suffixes += candidate.SUFFIXES
        if path.suffix.lower() in candidate.SUFFIXES:
            reason = candidate.refusal(model)
            if reason:
                raise UsageError(f"{path}: {reason}")
            return candidate
    raise UsageError(f"{path}: unknown kind of output", f"name it {', '.join(suffixes)}")

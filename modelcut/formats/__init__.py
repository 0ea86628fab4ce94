"""One module a file format; each offers `sniff`, `read`, `write`, found here by content or name.

A format module has: `NAME`, `SUFFIXES` (that name it as an output), and the functions of
`Format`; one whose models are folders sets `FOLDER`, one that cannot follow an edit of the
architecture says why in `FIXED_GRAPH`, and one that keeps a network which is not built from an
architecture has a `check_runnable` of its own. Adding a format is adding a module and
its name to `_MODULES`.
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

_MODULES = ("hdf5", "keras_zip", "saved_model")

Compression = Literal["none", "fast", "best"]


@dataclass(frozen=True)
class WriteOptions:
    """How a model is written.

    Attributes:
        compression: none; fast (ISA-L's deflate); best (slow deflate at its highest level).
        keep_optimizer: keep the optimizer's state; refused where a shape changed.
        provenance: plain JSON data to be kept in the file's one entry of that kind.
        meter: gives the meter that watches a tensor, or None.
    """

    compression: Compression = "fast"
    keep_optimizer: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    meter: Callable[[Tensor], Meter | None] = lambda _: None


@dataclass(frozen=True)
class Written:
    """What a writer wrote.

    Attributes:
        stored: tensor name -> bytes that its values take in the file.
        encodings: tensor name -> the encoding its values ended with.
        dropped: what was left out, in words.
    """

    stored: dict[str, int]
    encodings: dict[str, Encoding]
    dropped: tuple[str, ...] = ()


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

        A format of folders finds an empty one at `path`.

        Raises:
            ModelcutError: the model cannot be written in this format, or an edit failed.
            OSError: the file system's own words.
        """


def module(name: str) -> Format:
    """The format of this name."""
    return cast("Format", import_module(f"modelcut.formats.{name}"))


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
        "it reads Keras .h5/.hdf5 and .keras files, and SavedModel folders",
    )


def for_output(path: Path, model: Model) -> Format:
    """The format that the name of an output asks for; without a suffix, a folder.

    Raises:
        UsageError: no format has this suffix, or it cannot hold this model.
    """
    suffixes: list[str] = []
    given = path
    if not path.suffix or path.suffix[1:].isdigit():  # "small", or a version such as "1.2"
        path = path.with_name(f"{path.name}.savedmodel")
    for name in _MODULES:
        candidate = module(name)
        suffixes += candidate.SUFFIXES
        if path.suffix.lower() in candidate.SUFFIXES:
            reason = candidate.refusal(model)
            if reason:
                raise UsageError(f"{given}: {reason}")
            return candidate
    raise UsageError(f"{path}: unknown kind of output", f"name it {', '.join(suffixes)}")


def check_runnable(model: Model, *, trust: bool) -> bool:
    """Lets the format look at a network that is not built from an architecture.

    Returns:
        Whether it is such a format; else the architecture must be looked at.

    Raises:
        UnsafeError: it would do more than compute.
    """
    check = getattr(module(model.origin.format), "check_runnable", None)
    if check is None:
        return False
    check(model, trust=trust)
    return True


def is_folder(writer: Format) -> bool:
    """Whether a model of this format is a folder."""
    return bool(getattr(writer, "FOLDER", False))

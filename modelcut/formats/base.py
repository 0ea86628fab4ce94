"""What a file format offers, and how a model is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from modelcut.model.encoding import Encoding
from modelcut.model.measure import Meter
from modelcut.model.model import Model, Tensor

Coder = Literal["huffman", "range", "best"]


Compression = Literal["none", "fast", "best"]


NO_LAYERS = (
    "this SavedModel holds a graph, but no architecture of layers; name a folder, .tar.gz, .zip, "
    ".mcut or .tflite"
)
"""Why a file of layers cannot be made of some SavedModels."""


@dataclass(frozen=True)
class Hollow:
    """Tells a writer to leave the values out: they are kept elsewhere, by number.

    Attributes:
        tensors: tensor name -> (number, dtype that its values have when written).
        places: filled by the writer: place in the file -> number.
    """

    tensors: Mapping[str, tuple[int, np.dtype]]
    places: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """How an engine makes a file.

    Attributes:
        run: makes it of a model that was read from a scratch file: the model, where to, the name
            of the format, and where to put a twin of it that is not quantized (None: nowhere);
            gives facts about it.
        quantizes: it rounds weights, to grids of its own.
    """

    run: Callable[[Model, Path, str, Path | None], Mapping[str, Any]]
    quantizes: bool = False


@dataclass(frozen=True)
class WriteOptions:
    """How a model is written.

    Attributes:
        compression: none; fast (ISA-L's deflate); best (slow deflate at its highest level).
        coder: of the packed format: huffman, range, or the smaller one for each tensor.
        keep_optimizer: keep the optimizer's state; refused where a shape changed.
        provenance: gives plain JSON data to be kept in the file's one entry of that kind. Asked
            for last: it holds the input's digest, which takes as long as reading it.
        meter: gives the meter that watches a tensor, or None.
        hollow: write everything but the values of the tensors; None: write all.
        convert: how an engine makes the file; for formats that need one.
    """

    compression: Compression = "fast"
    coder: Coder = "best"
    keep_optimizer: bool = False
    provenance: Callable[[], Mapping[str, Any]] = dict
    meter: Callable[[Tensor], Meter | None] = lambda _: None
    hollow: Hollow | None = None
    convert: Conversion | None = None


@dataclass(frozen=True)
class Written:
    """What a writer wrote.

    Attributes:
        stored: tensor name -> bytes that its values take in the file.
        encodings: tensor name -> the encoding its values ended with.
        dropped: what was left out, in words.
        coders: tensor name -> the entropy coder that wrote it; empty for formats that have none.
        facts: about a file that an engine made.
    """

    stored: dict[str, int]
    encodings: dict[str, Encoding]
    dropped: tuple[str, ...] = ()
    coders: dict[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Format(Protocol):
    """What a module in this folder offers."""

    NAME: str

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


@runtime_checkable
class Packable(Protocol):
    """What a format offers so that its models can be packed (`mcut`) and come back the same."""

    def strip(self, model: Model, scratch: Path, options: WriteOptions) -> tuple[Any, Written]:
        """All that `write` would put into a file, without values and provenance, as plain data.

        Args:
            model: what to write; no tensor of it is pulled.
            scratch: a path that may be used meanwhile; nothing may be left there.
            options: `hollow` is set.

        Returns:
            Plain data (None, booleans, numbers, text, bytes, lists, dictionaries), small where the
            model is; and what was left out.
        """

    def restore(self, data: Any, path: Path) -> tuple[Model, Mapping[str, int]]:
        """The inverse of `strip`: a model that `write` writes as it would have the first one.

        Args:
            data: from `strip`, or from a stranger.
            path: of the packed file.

        Returns:
            The model, its sources empty; and, by key, the number of each tensor.

        Raises:
            InputError: the data does not hang together.
        """

"""What a file format offers, and how a model is written."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from modelcut.graph.scan import Finding, findings
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
    """Has a writer omit the values, which are stored elsewhere, by number.

    Attributes:
        tensors: tensor name -> (number, dtype of its values when written).
        places: filled by the writer: path in the file -> number.
    """

    tensors: Mapping[str, tuple[int, np.dtype]]
    places: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """How an engine makes a file, from a model that was read from a scratch file.

    Attributes:
        export: has Keras make a SavedModel: the model, and where to write; returns facts about it.
        convert: has LiteRT's converter make a `.tflite`: the model, where to write, and where to
            write a second one that is not quantized (None: nowhere); returns facts about it.
        onnx: has Keras make an `.onnx`: the model, and where to write; returns facts about it.
        quantizes: the converter quantizes weights, with scales of its own.
        refine: refines ranges and biases of a quantized `.tflite` in place, given it and its twin;
            returns facts about that. None: they stay.
    """

    export: Callable[[Model, Path], Mapping[str, Any]]
    convert: Callable[[Model, Path, Path | None], Mapping[str, Any]]
    onnx: Callable[[Model, Path], Mapping[str, Any]]
    quantizes: bool = False
    refine: Callable[[Path, Path], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How a model is written.

    Attributes:
        compression: none; fast (ISA-L's deflate); best (zlib's deflate at its highest level).
        coder: of the packed format: huffman, range, or the smaller one for each tensor.
        keep_optimizer: keep the optimizer's state; refused where a shape changed.
        provenance: gives plain JSON data to be kept in the file's one entry of that kind. Asked
            for last: it holds the input's digest, which takes as long as reading it.
        meter: gives the meter that watches a tensor, or None.
        hollow: write everything but the values of the tensors; None: write all.
        convert: how an engine makes the file; for formats that need one.
        checksums: takes the BLAKE3 of each tensor's values by its name, from formats that keep it
           ; None: none is kept.
    """

    compression: Compression = "fast"
    coder: Coder = "best"
    keep_optimizer: bool = False
    provenance: Callable[[], Mapping[str, Any]] = dict
    meter: Callable[[Tensor], Meter | None] = lambda _: None
    hollow: Hollow | None = None
    convert: Conversion | None = None
    checksums: dict[str, str] | None = None


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


class Format(abc.ABC):
    """A file format. Its module in `formats/` has one subclass, made by the registry.

    A subclass implements `sniff`, `read`, `refusal` and `write`, and overrides the defaults below
    where the format differs from a plain file of layers that Keras opens.

    Attributes:
        name: in the registry; kept in `.mcut` files and in reports.
        suffixes: by which an output of this format is recognised; the first is the usual one.
        folder: a model of this format is a folder.
        packed: no engine opens the file; see `unpacked`.
        packable: a model of this format can be packed into `.mcut`: `strip` and `restore` work.
        signatures: a model of this format may have several signatures, of which a user names one.
        entropy_coded: the writer uses `WriteOptions.coder`.
        converted: the file is a program made by LiteRT's converter, to which the settings of
            `export` and the calibration data apply.
        own_coding: why `--compression` has no effect on this format; "" where it has.
        final: why no other file can be made from a model of this format; "" where one can.
        from_modelcut: only modelcut writes files of this format.
        own_checksums: what of the format itself tells damaged values; "" where nothing does.
        facts_key: the key of a report under which the facts of a conversion stand.
    """

    folder: ClassVar[bool] = False
    packed: ClassVar[bool] = False
    packable: ClassVar[bool] = False
    signatures: ClassVar[bool] = False
    entropy_coded: ClassVar[bool] = False
    converted: ClassVar[bool] = False
    own_coding: ClassVar[str] = ""
    final: ClassVar[str] = ""
    from_modelcut: ClassVar[bool] = False
    own_checksums: ClassVar[str] = ""
    facts_key: ClassVar[str] = "export"

    def __init__(self, name: str, suffixes: tuple[str, ...]) -> None:
        """Takes its line of the registry.

        Args:
            name: see `name`.
            suffixes: see `suffixes`.
        """
        self.name = name
        self.suffixes = suffixes

    @property
    def engine_suffix(self) -> str:
        """The suffix by which an engine recognises a file of this format; "" for a folder."""
        return "" if self.folder else self.suffixes[0]

    @abc.abstractmethod
    def sniff(self, path: Path) -> bool:
        """Whether the content of `path` is of this format; reads a few bytes."""

    @abc.abstractmethod
    def read(self, path: Path) -> Model:
        """Reads the architecture; tensors are read when they are pulled. Runs no code.

        Returns:
            A model that closes what it holds open (`Origin.close`).

        Raises:
            InputError: the file is damaged.
            UnsafeError: the file reaches outside itself.
        """

    @abc.abstractmethod
    def refusal(self, model: Model) -> str:
        """Why this model cannot be written in this format; "" where it can."""

    def missing(self) -> str:
        """Which packages that make such a file are not installed, and how to get them; ""."""
        return ""

    def unconvertible(self, model: Model, kind: str) -> str:
        """Which layers an engine could not convert to a type of weights, and why; "" for none."""
        del model, kind
        return ""

    @abc.abstractmethod
    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Writes the model to a new file, one tensor at a time, the same bytes every time.

        A format of folders finds an empty one at `path`.

        Raises:
            ModelcutError: the model cannot be written in this format, or an edit failed.
            OSError: the file system's own words.
        """

    def holds_all_of(self, model: Model) -> bool:
        """Whether all that the model's file holds beside the weights can be kept in this format."""
        return model.origin.format == self.name

    def needs_engine(self, model: Model) -> bool:
        """Whether an engine makes the file of this model; `WriteOptions.convert` is then set."""
        del model
        return False

    def fixed_graph(self, model: Model) -> str:
        """Why the model's layers cannot be edited before it is written; "" where they can."""
        del model
        return ""

    def unpacked(self, model: Model) -> Path | None:
        """Where the file that was read lies unpacked, for an engine; None: nowhere yet."""
        del model
        return None

    def facts(self, model: Model) -> Mapping[str, Any]:
        """Plain data about a model that was read, for the report, beside its layers."""
        del model
        return {}

    def warnings(self, output: Any) -> Iterable[str]:
        """What a user should know about a file that was written, from the report's `output`."""
        del output
        return ()

    def dangers(self, model: Model) -> list[Finding]:
        """What an engine would do with a model besides computing, or what could; runs nothing.

        Raises:
            InputError: it is damaged in a part that only an engine reads.
        """
        text = model.architecture.text if model.architecture else model.origin.configuration
        return findings(text, model.origin.training, where=str(model.origin.path))

    def check_runnable(self, model: Model, *, trust: bool) -> bool:
        """Checks that a network which is not built from an architecture only computes.

        Returns:
            Whether it was checked; False: the architecture must be checked instead.

        Raises:
            UnsafeError: it would do more than compute, and is not trusted.
        """
        del model, trust
        return False

    def untrainable(self, model: Model) -> tuple[str, str]:
        """Why no engine can change the weights of a model that was read, and what to use instead.

        Returns:
            ("", "") where an engine can.
        """
        del model
        return "", ""

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
        raise NotImplementedError(f"{self.name} is not packable")

    def restore(self, data: Any, path: Path) -> tuple[Model, Mapping[str, int]]:
        """The inverse of `strip`: a model that `write` writes as it would have the first one.

        Args:
            data: from `strip`, or from a stranger.
            path: of the packed file.

        Returns:
            The model, its sources empty; and, by key, the number of each tensor.

        Raises:
            InputError: the data is inconsistent.
        """
        raise NotImplementedError(f"{self.name} is not packable")


@contextlib.contextmanager
def opening() -> Iterator[contextlib.ExitStack]:
    """Collects the files that a reader opens: closed if it fails, else left to the model."""
    opened = contextlib.ExitStack()
    try:
        yield opened
    except BaseException:
        opened.close()
        raise

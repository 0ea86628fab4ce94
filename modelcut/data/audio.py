"""Samples that are sounds: a column of paths to `.wav` files, or folders of them.

PCM is read by Python's own `wave`, all else (FLAC, Ogg, floats) by soundfile where that is
installed. As of `tf.audio.decode_wav` the values are from -1 to 1, and a sound is cut, or filled
with zeros, to the length that the model takes.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from modelcut.data.by_path import (
    MOST_VALUES,
    FilesTable,
    NotFiniteError,
    check_cleaning,
    of_column,
    of_folder,
    only_input,
)
from modelcut.data.options import DataOptions, InputSpec
from modelcut.errors import InputError, UsageError
from modelcut.safety import check_path

SUFFIXES = (".wav", ".flac", ".ogg")

_STREAMED = 0x7FFFF000
"""A `.wav` that was written to a pipe promises as many bytes or more: nobody knew its length."""


@dataclass
class Audio(FilesTable):
    """A sound for each sample: float32 (length,) or (length, channels).

    Attributes:
        rate: samples a second of all sounds: that of the first file.
        length: of an input of open length, that of the first file.
    """

    rate: int | None = None
    length: int | None = None

    def decoded(self, path: Path) -> np.ndarray:
        shape = self.spec.shape
        wanted = shape[0]
        channels = 1 if len(shape) == 1 else shape[1]
        try:
            check_path(path)
            values, rate = _read(path, wanted)
        except (OSError, ValueError, EOFError, RuntimeError, wave.Error) as error:
            why = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: cannot be read as audio: {why}") from None
        except UsageError as error:
            raise InputError(error.message, error.hint) from None
        if not len(values):
            raise InputError(f"{path}: holds no sound")
        if values.shape[1] != channels:
            raise InputError(
                f"{path}: has {values.shape[1]} channels, the model takes {channels}",
                "mix it to that number of channels first",
            )
        self.rate = rate if self.rate is None else self.rate
        if rate != self.rate:
            raise InputError(
                f"{path}: has {rate:,} samples a second, the files before it {self.rate:,}",
                "resample it first: the model was trained on one rate",
            )
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{path}: holds a value that is not finite")
        self.length = len(values) if self.length is None else self.length
        if wanted is None and len(values) != self.length:
            raise InputError(
                f"{path}: has {len(values):,} values, the first file {self.length:,}",
                "the model leaves the length open: give all sounds one length",
            )
        if wanted is not None and len(values) < wanted:
            values = np.pad(values, ((0, wanted - len(values)), (0, 0)))
        return values[:, 0] if len(shape) == 1 else values


def _read(path: Path, most: int | None) -> tuple[np.ndarray, int]:
    """The first values of a file, float32 (length, channels), and their number a second.

    Args:
        path: the file.
        most: how many are wanted; None: all.
    """
    most = MOST_VALUES if most is None else most
    _check_riff(path)
    try:
        with wave.open(str(path.resolve()), "rb") as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            # The header may promise anything: the file's own size bounds what is allocated.
            there = path.stat().st_size // max(1, width * channels)
            data = file.readframes(min(most, file.getnframes(), there))
            return _values(data, width).reshape(-1, channels), file.getframerate()
    except wave.Error as error:
        if find_spec("soundfile") is None:
            hint = "pip install soundfile reads more than PCM in .wav"
            raise ValueError(f"{error} ({hint})") from None
    import soundfile

    with soundfile.SoundFile(str(path.resolve())) as file:
        wanted = min(most, file.frames)
        found = file.read(frames=wanted, dtype="float32", always_2d=True)
        if len(found) < wanted:
            raise ValueError(f"is cut: {len(found):,} of {wanted:,} values are there")
        return found, int(file.samplerate)


def _check_riff(path: Path) -> None:
    """Refuses a `.wav` that was cut: zeros in the place of its end would be another sound.

    Raises:
        ValueError: it was.
    """
    with path.open("rb") as file:
        head = file.read(8)
    promised, there = int.from_bytes(head[4:], "little") + 8, path.stat().st_size
    if head[:4] == b"RIFF" and there < promised < _STREAMED:
        raise ValueError(f"is cut: {there:,} of {promised:,} bytes are there")


def _values(data: bytes, width: int) -> np.ndarray:
    """PCM as numbers from -1 to 1."""
    data = data[: len(data) // width * width]
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if width == 2:
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)
    if width == 4:
        return (np.frombuffer(data, "<i4") / float(1 << 31)).astype(np.float32)
    if width != 3:
        raise ValueError(f"PCM of {8 * width} bits")
    parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
    whole = np.zeros((len(parts), 4), np.uint8)
    whole[:, 1:] = parts  # the sign stands in the highest byte
    return (whole.reshape(-1).view("<i4") / float(1 << 31)).astype(np.float32)


def open_table(
    path: Path, options: DataOptions, inputs: Sequence[InputSpec], *, labelled: bool = True
) -> Audio:
    """Looks at a folder of folders of sounds, or at a CSV with a column of paths.

    Raises:
        InputError: there are none, or the model does not take them.
        UsageError: an option names what is not there.
    """
    spec = only_input(path, "sounds", inputs)
    flat = len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] is not None)
    if not flat or spec.dtype not in ("float32", "float64", "float16"):
        shown = "×".join("?" if n is None else str(n) for n in spec.shape)
        raise InputError(
            f"{path}: sounds are for an input of length or length × channels, in floats, not "
            f"{shown} of {spec.dtype}",
            "for spectrograms, write them to .npy files and name these with --arrays",
        )
    check_cleaning(options, "sounds")
    if path.is_dir():
        options, rows, own = of_folder(path, options, SUFFIXES, labelled=labelled)
        return Audio(path, options, spec, rows, own)
    rows, own, notes = of_column(path, options, "audio", labelled=labelled)
    return Audio(path, options, spec, rows, own, warnings=notes)

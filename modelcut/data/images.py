"""Samples that are images: a folder with a folder for each class, or paths in a CSV."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.by_path import MOST_VALUES, FilesTable, check_cleaning, of_column, of_folder
from modelcut.data.options import DataOptions, InputSpec, Preprocess
from modelcut.errors import InputError, UsageError
from modelcut.safety import check_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""What is decoded, whatever a file is called: Pillow has Ghostscript run PostScript."""
_MODES: dict[str, str] = {
    "densenet": "torch",
    "inception_resnet_v2": "tf",
    "inception_v3": "tf",
    "mobilenet": "tf",
    "mobilenet_v2": "tf",
    "nasnet": "tf",
    "resnet": "caffe",
    "resnet_v2": "tf",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "tf",
}
"""Application -> its mode of preprocessing; the others take the pixels as they are."""
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)


@dataclass
class Images(FilesTable):
    """Images of one input: height, width and channels."""

    def decoded(self, path: Path) -> np.ndarray:
        """The pixels of an image, resized to the input: float32 (height, width, channels).

        Raises:
            InputError: it is no image, is damaged, or too large.
        """
        from PIL import Image

        height, width, channels = self.spec.shape
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels or 3]
        try:
            check_path(path)
            with _without_notes(), Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > MOST_VALUES:
                    raise InputError(
                        f"{path}: {image.width} × {image.height} pixels are more than "
                        f"{MOST_VALUES:,}"
                    )
                with _without_libtiff() if image.format == "TIFF" else contextlib.nullcontext():
                    image.load()
                found = _eight_bits(image).convert(mode)
                if (found.height, found.width) != (height, width) and height and width:
                    found = found.resize((width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(found, np.float32)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            why = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: cannot be read as an image: {why}") from None
        except UsageError as error:
            raise InputError(error.message, error.hint) from None
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def preprocessed(self, values: np.ndarray) -> np.ndarray:
        return preprocessed(values, self.options.preprocess)


def open_table(
    path: Path, options: DataOptions, inputs: Sequence[InputSpec], *, labelled: bool = True
) -> Images:
    """Looks at a folder of folders of images, or at a CSV with a column of paths.

    The classes of a folder are the names of its folders in sorted order, as they are for
    `keras.utils.image_dataset_from_directory`, unless `classes` gives another order.

    Raises:
        InputError: there are no images, or the model does not take any.
        UsageError: an option names what is not there; Pillow is not installed.
    """
    if find_spec("PIL") is None:
        raise UsageError(f"{path}: images need Pillow", 'pip install "modelcut[images]"')
    spec = _image_input(path, inputs)
    check_cleaning(options, "images")
    if path.is_dir():
        options, rows, own = of_folder(path, options, SUFFIXES, labelled=labelled)
        return Images(path, options, spec, rows, own)
    rows, own, notes = of_column(path, options, "images", labelled=labelled)
    return Images(path, options, spec, rows, own, warnings=notes)


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Keeps Pillow from warning of what stands beside the pixels, such as EXIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _without_libtiff() -> Iterator[None]:
    """Keeps libtiff from writing to stderr itself what Pillow then raises."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _eight_bits(image: Any) -> Any:
    """An image whose values Pillow would clip, in 8 bits; any other as it is.

    Of 16 bits the higher ones are taken, as TensorFlow's decoders do.

    Raises:
        ValueError: its values are no pixels of 8 or 16 bits.
    """
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its values are numbers of 32 bits, not pixels; write them to .npy files")
    return image


def _image_input(path: Path, inputs: Sequence[InputSpec]) -> InputSpec:
    """The model's input, if it takes images.

    Raises:
        InputError: it does not.
    """
    shape = inputs[0].shape
    fits = len(inputs) == 1 and len(shape) == 3 and shape[-1] in (1, 3, 4)
    if not fits or None in shape or inputs[0].dtype == "string":
        shown = ", ".join("×".join("?" if n is None else str(n) for n in s.shape) for s in inputs)
        raise InputError(
            f"{path}: images are for a model with one input of height × width × 1, 3 or 4 channels "
            f"of fixed size, not {shown}"
        )
    return inputs[0]


def preprocessed(pixels: np.ndarray, way: Preprocess) -> np.ndarray:
    """Pixels as a network of Keras Applications takes them.

    Args:
        pixels: float32 (samples, height, width, channels), 0 to 255, RGB or gray.
        way: the mode, or the application's name.
    """
    mode = _MODES.get(way, way)
    if mode == "tf":
        return pixels / np.float32(127.5) - np.float32(1)
    if mode == "torch":
        return ((pixels / np.float32(255) - _MEAN) / _DEVIATION).astype(np.float32)
    if mode == "caffe":
        return pixels[..., ::-1] - _BGR_MEAN
    return pixels

"""Samples that are images: a folder with a folder for each class, or paths in a CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data.columns import INPUT, Columns
from modelcut.data.csv import Csv
from modelcut.data.dialect import CsvDialect
from modelcut.data.options import DataOptions, InputSpec, Preprocess
from modelcut.data.table import Batch, Cleaning, Table
from modelcut.errors import InputError, UsageError
from modelcut.safety import check_path, printable

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
_BLOCK = 256
_MOST_PIXELS = 64 << 20


@dataclass
class Images(Table):
    """Images of one input; see `table.Table`.

    Attributes:
        spec: the model's input: height, width and channels.
        rows: gives the path and the labels of each sample.
        own: names of the label columns.
    """

    path: Path
    options: DataOptions
    spec: InputSpec
    rows: Rows
    own: list[str]
    cleaning: Cleaning = field(default_factory=Cleaning)
    warnings: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [*self.own, *("pixel" for _ in range(self.width))]

    @property
    def labels(self) -> list[int]:
        if self.reconstructs:
            return self.features[self.spec.name]
        return list(range(len(self.own)))

    @property
    def features(self) -> dict[str, list[int]]:
        start = len(self.own)
        return {self.spec.name: list(range(start, start + prod(n or 1 for n in self.spec.shape)))}

    @property
    def reconstructs(self) -> bool:
        return self.options.label == INPUT

    def batches(self, size: int) -> Iterator[Batch]:
        self.cleaning = Cleaning()
        samples = islice(self.rows(), self.options.limit)
        while block := list(islice(samples, min(size, _BLOCK))):
            pixels, labels = [], []
            for path, label in block:
                self.cleaning.rows_read += 1
                try:
                    pixels.append(self._decoded(path))
                except InputError:
                    if self.options.clean == "fail":
                        raise
                    self.cleaning.dropped_unreadable += 1
                    continue
                labels.append(label)
            self.cleaning.rows_used += len(pixels)
            if pixels:
                yield self._batch(np.stack(pixels), labels)
        if not self.cleaning.rows_used:
            raise InputError(f"{self.path}: no usable images are left")

    def _batch(self, pixels: np.ndarray, labels: list[Any]) -> Batch:
        values = preprocessed(pixels, self.options.preprocess)
        if self.options.scale is not None:
            values = values * np.float32(self.options.scale)
        dtype = "float32" if self.spec.dtype == "bfloat16" else self.spec.dtype
        inputs = {self.spec.name: np.ascontiguousarray(values.astype(dtype))}
        if self.reconstructs:
            return Batch(inputs, values.reshape(len(values), -1).astype(np.float64))
        if not self.own:
            return Batch(inputs, None)
        table = np.stack([np.atleast_1d(np.asarray(label)) for label in labels])
        return Batch(inputs, table if table.dtype == object else table.astype(np.float64))

    def _decoded(self, path: Path) -> np.ndarray:
        """The pixels of an image, resized to the input: float32 (height, width, channels).

        Raises:
            InputError: it is no image, is damaged, or too large.
        """
        from PIL import Image

        height, width, channels = self.spec.shape
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels or 3]
        try:
            check_path(path)
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise InputError(
                        f"{path}: {image.width} × {image.height} pixels are more than "
                        f"{_MOST_PIXELS:,}"
                    )
                found = image.convert(mode)
                if (found.height, found.width) != (height, width) and height and width:
                    found = found.resize((width, height), Image.Resampling.BILINEAR)
                pixels = np.asarray(found, np.float32)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            why = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: cannot be read as an image: {why}") from None
        except UsageError as error:
            raise InputError(error.message, error.hint) from None
        return pixels[..., None] if pixels.ndim == 2 else pixels


Rows = Any
"""Called without arguments, gives an iterator over (path, labels)."""


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
    for name, plain in (("outliers", ("keep",)), ("clean", ("fail", "drop"))):
        if getattr(options, name) not in plain:
            raise UsageError(
                f"--{name} {getattr(options, name)}: is for tables, not for images", "leave it out"
            )
    if path.is_dir():
        return _of_folder(path, options, spec, labelled=labelled)
    return _of_csv(path, options, spec, labelled=labelled)


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


def _of_folder(path: Path, options: DataOptions, spec: InputSpec, *, labelled: bool) -> Images:
    if options.images is not None:
        raise UsageError(f"--images {options.images}: {path} is a folder", "leave it out")
    folders = sorted(part for part in path.iterdir() if part.is_dir())
    files = {folder: sorted(_images(folder)) for folder in folders}
    files = {folder: found for folder, found in files.items() if found}
    if not files:
        raise InputError(
            f"{path}: holds no folders with images",
            f"known: {' '.join(SUFFIXES)}, in class folders",
        )
    names = [folder.name for folder in files]
    if options.classes is None and labelled and options.label is None:
        options = replace_options(options, classes=names)

    def rows() -> Iterator[tuple[Path, Any]]:
        # One of each class in turn: a limit, and the first batches, see all of them.
        columns = [[(file, folder.name) for file in found] for folder, found in files.items()]
        for at in range(max(map(len, columns))):
            for column in columns:
                if at < len(column):
                    file, name = column[at]
                    yield file, np.array([name], object)

    own = ["class"] if labelled and options.label != INPUT else []
    return Images(path, options, spec, rows, own)


def _of_csv(path: Path, options: DataOptions, spec: InputSpec, *, labelled: bool) -> Images:
    dialect = CsvDialect.of(path, options)
    if not dialect.header:
        raise InputError(f"{path}: --images names a column, and the file has no header")
    if options.images not in dialect.first:
        raise UsageError(
            f"{path}: has no column {printable(str(options.images), 40)!r}",
            f"its columns: {printable(', '.join(dialect.first[:12]), 200)}",
        )
    # The column of paths is read as an input of text; all other columns but labels are left out.
    text = InputSpec("image", (1,), "string")
    inner = replace_options(options, images=None, scale=None, inputs={"image": [options.images]})
    columns = Columns.join(path, inner, [text], labelled=labelled)
    table = Csv(columns)

    def rows() -> Iterator[tuple[Path, Any]]:
        for batch in table.batches(1024):
            for index, name in enumerate(batch.inputs["image"].reshape(-1)):
                label = None if batch.labels is None else batch.labels[index]
                yield path.parent / str(name), label

    own = [] if table.reconstructs else [columns.names[index] for index in columns.labels]
    return Images(path, options, spec, rows, own, warnings=[*dialect.notes, *columns.notes])


def replace_options(options: DataOptions, **fields: Any) -> DataOptions:
    """The options with some fields replaced."""
    return options.model_copy(update=fields)


def _images(folder: Path) -> Iterator[Path]:
    for part in folder.rglob("*"):
        if part.suffix.lower() in SUFFIXES and part.is_file():
            yield part


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

"""What a user may say about a CSV, and what a model says about its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

from modelcut.errors.strict import Strict
from modelcut.metrics.each import AS_GIVEN, ONE_OR_EACH, schema


def _fraction(value: Any) -> Any:
    """A number from text such as "1/255"."""
    if isinstance(value, str) and value.count("/") == 1:
        above, below = value.split("/")
        try:
            return float(above) / float(below)
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _mark(value: Any) -> Any:
    """One character between cells, or "auto"; a tab may be written as backslash and t."""
    if not isinstance(value, str) or value == "auto":
        return value
    mark = "\t" if value == "\\t" else value
    if len(mark) != 1 or mark in '"\r\n' or not mark.isascii():
        raise ValueError("one character, such as ',' or '\\t', no quote and no line end")
    return mark


def _nonzero(value: float) -> float:
    if value == 0:
        raise ValueError("0 makes all samples alike; a factor such as 1/255, or none")
    return value


Factor = Annotated[float, BeforeValidator(_fraction), AfterValidator(_nonzero)]


def _words(value: Any) -> Any:
    """Class names, those that YAML reads as numbers as they are written.

    Raises:
        ValueError: YAML has read one as a Boolean.
    """
    if not isinstance(value, list):
        return value
    if any(isinstance(name, bool) for name in value):
        raise ValueError(_BOOLEAN)
    return [str(name) if isinstance(name, (int, float)) else name for name in value]


def _label(value: Any) -> Any:
    """A column, several, or those of each output; anything else in one message.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, dict) and value:
        parts = list(value.values())
    else:
        parts = [value] if value is not None else []
    for part in parts:
        names = part if isinstance(part, list) else [part]
        if any(isinstance(name, bool) for name in names):
            raise ValueError(_BOOLEAN)
        if not names or not all(isinstance(name, (int, str)) for name in names):
            raise ValueError("a column's name or number, a list of them, or {output: column}")
    return value


_BOOLEAN = "YAML reads yes, no, on, off, true and false as Booleans: put names in quotes, as 'no'"
Column = int | str
Label = Annotated[
    Column | list[Column] | dict[str, Column | list[Column]] | None, BeforeValidator(_label)
]
Classes = Annotated[
    list[str],
    BeforeValidator(_words),
    ONE_OR_EACH,
    AS_GIVEN,
    schema({"type": "array", "items": {"type": "string"}}),
]


Preprocess = Literal[
    "none",
    "tf",
    "torch",
    "caffe",
    "convnext",
    "densenet",
    "efficientnet",
    "efficientnet_v2",
    "inception_resnet_v2",
    "inception_v3",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3",
    "nasnet",
    "resnet",
    "resnet_v2",
    "vgg16",
    "vgg19",
    "xception",
]


class DataOptions(Strict):
    """How a CSV is read: which columns are what, and what is done with bad rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    label: Label = Field(
        default=None,
        description="Label column (name, or index from 0) or array of an .npz, a list of them, or "
        "{output: column}; default: the column named label, target, class or y, otherwise the "
        "last; input: the inputs themselves, for an autoencoder.",
    )
    classes: Classes | None = Field(
        default=None,
        description="Class names in the order of the outputs, such as [cat, dog], or {output: "
        "names}; all labels, including numbers, are looked up among them.",
        json_schema_extra={"repeat": True},
    )
    inputs: dict[str, list[str] | str] | None = Field(
        default=None,
        description="Columns (names, or a glob) that feed each model input, by the input's name.",
    )
    scale: Factor | None = Field(
        default=None, description="Factor that all features are multiplied by, such as 1/255."
    )
    header: bool | Literal["auto"] = Field(
        default="auto",
        description="Whether the first line holds the column names; auto detects it.",
    )
    delimiter: Annotated[str, BeforeValidator(_mark)] = Field(
        default="auto",
        description="Character that separates the cells of a row, such as ';' or '\\t'; auto "
        "detects commas, semicolons, tabs and bars.",
    )
    clean: Literal["fail", "drop", "impute"] = Field(
        default="fail",
        description="Rows with missing, non-finite or unreadable cells: raise an error, drop "
        "them, or impute the column's mean (rows with missing text are dropped).",
    )
    outliers: Literal["keep", "clip", "drop"] = Field(
        default="keep",
        description="Treatment of values beyond outlier-z or outlier-range: keep "
        "them, clip them, or drop the row.",
    )
    outlier_z: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Outliers are values further than this many standard "
        "deviations from the column's mean.",
    )
    outlier_range: tuple[float, float] | None = Field(
        default=None, description="Outliers are values outside [minimum, maximum], before scaling."
    )
    signature: str | None = Field(
        default=None,
        description="Signature of a SavedModel to run (default: serving_default); NAME:OUTPUT "
        "selects one of its outputs.",
    )
    images: str | None = Field(
        default=None,
        description="Column of a CSV that holds the paths of images, relative to the CSV; a folder "
        "of folders, one for each class, needs no column.",
    )
    arrays: str | None = Field(
        default=None,
        description="Column of a CSV that holds the paths of .npy files, relative to the CSV: a "
        "sample each, of the input's shape.",
    )
    audio: str | None = Field(
        default=None,
        description="Column of a CSV that holds the paths of .wav files, relative to the CSV: a "
        "sample each, from -1 to 1, cut or filled with zeros to the input's length.",
    )
    preprocess: Preprocess = Field(
        default="none",
        description="How the pixels of images, 0 to 255, are preprocessed, as by the Keras "
        "application of this name: tf (-1 to 1), torch (mean and deviation of ImageNet), caffe "
        "(BGR, mean of ImageNet), none; scale multiplies afterwards.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Maximum number of rows to read."
    )

    @model_validator(mode="after")
    def _one_kind_of_files(self) -> Self:
        named = [name for name in ("images", "arrays", "audio") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)}: samples are of one kind")
        return self

    @model_validator(mode="after")
    def _outliers_are_defined(self) -> Self:
        rules = [r for r in ("outlier_z", "outlier_range") if getattr(self, r) is not None]
        if self.outliers != "keep" and len(rules) != 1:
            raise ValueError("outliers needs outlier_z or outlier_range")
        if self.outliers == "keep" and rules:
            raise ValueError(f"{rules[0]} has no effect with outliers: keep; use clip or drop")
        if self.outlier_range and self.outlier_range[0] > self.outlier_range[1]:
            raise ValueError("outlier_range: the minimum is larger than the maximum")
        return self


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: name of the model input.
        shape: without the batch axis; None for an axis of any length.
        dtype: such as float32, int32, string.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

"""What a user may say about a `.tflite` that is to be made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self


class ExportOptions(BaseModel):
    """How a `.tflite` is made of a network; said only where the output is one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    type: Literal["float32", "float16", "dynamic", "int4", "int8", "int16x8"] = Field(
        default="float32",
        description="Data type of a .tflite: dynamic and int4 quantize the weights to 8 or 4 "
        "bits, int8 and int16x8 the activations too.",
    )
    io: Literal["float32", "int8"] = Field(
        default="float32", description="Data type of the inputs and outputs of an int8 .tflite."
    )
    samples: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=100,
        description="Number of calibration samples for int8 and int16x8, spread over the CSV.",
    )

    sparse: bool = Field(
        default=False,
        description="Write pruned kernels of a float32 .tflite in LiteRT's sparse form: smaller, "
        "and faster for dense layers pruned in blocks of 4 inputs; both are measured.",
    )
    c_array: bool = Field(
        default=False,
        description="Also write the .tflite as a C array (.h), with the measured "
        "size of the tensor arena.",
    )

    refine: Literal["auto", "none"] = Field(
        default="auto",
        description="auto: after the conversion to int8 or int16x8, choose narrower ranges for "
        "activations (int8) and correct the biases, where the outputs come nearer to those in "
        "floats on calibration samples.",
    )
    layer_errors: bool = Field(
        default=False,
        description="Measure how far each layer's outputs are from the original network's, as "
        "mean squared error and signal-to-noise ratio, on up to 64 calibration samples.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.io == "int8" and self.type != "int8":
            raise ValueError("io: int8 goes with type: int8 only")
        if self.sparse and self.type != "float32":
            raise ValueError("sparse goes with type: float32 only; LiteRT cannot run others")
        if self.sparse and self.c_array:
            raise ValueError("c_array: LiteRT for Microcontrollers does not support sparse kernels")
        return self

    @property
    def calibrated(self) -> bool:
        """Whether rows are needed."""
        return self.type in ("int8", "int16x8")

    @property
    def refines(self) -> bool:
        """Whether ranges and biases are refined after the conversion."""
        return self.calibrated and self.refine == "auto"

    @property
    def quantizes(self) -> bool:
        """Whether weights are rounded to whole numbers."""
        return self.type not in ("float32", "float16")

"""Uniform quantization: values on 2^bits equidistant levels (Jacob et al. 2018, section 2.1)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.model.encoding import Encoding
from modelcut.model.encodings.affine import Affine
from modelcut.model.model import Model, Tensor
from modelcut.model.rewrite import ByRows, Edit, Rewrite, leave
from modelcut.steps.base import CODED, NOT_FINITE, STORED_KINDS, Context
from modelcut.steps.quantize import TOO_LARGE, _dealing
from modelcut.steps.quantize._calibrated import Calibrated, Survey
from modelcut.steps.quantize._cells import Cells, fits
from modelcut.steps.quantize._ranges import best_shrink, extremes, scale_of, weighted_shrink
from modelcut.steps.strength import Budgeted, Strength


class Linear(Budgeted, Calibrated):
    """Uniform quantization of weights; zero is exactly representable."""

    aims: ClassVar[frozenset[str]] = STORED_KINDS
    strength: ClassVar[Strength] = Strength(
        "bits", (8, 7, 6, 5, 4, 3, 2), instead=("average_bits", "parameter_bytes"), needed=False
    )
    refuses: ClassVar[dict[str, str]] = CODED
    global_fields: ClassVar[frozenset[str]] = frozenset(
        {"average_bits", "parameter_bytes", "output_error"}
    )

    bits: Annotated[int, Field(ge=2, le=8)] | Literal["auto"] = Field(
        default=8,
        description="Bits per weight, 2 to 8. auto: the fewest bits in total with which the "
        "network's outputs are predicted to change by at most output_error, 2 to 8 for each layer, "
        "by the effect of each layer on the outputs, measured over calibration samples.",
    )
    average_bits: Annotated[float, Field(ge=2, le=8)] | None = Field(
        default=None,
        description="Average bits per weight, instead of bits: each layer gets 2 to 8, allotted "
        "where they reduce the relative error most, that of a layer whose outputs sum n inputs "
        "divided by the root of n; with rounding: gptq or range: output, the effect on the "
        "network's outputs, measured over calibration samples. Layers whose bits are set by "
        "overrides are not counted.",
    )
    parameter_bytes: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Most bytes of all parameters of the model, in a plain fixed-length code, "
        "instead of bits: allotted as with average_bits.",
    )
    output_error: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="With bits: auto, how much the network's outputs may change: the root of the "
        "mean squared change, by the outputs' standard deviation (default: 0.05).",
    )
    symmetric: bool = Field(
        default=True,
        description="Symmetric quantization (zero point 0, without the lowest code); otherwise the "
        "range is from minimum to maximum. At 2 bits these are three levels or four.",
    )
    per: Literal["tensor", "channel"] = Field(
        default="channel", description="One scale and zero point per tensor or per output channel."
    )
    group: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="With per: channel, group size: one scale and zero point for every so many "
        "neighbours along the input axis.",
    )
    range: Literal["minmax", "percentile", "mse", "output"] = Field(
        default="minmax",
        description="How the range is chosen: minimum and maximum, a percentile, the range of "
        "minimum squared error of the weights (mse), or of the layer's outputs over calibration "
        "samples (output: each weight's error counts by the mean square of its input). mse is the "
        "optimum for the weights, but clipping shrinks the variance of outputs, so that alone it "
        "can lose to minmax (76.6 % against 83.6 % on a depthwise network at 3 bits); with "
        "correct, which puts the variance right, it wins.",
    )
    percentile: Annotated[float, Field(gt=50, le=100)] | None = Field(
        default=None,
        description="With range: percentile, the percentile above which magnitudes "
        "are clipped (default: 99.9).",
    )
    scales: Literal["rounded", "exact"] = Field(
        default="rounded",
        description="rounded: scales are rounded up to few significant bits (6 at 8 bits per "
        "weight, 7 at 7, else 8), by at most 3.1 % at 8 bits, so that .h5 and .keras files "
        "compress better. exact: the end of the range divided by the largest code, such as "
        "max/127.",
    )

    @model_validator(mode="after")
    def _fields_are_used(self) -> Self:
        if self.percentile is not None and self.range != "percentile":
            raise ValueError("percentile is for range: percentile only")
        if self.group is not None and self.per == "tensor":
            raise ValueError("group needs per: channel")
        if self.group is not None and self.range == "percentile":
            raise ValueError("group: too few values for range: percentile; use another range")
        if self.output_error is not None and self.bits != "auto":
            raise ValueError("output_error is for bits: auto only")
        if any(own.get("bits") == "auto" for own in self.overrides.values()):
            raise ValueError("overrides: bits: auto is for the whole step")
        return self

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("affine",)

    @property
    def looks(self) -> bool:
        ranges = [self.range, *(own.get("range") for own in self.overrides.values())]
        return super().looks or "output" in ranges or self.bits == "auto"

    def survey_model(
        self, model: Model, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Survey, dict[str, Any]]:
        """Where bits are dealt out: the cost and the error of each layer at each width."""
        widths: dict[str, int] = {}
        facts: dict[str, Any] = {}
        dealt = [pair for pair in targets if pair[1].dealt_out and not pair[1].no_groups(pair[0])]
        if dealt:
            widths, facts = _dealing.deal(self, model, dealt, context)
        facts["scale_bits"] = {
            tensor.name: settings._scale_bits(settings._bits_of(tensor, widths))
            for tensor, settings in targets
            if not settings.no_groups(tensor)
        }
        return Survey(widths), facts

    def edit(self, tensor: Tensor, survey: Survey, context: Context) -> Edit | str:
        del context
        reason = self.no_groups(tensor)
        if reason:
            return reason
        cells = self.cells(tensor)
        bits = self._bits_of(tensor, survey.more)
        importance = survey.importance.get(tensor.name)

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            grid = self.grid_of(values, cells, encoding, bits, importance)
            if isinstance(grid, str):
                return leave(encoding, grid)
            after = encoding.recoded(grid)
            return Rewrite(after)

        return ByRows(plan) if self.range == "minmax" else plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "affine") if "sparse" in tensor.kinds else ("affine",)

    @property
    def weighs(self) -> bool:
        return self.range == "output"

    def _bits_of(self, tensor: Tensor, dealt: dict[str, int]) -> int:
        if not self.dealt_out:
            assert isinstance(self.bits, int)
            return self.bits
        return dealt.get(tensor.name, _dealing.WIDTHS[-1])

    @property
    def dealt_out(self) -> bool:
        """Whether the widths of layers are dealt out."""
        return (
            self.bits == "auto" or self.average_bits is not None or self.parameter_bytes is not None
        )

    def _scale_bits(self, bits: int) -> int:
        """Significant bits of the scales; the coarser the codes, the finer the scale."""
        return 24 if self.scales == "exact" else min(8, 14 - bits)

    def no_groups(self, tensor: Tensor) -> str:
        """Why a tensor cannot be cut into the groups that were asked for; "" where it can."""
        if self.group and (tensor.in_axis is None or tensor.in_axis == tensor.out_axis):
            return "has no axis of inputs to cut into groups"
        return ""

    def cells(self, tensor: Tensor) -> Cells:
        """The parts of a tensor that have a scale of their own."""
        axis = tensor.out_axis if self.per == "channel" else None
        if self.group and tensor.in_axis is not None:
            return Cells(tensor.shape, axis, self.group, tensor.in_axis)
        return Cells(tensor.shape, axis)

    def grid_of(
        self,
        values: np.ndarray,
        cells: Cells,
        encoding: Encoding,
        bits: int,
        importance: np.ndarray | None = None,
        *,
        quick: bool = False,
    ) -> Affine | str:
        """The encoding of a tensor, or why it has none; `quick` samples fewer values.

        `importance` is what the squared error of each weight counts, with range: output; a tensor
        whose inputs are not known has none, and gets the range of least error of its weights.
        """
        low, high = extremes(values, cells)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return NOT_FINITE
        make = partial(self._grid, bits=bits, cells=cells, dtype=values.dtype)
        step = (high - low) / ((1 << bits) - 1)
        # The last code of an asymmetric range may lie a step beyond the last value.
        if not fits(step if self.symmetric else np.maximum(-low, high) + step, values.dtype):
            return TOO_LARGE
        if self.range == "percentile":
            low, high = self._clipped(values, cells, sparse=encoding.masked)
        if self.range == "output" and importance is not None:
            shrink = weighted_shrink(values, cells, make, low, high, importance)
            low, high = low * shrink, high * shrink
        elif self.range in ("mse", "output"):
            shrink = best_shrink(values, cells, make, low, high, quick=quick)
            low, high = low * shrink, high * shrink
        return make(low, high)

    def _grid(
        self, low: np.ndarray, high: np.ndarray, *, bits: int, cells: Cells, dtype: np.dtype
    ) -> Affine:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        places = {"group": cells.group, "group_axis": cells.group_axis}
        if self.symmetric:
            steps = (1 << (bits - 1)) - 1
            scale = scale_of(np.maximum(-low, high), steps, self._scale_bits(bits), dtype)
            return Affine(bits, scale, None, **places)
        steps = (1 << bits) - 1
        scale = scale_of(high - low, steps, self._scale_bits(bits), dtype)
        zero = np.clip(np.rint(-low / scale), 0, steps)
        return Affine(bits, scale, zero.astype(np.int32), **places)

    def _clipped(
        self, values: np.ndarray, cells: Cells, *, sparse: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        share = self.percentile if self.percentile is not None else 99.9
        rows = cells.sample(values, values.size)
        low, high = np.empty(len(rows)), np.empty(len(rows))
        for index, row in enumerate(rows):
            kept = row[row != 0] if sparse else row
            kept = kept if kept.size else np.zeros(1)
            if self.symmetric:
                high[index] = np.percentile(np.abs(kept), share)
                low[index] = -high[index]
            else:
                low[index], high[index] = np.percentile(kept, [100 - share, share])
        return low.reshape(cells.counts), high.reshape(cells.counts)

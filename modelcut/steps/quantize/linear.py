"""Uniform quantization: values on 2^bits equidistant levels (Jacob et al. 2018, section 2.1)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.arrays.blocks import row_blocks
from modelcut.model.encoding import Encoding
from modelcut.model.encodings.affine import Affine
from modelcut.model.model import Edit, Rewrite, Tensor, leave
from modelcut.steps.base import CODED, NOT_FINITE, Context, TensorStep
from modelcut.steps.quantize import TOO_LARGE, _kmeans, _widths
from modelcut.steps.quantize._cells import Cells, fits, short, wide
from modelcut.steps.quantize._search import least
from modelcut.steps.strength import Budgeted, Strength

_WIDTHS = range(2, 9)
_LOOKS = (0.05, 1.0, 15)
_MANY_LOOKS = (1e-3, 1.0, 400)
_GUARDS = (1.0, 1.15, 1.4)
_SAMPLE = 1 << 21
_SURVEYED = 1 << 19
_SQUARES_FIT = 1e15
"""Up to here, a block's squares can be summed in float32."""


class Linear(Budgeted, TensorStep):
    """Uniform quantization of weights; zero is exactly representable."""

    strength: ClassVar[Strength] = Strength(
        "bits", (8, 7, 6, 5, 4, 3, 2), instead=("average_bits",), needed=False
    )
    refuses: ClassVar[dict[str, str]] = CODED
    global_fields: ClassVar[frozenset[str]] = frozenset({"average_bits"})

    bits: Annotated[int, Field(ge=2, le=8)] = Field(
        default=8, description="Bits per weight, 2 to 8."
    )
    average_bits: Annotated[float, Field(ge=2, le=8)] | None = Field(
        default=None,
        description="Average bits per weight, instead of bits: each layer gets 2 to 8, allotted "
        "where they reduce the relative error most. Layers whose bits are set by overrides are "
        "not counted.",
    )
    symmetric: bool = Field(
        default=True,
        description="Symmetric quantization (zero point 0); otherwise the range is "
        "from minimum to maximum.",
    )
    per: Literal["tensor", "channel"] = Field(
        default="channel", description="One scale and zero point per tensor or per output channel."
    )
    group: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="With per: channel, group size: one scale and zero point for every so many "
        "neighbours along the input axis.",
    )
    range: Literal["minmax", "percentile", "mse"] = Field(
        default="minmax",
        description="How the range is chosen: minimum and maximum, a percentile, or the range of "
        "minimum mean squared error of the weights (mse). The latter is the optimum for the "
        "weights, but clipping reduces the variance of a layer's outputs, which can cost "
        "accuracy: 76.6 % against 83.6 % with minmax on a depthwise network at 3 bits.",
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
            raise ValueError("group: too few values for range: percentile; use minmax or mse")
        return self

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("affine",)

    def survey(
        self, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Any, dict[str, Any]]:
        """For an average of bits: the error of each layer at each width."""
        sizes: dict[str, int] = {}
        errors: dict[str, list[float]] = {}
        for tensor, settings in targets:
            if settings.average_bits is None or settings._reason_against_groups(tensor):
                continue
            values, encoding = tensor.pull()
            cells, values = settings._part(settings._cells(tensor), values)
            found = [settings._relative_error(values, cells, encoding, width) for width in _WIDTHS]
            if None not in found:
                sizes[tensor.name] = tensor.size
                errors[tensor.name] = [error for error in found if error is not None]
        widths: dict[str, int] = {}
        facts: dict[str, Any] = {}
        if sizes and self.average_bits is not None:
            widths = _widths.deal(sizes, errors, _WIDTHS, self.average_bits)
            spent = sum(size * widths[name] for name, size in sizes.items())
            facts = {"bits": widths, "average_bits": spent / sum(sizes.values())}
            context.say(f"{facts['average_bits']:.3g} bits on average")
        facts["scale_bits"] = {
            tensor.name: settings._scale_bits(settings._bits_of(tensor, widths))
            for tensor, settings in targets
            if not settings._reason_against_groups(tensor)
        }
        return widths, facts

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del context
        reason = self._reason_against_groups(tensor)
        if reason:
            return reason
        cells = self._cells(tensor)
        bits = self._bits_of(tensor, survey)

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            grid = self._grid_of(values, cells, encoding, bits)
            if isinstance(grid, str):
                return leave(encoding, grid)
            after = encoding.recoded(grid)
            return Rewrite(after)

        return plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "affine") if "sparse" in tensor.kinds else ("affine",)

    def _bits_of(self, tensor: Tensor, dealt: dict[str, int]) -> int:
        return self.bits if self.average_bits is None else dealt.get(tensor.name, self.bits)

    def _scale_bits(self, bits: int) -> int:
        """Significant bits of the scales; the coarser the codes, the finer the scale."""
        return 24 if self.scales == "exact" else min(8, 14 - bits)

    def _reason_against_groups(self, tensor: Tensor) -> str:
        if self.group and (tensor.in_axis is None or tensor.in_axis == tensor.out_axis):
            return "has no axis of inputs to cut into groups"
        return ""

    def _cells(self, tensor: Tensor) -> Cells:
        axis = tensor.out_axis if self.per == "channel" else None
        if self.group and tensor.in_axis is not None:
            return Cells(tensor.shape, axis, self.group, tensor.in_axis)
        return Cells(tensor.shape, axis)

    def _part(self, cells: Cells, values: np.ndarray) -> tuple[Cells, np.ndarray]:
        """What a survey looks at: of a large tensor in groups of rows, the first ones."""
        if not cells.group or cells.group_axis != 0 or values.size <= _SAMPLE:
            return cells, values
        rows = max(1, _SAMPLE * len(values) // values.size // cells.group) * cells.group
        values = values[:rows]
        return Cells(values.shape, cells.axis, cells.group, cells.group_axis), values

    def _relative_error(
        self, values: np.ndarray, cells: Cells, encoding: Encoding, bits: int
    ) -> float | None:
        """Squared error over sum of squares at a width, on some blocks of a large tensor."""
        grid = self._grid_of(values, cells, encoding, bits, quick=True)
        if isinstance(grid, str):
            return None
        after = encoding.recoded(grid)
        signal, noise = 0.0, 0.0
        blocks = row_blocks(values.shape, values.dtype.itemsize, max(1, cells.group))
        for rows in blocks[:: max(1, len(blocks) // 4)]:
            part = values[rows]
            delta = wide(part) - wide(after.project(part, rows))
            signal += float(np.square(wide(part), dtype=np.float64).sum())
            noise += float(np.square(delta, dtype=np.float64).sum())
        return noise / signal if signal else 0.0

    def _grid_of(
        self,
        values: np.ndarray,
        cells: Cells,
        encoding: Encoding,
        bits: int,
        *,
        quick: bool = False,
    ) -> Affine | str:
        """The encoding of a tensor, or why it has none; `quick` samples fewer values."""
        low, high = _extremes(values, cells)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return NOT_FINITE
        make = partial(self._grid, bits=bits, cells=cells, dtype=values.dtype)
        step = (high - low) / ((1 << bits) - 1)
        # The last code of an asymmetric range may lie a step beyond the last value.
        if not fits(step if self.symmetric else np.maximum(-low, high) + step, values.dtype):
            return TOO_LARGE
        if self.range == "percentile":
            low, high = self._clipped(values, cells, sparse=encoding.masked)
        if self.range == "mse":
            shrink = _best_shrink(values, cells, make, low, high, quick=quick)
            low, high = low * shrink, high * shrink
        return make(low, high)

    def _grid(
        self, low: np.ndarray, high: np.ndarray, *, bits: int, cells: Cells, dtype: np.dtype
    ) -> Affine:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        places = {"group": cells.group, "group_axis": cells.group_axis}
        if self.symmetric:
            steps = (1 << (bits - 1)) - 1
            scale = _scale(np.maximum(-low, high), steps, self._scale_bits(bits), dtype)
            return Affine(bits, scale, None, **places)
        steps = (1 << bits) - 1
        scale = _scale(high - low, steps, self._scale_bits(bits), dtype)
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


def _scale(span: np.ndarray, steps: int, kept: int, dtype: np.dtype) -> np.ndarray:
    """The scale for `span`; a cell of span 0 gets 1, which puts its zeros on code zero.

    Rounded up to `kept` significant bits, or down where the last code would not fit the type; of
    24, all that a float32 has, to the nearest. For codes of 8 bits 6 are kept: the error of the
    weights grows by the 1 % that the scales grow on average, and the deflated file is an eighth
    smaller.
    """
    import ml_dtypes

    exact = np.asarray(span, np.float64) / steps
    most = min(float(ml_dtypes.finfo(dtype).max), float(np.finfo(np.float32).max))
    up = short(exact, np.ceil if kept < 24 else np.rint, kept)
    down = short(exact, np.floor, kept)
    scale = np.where(up.astype(np.float64) * steps > most, down, up)
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))


def _extremes(values: np.ndarray, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum of each cell; not finite where a value is not."""
    low = cells.reduce(values, np.minimum, lambda part, _: (wide(part),))[0]
    high = cells.reduce(values, np.maximum, lambda part, _: (wide(part),))[0]
    return low, high


def _best_shrink(
    values: np.ndarray, cells: Cells, make: Any, low: np.ndarray, high: np.ndarray, *, quick: bool
) -> np.ndarray:
    """How far each cell's range shrinks for the least squared error.

    A whole tensor is looked at as a fine histogram; of long channels a sample is searched, and the
    best of it held against wider ranges, for the sake of what the sample missed, on all values.
    """
    looks = np.geomspace(*_LOOKS)
    if cells.group:
        return least(_loss_of_all(values, make, cells, low, high), looks[::2], cells.counts, 6)
    if cells.axis is None:
        line, _ = _kmeans.line_of(values, zeros=False)
        if not line.points.size:
            return np.ones(cells.counts)
        points, weights = line.points[None], line.weights[None]
        many = looks if quick else np.geomspace(*_MANY_LOOKS)
        return least(_loss_of_rows(points, weights, make, low, high), many, cells.counts, 12)
    count = max(256, (_SURVEYED if quick else _SAMPLE) // max(1, low.size))
    sample = cells.sample(values, count).astype(np.float32)
    best = least(_loss_of_rows(sample, None, make, low, high), looks, cells.counts, 8)
    if quick or sample.size == values.size:
        return best
    loss = _loss_of_all(values, make, cells, low, high)
    tried = np.stack([np.minimum(best * guard, 1.0) for guard in _GUARDS] + [np.ones(low.shape)])
    losses = np.stack([loss(shrink) for shrink in tried])
    found: np.ndarray = np.take_along_axis(tried, losses.argmin(axis=0)[None], axis=0)[0]
    return found


def _loss_of_rows(
    rows: np.ndarray, weights: np.ndarray | None, make: Any, low: np.ndarray, high: np.ndarray
) -> Any:
    """Squared error of each row, a cell each, when its range shrinks."""

    def loss(shrink: np.ndarray) -> np.ndarray:
        grid = make(low * shrink, high * shrink)
        zero = grid.zero_point
        flat = Affine(
            grid.width,
            grid.scale.reshape(-1, 1),
            None if zero is None else zero.reshape(-1, 1),
        )
        found = Cells(rows.shape, 0).reduce(rows, np.add, partial(_squares, flat, weights))[0]
        return found.reshape(shrink.shape)

    return loss


def _loss_of_all(
    values: np.ndarray, make: Any, cells: Cells, low: np.ndarray, high: np.ndarray
) -> Any:
    """The same over all values of each cell."""

    def loss(shrink: np.ndarray) -> np.ndarray:
        grid = make(low * shrink, high * shrink)
        return cells.reduce(values, np.add, partial(_squares, grid, None))[0]

    return loss


def _squares(
    grid: Affine, weights: np.ndarray | None, part: np.ndarray, rows: slice
) -> tuple[np.ndarray]:
    delta = wide(part) - wide(grid.project(part, rows))
    if delta.size and max(float(delta.max()), -float(delta.min())) > _SQUARES_FIT:
        delta = delta.astype(np.float64)
    delta *= delta
    return (delta if weights is None else delta * weights[rows],)

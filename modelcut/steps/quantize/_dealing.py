"""Bits dealt out over layers by what each width costs there: see `linear`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from modelcut.arrays.blocks import row_blocks
from modelcut.errors import RecipeError
from modelcut.model.encoding import Encoding
from modelcut.model.encodings.affine import Affine
from modelcut.model.measure import summarize
from modelcut.model.model import Layer, Model, Tensor
from modelcut.steps.base import Context
from modelcut.steps.hessian import Sums
from modelcut.steps.operands import Operand, operand
from modelcut.steps.quantize import _widths
from modelcut.steps.quantize._calibrated import RoundedTensor, importance
from modelcut.steps.quantize._cells import Cells, wide
from modelcut.steps.quantize._effects import Effects
from modelcut.steps.samples import Samples

WIDTHS = range(2, 9)
"""Bits that a layer may get."""
_SAMPLE = 1 << 21
OUTPUT_ERROR = 0.05


class Gridded(Protocol):
    """What is asked of the step whose bits are dealt out; see `linear`."""

    bits: int | Literal["auto"]
    average_bits: float | None
    parameter_bytes: int | None
    output_error: float | None
    rows: int
    rounding: Literal["nearest", "gptq"]

    @property
    def title(self) -> str: ...

    @property
    def looks(self) -> bool: ...

    def cells(self, tensor: Tensor) -> Cells:
        """The parts of a tensor that have a scale of their own."""

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
        """The grid of a tensor, or why it has none."""

    def rounded(
        self,
        view: Operand,
        sums: Sums,
        values: np.ndarray,
        encoding: Encoding,
        nearest: tuple[np.ndarray, Encoding],
    ) -> RoundedTensor:
        """The values rounded so that the layer's outputs change least."""


Targets: TypeAlias = "Sequence[tuple[Tensor, Gridded]]"
Table: TypeAlias = "dict[str, list[float]]"
"""A number at each width, by tensor."""


def deal(
    step: Gridded, model: Model, targets: Targets, context: Context
) -> tuple[dict[str, int], dict[str, Any]]:
    """A width for each target, and what was decided.

    Raises:
        RecipeError: the parameters do not fit into `parameter_bytes`.
    """
    if step.looks:
        costs, errors = _by_outputs(step, model, targets, context)
    else:
        costs, errors = _alone(model, targets)
    sizes = {tensor.name: tensor.size for tensor, _ in targets if tensor.name in costs}
    if not sizes:
        return {}, {}
    facts: dict[str, Any] = {}
    if step.bits == "auto":
        most = (step.output_error or OUTPUT_ERROR) ** 2
        options = _widths.choose(errors, costs, most)
        widths = {name: WIDTHS[option] for name, option in options.items()}
    elif step.parameter_bytes is not None:
        widths = _within(step, step.parameter_bytes, model, costs, errors)
    else:
        assert step.average_bits is not None
        widths = _widths.deal(sizes, errors, WIDTHS, step.average_bits)
    if step.looks:
        change = sum(errors[name][WIDTHS.index(width)] for name, width in widths.items())
        facts["predicted_output_error"] = change**0.5
    spent = sum(size * widths[name] for name, size in sizes.items())
    facts |= {"bits": widths, "average_bits": spent / sum(sizes.values())}
    context.say(f"{facts['average_bits']:.3g} bits on average")
    return widths, facts


def _within(step: Gridded, most: int, model: Model, costs: Table, errors: Table) -> dict[str, int]:
    """Widths with which all parameters together take at most so many bytes."""
    others = sum(summarize(*t.pull()).bits for t in model.tensors if t.name not in costs)
    least = others + sum(cost[0] for cost in costs.values())
    if least > 8 * most:
        raise RecipeError(
            f"{step.title}: parameter_bytes: {most}: at {WIDTHS[0]} bits the parameters take "
            f"{int(-(-least // 8))} bytes",
            f"{int(-(-others // 8))} of them are of tensors whose bits are not dealt out",
        )
    options = _widths.choose(costs, errors, 8 * most - others)
    return {name: WIDTHS[option] for name, option in options.items()}


def _alone(model: Model, targets: Targets) -> tuple[Table, Table]:
    """Bits, and relative squared errors of the weights by the root of the inputs they sum.

    An output is a sum over inputs that are alike, to which trained weights add up and errors of
    rounding do not: the more inputs, the less of a relative error of the weights is left. Of three
    networks that were measured the effect on their outputs fell with the 0.5th to 0.9th power.
    """
    costs: Table = {}
    errors: Table = {}
    owner = {t.name: layer for layer in model.layers for t in layer.tensors}
    for tensor, step in targets:
        values, encoding = tensor.pull()
        cells, part = _part(step.cells(tensor), values)
        found = [_relative_error(step, part, cells, encoding, width) for width in WIDTHS]
        if None not in found:
            costs[tensor.name] = _costs(step, tensor, values, encoding)
            summed = _summed(owner[tensor.name], tensor) ** 0.5
            errors[tensor.name] = [error / summed for error in found if error is not None]
    return costs, errors


def _summed(layer: Layer, tensor: Tensor) -> int:
    """Inputs that each output of a layer sums."""
    view = operand(layer, tensor)
    if not isinstance(view, str):
        return max(1, view.sizes[1])
    return max(1, tensor.shape[tensor.in_axis]) if tensor.in_axis is not None else 1


def _by_outputs(
    step: Gridded, model: Model, targets: Targets, context: Context
) -> tuple[Table, Table]:
    """Bits and effects on the network's outputs; layers whose inputs are not known get 8 bits."""
    runtime = context.required_runtime(step.title)
    samples = Samples(runtime, context, step.rows, step.title)
    effects = Effects(model, samples, context)
    owner = {t.name: layer for layer in model.layers for t in layer.tensors}
    costs: Table = {}
    errors: Table = {}
    for tensor, settings in targets:
        values, encoding = tensor.pull()
        if not np.isfinite(values).all():
            continue
        at = partial(_rounded, settings, tensor, values, encoding)
        found = effects.of(owner[tensor.name], tensor, at, WIDTHS)
        if not isinstance(found, str):
            costs[tensor.name] = _costs(settings, tensor, values, encoding)
            errors[tensor.name] = found
    return costs, errors


def _rounded(
    step: Gridded,
    tensor: Tensor,
    values: np.ndarray,
    encoding: Encoding,
    view: Operand,
    sums: Sums,
    width: int,
) -> np.ndarray:
    grid = step.grid_of(values, step.cells(tensor), encoding, width, importance(view, sums))
    if isinstance(grid, str):
        return values
    after = encoding.recoded(grid)
    nearest = after.project(values)
    if step.rounding == "nearest":
        return nearest
    return step.rounded(view, sums, values, encoding, (nearest, after)).values


def _costs(step: Gridded, tensor: Tensor, values: np.ndarray, encoding: Encoding) -> list[float]:
    """Bits in a plain fixed-length code at each width, parameters of the grid counted."""
    grid = step.grid_of(values, step.cells(tensor), encoding, WIDTHS[-1])
    assert not isinstance(grid, str)
    nonzeros, item = int(np.count_nonzero(values)), values.dtype.itemsize
    most = encoding.recoded(grid).bits(values.size, nonzeros, item)
    many = nonzeros if encoding.masked else values.size
    zeros = 0 if grid.zero_point is None else grid.zero_point.size
    return [most - (WIDTHS[-1] - width) * (many + zeros) for width in WIDTHS]


def _part(cells: Cells, values: np.ndarray) -> tuple[Cells, np.ndarray]:
    """What a survey looks at: of a large tensor in groups of rows, the first ones."""
    if not cells.group or cells.group_axis != 0 or values.size <= _SAMPLE:
        return cells, values
    rows = max(1, _SAMPLE * len(values) // values.size // cells.group) * cells.group
    values = values[:rows]
    return Cells(values.shape, cells.axis, cells.group, cells.group_axis), values


def _relative_error(
    step: Gridded, values: np.ndarray, cells: Cells, encoding: Encoding, bits: int
) -> float | None:
    """Squared error over sum of squares at a width, on some blocks of a large tensor."""
    grid = step.grid_of(values, cells, encoding, bits, quick=True)
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

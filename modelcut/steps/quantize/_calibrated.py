"""Quantization layer by layer in a running copy of the network: see `Calibrated`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import Self

from modelcut.model.encoding import Encoding
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import NOT_FINITE, Context, Need, Outcome, TensorStep
from modelcut.steps.correction import Corrected, Matcher, pinned_all
from modelcut.steps.hessian import Sums, squared
from modelcut.steps.operands import Operand, operand
from modelcut.steps.quantize import _rounding
from modelcut.steps.quantize._effects import summed
from modelcut.steps.samples import Samples


@dataclass
class Survey:
    """What the edit of a tensor is told besides its values.

    Attributes:
        more: what the method itself has surveyed.
        importance: tensor name -> mean square of the input that each weight multiplies, which
            broadcasts to its shape; only of tensors whose inputs were looked at.
    """

    more: Any = None
    importance: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundedTensor:
    """A tensor's permitted values.

    Attributes:
        values: of the tensor's shape and dtype.
        error, nearest: squared errors of the layer's outputs, with these values and with those that
            were rounded by themselves.
    """

    values: np.ndarray
    error: float
    nearest: float


class Calibrated(Corrected, TensorStep):
    """A quantizer whose rounding may look at the layers' outputs over calibration samples.

    Layers are done in order, each fed by those that are quantized already.

    Class attributes:
        zero_is_level: a weight that is kept may become zero, whatever the encoding of the others.
    """

    zero_is_level: ClassVar[bool] = False
    global_fields: ClassVar[frozenset[str]] = frozenset({"rounding", "damp", "correct", "rows"})

    rounding: Literal["nearest", "gptq"] = Field(
        default="nearest",
        description="nearest: each weight is rounded to the nearest permitted value. gptq: weights "
        "are rounded one after the other so that the layer's outputs change least over calibration "
        "samples; layers one after the other, each fed by the quantized ones before it.",
    )
    damp: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.01,
        description="With rounding: gptq, damping: the fraction of the Hessian's mean diagonal "
        "that is added to its diagonal.",
    )

    @property
    def looks(self) -> bool:
        """Whether it looks at what goes into the layers."""
        return self.rounding != "nearest"

    @property
    def weighs(self) -> bool:
        """Whether what it makes of a tensor depends on the importance of each weight."""
        return False

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"calibration"} if self.looks else super().needs

    def rounded(
        self,
        view: Operand,
        sums: Sums,
        values: np.ndarray,
        encoding: Encoding,
        nearest: tuple[np.ndarray, Encoding],
        wanted: np.ndarray | None = None,
    ) -> RoundedTensor:
        """A tensor's values rounded so that its layer's outputs change least, block by block.

        Args:
            view: how its layer multiplies by it.
            sums: over the layer's inputs.
            values: the values as they are.
            encoding: what they satisfy: what is pruned stays zero.
            nearest: the values rounded by themselves, and the encoding that permits them.
            wanted: what `wanted` gave; None: it is asked.
        """
        plain, after = nearest
        if wanted is None:
            wanted = self.wanted(view, sums, values, encoding)
        first = view.split(plain)
        mask = view.split(values) != 0 if encoding.masked else None
        to = _rounder(view, after, mask, values.dtype, zero=self.zero_is_level)
        found = np.empty(view.sizes, np.result_type(values, np.float32))
        mine, other = np.zeros((2, view.sizes[0], view.sizes[2]))
        for block, gram in zip(sums.blocks, sums.gram, strict=True):
            aim = wanted[:, block].astype(np.float64)

            def here(row: np.ndarray, number: int, start: int = block.start) -> np.ndarray:
                return to(row, start + number)

            part = _rounding.gptq(aim, gram, self.damp, here).values
            mine += squared(part - aim, gram)
            other += squared(first[:, block] - aim, gram)
            found[:, block] = part
        better = mine < other
        if not better.all():
            found = np.where(better[:, None], found, first)
        error = float(np.where(better, mine, other).sum())
        return RoundedTensor(
            view.join(found).astype(values.dtype, copy=False), error, float(other.sum())
        )

    def wanted(
        self, view: Operand, sums: Sums, values: np.ndarray, encoding: Encoding
    ) -> np.ndarray:
        """The weights that the rounded ones stand for, (groups, inputs, outputs)."""
        weights = view.split(values)
        if not sums.compares:
            return weights
        found = sums.wanted(weights, self.damp)
        return np.where(weights != 0, found, 0) if encoding.masked else found

    def survey_model(
        self, model: Model, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Survey, dict[str, Any]]:
        found, facts = super().survey_model(model, targets, context)
        return Survey(found), facts

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `TensorStep`; layer by layer where it looks at their inputs."""
        if not self.looks:
            return super().apply(model, context)
        chosen, skipped = self.select(model, context)
        owner = {t.name: layer for layer in model.layers for t in layer.tensors}
        targets = [(tensor, self.settings(owner[tensor.name], tensor)) for tensor in chosen]
        survey, facts = self.survey_model(model, targets, context)
        work = _Work(self, model, survey, context)
        settings = {tensor.name: each for tensor, each in targets}
        for layer in model.layers:
            for tensor in layer.tensors:
                if tensor.name in settings:
                    work.quantize(layer, tensor, settings[tensor.name])
            work.correct(layer)
        skipped.update(work.skipped)
        after = pinned_all(model.with_tensors(work.edited), work.fixed, context)
        return Outcome(after, {**facts, **work.facts()}, skipped, self.warnings(chosen))


class _Work:
    """A running copy of the network, in which layer after layer is quantized."""

    def __init__(self, step: Calibrated, model: Model, survey: Survey, context: Context) -> None:
        runtime = context.required_runtime(step.title)
        self._step, self._survey, self._context = step, survey, context
        self._samples = Samples(runtime, context, step.rows, step.title)
        self._matcher = None
        if step.correct is not None:
            self._matcher = Matcher(model, self._samples, step.correct, context)
        self._running = runtime.open(model)
        # Rounded weights make up for what the layers before lost, too: what goes into a layer of
        # the network as it was tells what its outputs are to be.
        self._before_it = runtime.open(model) if step.rounding == "gptq" else None
        self.edited: dict[str, Tensor] = {}
        self.fixed: dict[str, np.ndarray] = {}
        self.skipped: dict[str, str] = {}
        self._errors: dict[str, float] = {}
        self._nearest: dict[str, float] = {}
        self._blind: dict[str, str] = {}
        self._blocks: dict[str, int] = {}

    def facts(self) -> dict[str, Any]:
        """What was decided, for the report."""
        found: dict[str, Any] = {"samples": self._samples.count, "output_error": self._errors}
        if self._step.rounding != "nearest":
            found["output_error_nearest"] = self._nearest
        if self._blind:
            found["rounded_to_nearest"] = self._blind
        if self._blocks:
            found["hessian_blocks"] = self._blocks
        if self._matcher is not None:
            found["correction"] = {"samples": self._samples.count, **self._matcher.changed}
        return found

    def correct(self, layer: Layer) -> None:
        """Puts the statistics of a layer right, if that was asked for."""
        if self._matcher is not None:
            self.fixed.update(self._matcher.fix(self._running, layer))

    def quantize(self, layer: Layer, tensor: Tensor, step: Calibrated) -> None:
        """Quantizes one tensor, and has the running copy go on with it."""
        context = self._context
        context.say(f"{step.title}: {tensor.name}")
        view = operand(layer, tensor)
        values, encoding = tensor.pull()
        sums = None
        if isinstance(view, str):
            self._blind[tensor.name] = view
        elif not np.isfinite(values).all():
            self.skipped[tensor.name] = NOT_FINITE
            return
        else:
            sums = summed(self._samples, self._running, layer, view, self._before_it)
            if len(sums.blocks) > 1:
                self._blocks[tensor.name] = len(sums.blocks)
            if step.weighs:
                self._survey.importance[tensor.name] = importance(view, sums)
        edit = step.edit(tensor, self._survey, context)
        if isinstance(edit, str):
            self.skipped[tensor.name] = edit
            return
        aim, wanted = values, None
        if sums is not None and not isinstance(view, str):
            wanted = step.wanted(view, sums, values, encoding)
            if step.rounding == "gptq":
                aim = view.join(wanted).astype(values.dtype, copy=False)
            sums.cross.clear()  # told what is wanted
        rewrite = edit(aim, encoding)
        self._survey.importance.clear()  # as large as the kernel
        kinds = step.kinds_after(tensor)
        if rewrite.left_alone:
            self.edited[tensor.name] = tensor.then(context.index, edit, kinds)
            return
        after = rewrite.encoding
        plain = after.project(aim) if rewrite.block is None else rewrite.block(aim, slice(None))
        found = plain
        if sums is not None and wanted is not None and not isinstance(view, str):
            before, nearest = (values, encoding), (plain, after)
            found = self._rounded(tensor.name, view, sums, before, nearest, wanted, step)
        self.edited[tensor.name] = tensor.then(context.index, _pin(found, after), kinds)
        self._running.write({tensor.name: found})

    def _rounded(
        self,
        name: str,
        view: Operand,
        sums: Sums,
        before: tuple[np.ndarray, Encoding],
        nearest: tuple[np.ndarray, Encoding],
        weights: np.ndarray,
        step: Calibrated,
    ) -> np.ndarray:
        """The values by the step's rounding, and the relative errors of the layer's outputs."""
        values, encoding = before
        plain = nearest[0]
        signal = float(sums.error(weights).sum())
        if step.rounding == "gptq":
            found = step.rounded(view, sums, values, encoding, nearest, weights)
        else:
            error = float(sums.error(view.split(plain), weights).sum())
            found = RoundedTensor(plain, error, error)
        if signal > 0:
            self._errors[name] = (max(found.error, 0.0) / signal) ** 0.5
            self._nearest[name] = (max(found.nearest, 0.0) / signal) ** 0.5
        return found.values


def importance(view: Operand, sums: Sums) -> np.ndarray:
    """Mean square of the input that each weight multiplies, in the kernel's shape."""
    mean = sums.diagonal / max(1, sums.count)
    return view.join(np.broadcast_to(mean[:, :, None], view.sizes))


def _rounder(
    view: Operand, after: Encoding, mask: np.ndarray | None, dtype: np.dtype, *, zero: bool
) -> _rounding.Round:
    """Rounds the weights of one input to what the encoding permits; what is pruned stays zero."""

    def inputs_first(values: np.ndarray) -> np.ndarray:
        return view.split(values).transpose(1, 0, 2)

    inner = after.unmasked.arranged(view.kernel.shape, inputs_first)
    work = np.float64 if dtype == np.float64 else np.float32

    def to(row: np.ndarray, number: int) -> np.ndarray:
        near = inner.project(row[None].astype(work), slice(number, number + 1))[0]
        if zero:
            near = np.where(np.abs(row) < np.abs(row - near), 0, near)
        found: np.ndarray = near if mask is None else np.where(mask[:, number], near, 0)
        return found

    return to


def _pin(values: np.ndarray, after: Encoding) -> Edit:
    def edit(before: np.ndarray, encoding: Encoding) -> Rewrite:
        del before, encoding

        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            return after.project(values[rows].astype(part.dtype, copy=False), rows)

        return Rewrite(after, block)

    return edit

"""Facts and measures -> the parts of the report (`schema`).

Nothing in it is computed from a promise: sizes come from the meters that watched the writer,
metrics from the written file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelcut.graph.keras.saved_order import is_known
from modelcut.metrics.limits import Gates
from modelcut.model.encoding import Encoding
from modelcut.model.measure import Meter, Summary
from modelcut.model.model import Model, Tensor
from modelcut.report import html as _html  # noqa: F401  # shows reports in notebooks
from modelcut.report.schema import (
    HistogramRow,
    LayerRow,
    LeftOut,
    Reason,
    Report,
    Size,
    Sizes,
    Stage,
    StepRow,
    TensorChange,
    TensorRow,
    Totals,
    Weights,
)
from modelcut.safety import printable
from modelcut.steps.base import Outcome, Step

Identity = tuple[str, str]


def identity(tensor: Tensor) -> Identity:
    """Tells a tensor from a later one of the same name: its name and its place in the file."""
    return tensor.name, tensor.key


@dataclass(frozen=True)
class Passage:
    """All that was watched while a model went through its steps into a file.

    Attributes:
        models: the model as read, and after each step.
        steps: the steps.
        outcomes: the outcome of each step.
        seconds: wall time of each step's own work (surveys, factors), before the writing.
        meters: the meter of each tensor that was pulled.
        stored: tensor name -> bytes of its values in the written file.
        encodings: tensor name -> the encoding it ended with.
        coders: tensor name -> the entropy coder that wrote it, in a packed file.
        macs: multiply-accumulates of one inference, layer name -> count, of the first and the
            last model; None where a layer's cannot be told.
    """

    models: Sequence[Model]
    steps: Sequence[Step] = ()
    outcomes: Sequence[Outcome] = ()
    seconds: Sequence[float] = ()
    meters: Mapping[Identity, Meter] = field(default_factory=dict)
    stored: Mapping[str, int] = field(default_factory=dict)
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    coders: Mapping[str, str] = field(default_factory=dict)
    macs: tuple[Mapping[str, int | None], Mapping[str, int | None]] = ({}, {})

    def summary(self, tensor: Tensor, stage: int) -> Summary:
        """The tensor after the first `stage` steps."""
        meter = self.meters[identity(tensor)]
        assert meter.before is not None
        latest = meter.before
        for step, summary in meter.after:
            if step < stage:
                latest = summary
        return latest


def ledger(passage: Passage) -> list[Stage]:
    """What the parameters weigh, stage by stage: as read, after each step."""
    rows = []
    for stage, model in enumerate(passage.models):
        parts = [passage.summary(tensor, stage) for tensor in model.tensors]
        title = "original" if stage == 0 else f"{stage} {passage.steps[stage - 1].title}"
        rows.append(Stage(title, totals(parts)))
    return rows


def coded(passage: Passage, last: Stage) -> list[Stage]:
    """One more stage, where entropy coders wrote the file: the last one, as it is stored."""
    if not passage.coders:
        return []
    stored = sum(passage.stored.values())
    names = ", ".join(sorted(set(passage.coders.values())))
    bits = 8 * stored / max(1, last.totals.parameters)
    own = replace(
        last.totals,
        bytes=stored,
        deflated_bytes=None,
        bits_per_weight=bits,
        deflated_estimated=False,
    )
    return [Stage(f"coded: {names}", own)]


def totals(parts: Sequence[Summary]) -> Totals:
    """Sums over tensors. `bits_per_weight` is of a plain fixed-length form."""
    parameters = sum(part.size for part in parts)
    nonzeros = sum(part.nonzeros for part in parts)
    bits = sum(part.bits for part in parts)
    return Totals(
        parameters,
        nonzeros,
        1 - nonzeros / parameters if parameters else 0.0,
        sum(part.bytes for part in parts),
        _sum(part.deflated for part in parts),
        bits / parameters if parameters else 0.0,
        any(part.estimated for part in parts),
    )


def sizes(passage: Passage, stages: Sequence[Stage], file_bytes: tuple[int, int | None]) -> Sizes:
    """Before and after as a whole, and the ratios.

    Args:
        passage: what was watched.
        stages: the ledger.
        file_bytes: size of the input and of the written file (None: nothing was written).
    """
    first, last = stages[0].totals, stages[-1].totals
    macs = [_sum(counts.values()) for counts in passage.macs]
    if not (file_bytes[1] and first.parameters):
        return Sizes(Size(first, file_bytes[0], macs[0]), Size(last, file_bytes[1], macs[1]))
    stored = sum(passage.stored.values())
    # From what the file really spends on the weights, not from the plain form.
    last = replace(last, bits_per_weight=8 * stored / max(1, last.parameters))
    first = replace(first, bits_per_weight=8 * first.bytes / first.parameters)
    return Sizes(
        Size(first, file_bytes[0], macs[0]),
        Size(last, file_bytes[1], macs[1], stored),
        first.bytes / file_bytes[1],
        file_bytes[0] / file_bytes[1],
    )


def beside(reference: Sizes, own: Sizes) -> Sizes:
    """The sizes of a model that was only measured, after those of the model it is compared with.

    Args:
        reference: the `sizes` of the other model by itself.
        own: the `sizes` of the model by itself.
    """
    before, after = reference.before, own.before
    if not (after.file_bytes and before.totals.parameters):
        return Sizes(before, after)
    assert before.file_bytes is not None
    one, two = before.totals.deflated_bytes, after.totals.deflated_bytes
    return Sizes(
        before,
        after,
        before.totals.bytes / after.file_bytes,
        before.file_bytes / after.file_bytes,
        weights=Weights(one, two, one / two, "deflate") if one and two else None,
    )


def with_weights(sizes: Sizes, coding: str, facts: Mapping[str, Any]) -> Sizes:
    """The sizes with the weights alone, those of the original as the written file would hold them.

    Args:
        sizes: sizes of a model that was written.
        coding: what compresses the written file: deflate or none.
        facts: what an engine tells of a file that it made: of a `.tflite` its constants.
    """
    made = facts.get("litert") or facts.get("onnx") or {}
    constants = made.get("constants") or {}
    totals, after = sizes.before.totals, sum(constants.values()) or sizes.after.stored_bytes
    if not constants and (after or 0) >= sizes.after.totals.bytes:
        coding = "none"  # tensors so small that their index would take more than deflate saves
    before = totals.deflated_bytes if coding == "deflate" else totals.bytes
    if not (before and after):
        return sizes
    return replace(sizes, weights=Weights(before, after, before / after, coding))


def with_left_out(sizes: Sizes, optimizer_bytes: int) -> Sizes:
    """The sizes with what of their change is the optimizer's state, which the output lacks.

    Args:
        sizes: sizes of a model that was written.
        optimizer_bytes: what the original file spends on it.
    """
    before, after = sizes.before.file_bytes, sizes.after.file_bytes
    if not (optimizer_bytes and before and after):
        return sizes
    return replace(sizes, optimizer=LeftOut(optimizer_bytes, (before - optimizer_bytes) / after))


def notes(report: Report, gates: Gates) -> list[str]:
    """What stands above everything else: how much of the smaller file is optimizer state."""
    sizes = report.sizes
    before, after = sizes.before.file_bytes, sizes.after.file_bytes
    if sizes.optimizer is None or before is None or after is None:
        return []
    spent, ratio = sizes.optimizer.bytes, sizes.optimizer.file_ratio_without
    line = f"optimizer state, {spent:,} of the original's {before:,} bytes, is left out"
    if before > after:
        line += f": {min(1.0, spent / (before - after)):.0%} of what the file became smaller by"
    line += f"; the other {before - spent:,} bytes became {after:,}"
    # As if the output had it too, or the original had been saved without it.
    other = {"output": {"bytes": after + spent}, "sizes": {"file_ratio": ratio}}
    kept = {verdict["name"]: verdict["held"] for verdict in gates.judge(other)}
    held = [
        f"the gate {gate['name']} {gate['limit']:g} passed only because the optimizer state is "
        "left out"
        for gate in report.gates
        if gate["name"] in _FILE_GATES and gate["held"] and not kept[gate["name"]]
    ]
    return [line, *held] if held or spent >= _WORTH_A_LINE * before else []


_WORTH_A_LINE = 0.01
"""Less optimizer state, as a fraction of the file, is a counter or two."""
_FILE_GATES = ("max_bytes", "min_file_ratio")


def layers(passage: Passage) -> list[LayerRow]:
    """Per layer and tensor: what each step did to it with its error, or why it was left alone."""
    final = {identity(tensor) for tensor in passage.models[-1].tensors}
    rows = []
    for model, gone in ((passage.models[-1], False), (passage.models[0], True)):
        for layer in model.layers:
            tensors = [
                _tensor_row(passage, tensor, gone=gone)
                for tensor in layer.tensors
                if not gone or identity(tensor) not in final
            ]
            if gone and not tensors:
                continue
            rows.append(
                LayerRow(
                    layer.name,
                    layer.class_name,
                    tuple(tensors),
                    passage.macs[0].get(layer.name),
                    None if gone else passage.macs[1].get(layer.name),
                    _reasons(passage, layer.name),
                    gone,
                )
            )
    return rows


def _tensor_row(passage: Passage, tensor: Tensor, *, gone: bool) -> TensorRow:
    meter = passage.meters[identity(tensor)]
    assert meter.before is not None
    changes = tuple(
        TensorChange(
            step + 1,
            passage.steps[step].title,
            change.error,
            change.sqnr_db,
            change.peak_error,
            summary.nonzeros,
        )
        for (step, change), (_, summary) in zip(meter.changes, meter.after, strict=True)
    )
    encoding = passage.encodings.get(tensor.name) if not gone else None
    return TensorRow(
        name=tensor.name,
        role=tensor.role,
        kind=tensor.kind,
        shape=tensor.shape,
        dtype=tensor.dtype.name,
        new=tensor.key == "",
        before=meter.before,
        after=None if gone else passage.summary(tensor, len(passage.models)),
        encoding=(encoding or tensor.encoding).label,
        stored_bytes=None if gone else passage.stored.get(tensor.name),
        coder=None if gone else passage.coders.get(tensor.name),
        changes=changes,
        left_alone=(
            *_reasons(passage, tensor.name),
            *(Reason(step + 1, reason) for step, reason in meter.left_alone),
        ),
    )


def histograms(passage: Passage) -> list[HistogramRow]:
    """The spread of the values of the tensors that changed most, by relative error."""
    found = []
    for (name, _), meter in passage.meters.items():
        error = sum(change.error for _, change in meter.changes)
        if meter.histogram is not None and 0 < error < float("inf"):
            found.append((error, name, meter.histogram))
    found.sort(key=lambda each: (-each[0], each[1]))
    return [
        HistogramRow(
            name,
            each.low,
            each.high,
            tuple(each.before.tolist()),
            tuple(each.after.tolist()),
            each.size,
        )
        for _, name, each in found[:_MOST_HISTOGRAMS]
    ]


_MOST_HISTOGRAMS = 6


def _reasons(passage: Passage, name: str) -> tuple[Reason, ...]:
    return tuple(
        Reason(index + 1, outcome.skipped[name])
        for index, outcome in enumerate(passage.outcomes)
        if name in outcome.skipped
    )


def step_rows(passage: Passage) -> list[StepRow]:
    """Per step: its parameters, the facts it gave, and how much it changed or left alone."""
    rows = []
    for index, (step, outcome) in enumerate(zip(passage.steps, passage.outcomes, strict=True)):
        touched = sum(
            any(changed == index for changed, _ in meter.changes)
            for meter in passage.meters.values()
        )
        rows.append(
            StepRow(
                index + 1,
                step.title,
                step.model_dump(mode="json", exclude_unset=True),
                outcome.facts,
                touched,
                {**outcome.skipped, **_left_alone(passage, index)},
                round(passage.seconds[index], 4),
            )
        )
    return rows


def _left_alone(passage: Passage, step: int) -> dict[str, str]:
    """Tensors whose values told a step to leave them alone."""
    return {
        name: reason
        for (name, _), meter in passage.meters.items()
        for index, reason in meter.left_alone
        if index == step
    }


def value_warnings(passage: Passage) -> Iterator[str]:
    """What a user should know about the values of the weights."""
    for tensor in passage.models[-1].tensors:
        summary = passage.summary(tensor, len(passage.models))
        emptied = tensor.edits and not summary.nonzeros and passage.summary(tensor, 0).nonzeros
        if emptied and tensor.kind != "bias":  # a layer without a bias works
            yield (
                f"{tensor.name}: nothing is left of it, so the layer passes nothing on: use scope: "
                "layer, a setting of its own (overrides), or exclude it"
            )
        if summary.nonfinite:
            yield f"{tensor.name}: {summary.nonfinite} of {summary.size} values are NaN or infinite"
        elif tensor.dtype.name == "float64" and summary.peak > 3.4028235e38:
            yield f"{tensor.name}: values up to {summary.peak:.3g} overflow float32"
        elif summary.peak > 1e30:
            yield f"{tensor.name}: values up to {summary.peak:.3g}: sums of them overflow float32"


def class_warnings(passage: Passage) -> Iterator[str]:
    """Which weights steps left alone since the layer's class, and so their purpose, is not known.

    Only those with two axes or more are named: of one axis no step takes any by itself.
    """
    model = passage.models[0]
    for layer in model.layers:
        own = bool(model.origin.configuration) if layer.node is None else not is_known(layer.node)
        alone = [
            tensor.role
            for tensor in layer.tensors
            if own
            and tensor.kind == "other"
            and len(tensor.shape) > 1
            and any(o.skipped.get(tensor.name, "").startswith("other") for o in passage.outcomes)
        ]
        if alone:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            named = f" ({printable(layer.class_name)})" if layer.class_name else ""
            yield (
                f"{printable(layer.name)}{named}: modelcut does not know this class; what may be "
                f"kernels was left alone: {', '.join(map(printable, alone[:3]))}{more} "
                f"(include: role:{printable(alone[0])})"
            )


def _sum(values: Any) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total

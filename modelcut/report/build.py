"""Facts and measures -> the report, as plain JSON data.

The layout is `SCHEMA`; it is described in the README of this folder's parent ("The report"), and
grows only by new keys within a version. Nothing in it is computed from a promise: sizes come from
the meters that watched the writer, metrics from the written file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from modelcut.metrics.limits import Gates
from modelcut.model.encoding import Encoding
from modelcut.model.measure import Meter, Summary
from modelcut.model.model import Model, Tensor
from modelcut.steps.base import Outcome, Step

SCHEMA = "modelcut-report/1"

Identity = tuple[str, str]


def identity(tensor: Tensor) -> Identity:
    """Tells a tensor from a later one of the same name: its name and its place in the file."""
    return tensor.name, tensor.key


@dataclass(frozen=True)
class Passage:
    """All that was watched while a model went through its steps into a file.

    Attributes:
        models: the model as read, then after each step.
        steps: the steps.
        outcomes: one a step.
        seconds: wall time of each step's own work (surveys, factors), before the writing.
        meters: of every tensor that was pulled.
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


def ledger(passage: Passage) -> list[dict[str, Any]]:
    """What the parameters weigh, stage by stage: as read, after each step."""
    rows = []
    for stage, model in enumerate(passage.models):
        parts = [passage.summary(tensor, stage) for tensor in model.tensors]
        title = "original" if stage == 0 else f"{stage} {passage.steps[stage - 1].title}"
        rows.append({"stage": title, **totals(parts)})
    return rows


def coded(passage: Passage, last: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One more stage, where entropy coders wrote the file: the last one, as it is stored."""
    if not passage.coders:
        return []
    stored = sum(passage.stored.values())
    names = ", ".join(sorted(set(passage.coders.values())))
    bits = 8 * stored / max(1, last["parameters"])
    own = {"bytes": stored, "deflated_bytes": None, "bits_per_weight": bits}
    return [{**last, "stage": f"coded: {names}", **own}]


def totals(parts: Sequence[Summary]) -> dict[str, Any]:
    """Sums over tensors. `bits_per_weight` is of a plain fixed-length writing."""
    parameters = sum(part.size for part in parts)
    nonzeros = sum(part.nonzeros for part in parts)
    bits = sum(part.bits for part in parts)
    return {
        "parameters": parameters,
        "nonzeros": nonzeros,
        "sparsity": 1 - nonzeros / parameters if parameters else 0.0,
        "bytes": sum(part.bytes for part in parts),
        "deflated_bytes": _sum(part.deflated for part in parts),
        "bits_per_weight": bits / parameters if parameters else 0.0,
    }


def sizes(
    passage: Passage, stages: Sequence[Mapping[str, Any]], file_bytes: tuple[int, int | None]
) -> dict[str, Any]:
    """Before and after as a whole, and the ratios.

    Args:
        passage: what was watched.
        stages: the ledger.
        file_bytes: of the input and of the written file (None: nothing was written).
    """
    before = {**stages[0], "file_bytes": file_bytes[0], "macs": _sum(passage.macs[0].values())}
    after = {**stages[-1], "file_bytes": file_bytes[1], "macs": _sum(passage.macs[1].values())}
    before.pop("stage")
    after.pop("stage")
    result: dict[str, Any] = {"before": before, "after": after, "ratio": None, "file_ratio": None}
    if file_bytes[1] and before["parameters"]:
        stored = sum(passage.stored.values())
        after["stored_bytes"] = stored
        # From what the file really spends on the weights, not from the plain writing.
        after["bits_per_weight"] = 8 * stored / max(1, after["parameters"])
        before["bits_per_weight"] = 8 * before["bytes"] / before["parameters"]
        result["ratio"] = before["bytes"] / file_bytes[1]
        result["file_ratio"] = file_bytes[0] / file_bytes[1]
    return result


def add_left_out(report: dict[str, Any], optimizer_bytes: int) -> None:
    """Adds to the sizes what of their change is the optimizer's state, which the output lacks.

    Args:
        report: with sizes; gets `sizes.optimizer`: its bytes in the original file, and the ratio
            of the files without them.
        optimizer_bytes: what the original file spends on it.
    """
    sizes = report["sizes"]
    before, after = sizes["before"]["file_bytes"], sizes["after"]["file_bytes"]
    if optimizer_bytes and after:
        ratio = (before - optimizer_bytes) / after
        sizes["optimizer"] = {"bytes": optimizer_bytes, "file_ratio_without": ratio}


def notes(report: Mapping[str, Any], gates: Gates) -> list[str]:
    """What stands above everything else: how much of the smaller file is optimizer state."""
    sizes = report["sizes"]
    left_out = sizes.get("optimizer")
    if not left_out:
        return []
    spent, ratio = left_out["bytes"], left_out["file_ratio_without"]
    before, after = sizes["before"]["file_bytes"], sizes["after"]["file_bytes"]
    line = f"optimizer state, {spent:,} of the original's {before:,} bytes, is left out"
    if before > after:
        line += f": {min(1.0, spent / (before - after)):.0%} of what the file became smaller by"
    lines = [f"{line}; the other {before - spent:,} bytes became {after:,}"]
    # As if the output had it too, or the original had been saved without it.
    other = {"output": {"bytes": after + spent}, "sizes": {"file_ratio": ratio}}
    kept = {verdict["name"]: verdict["held"] for verdict in gates.judge(other)}
    for gate in report["gates"]:
        if gate["name"] in _FILE_GATES and gate["held"] and not kept[gate["name"]]:
            lines.append(
                f"the gate {gate['name']} {gate['limit']:g} held only because the optimizer state "
                "is left out"
            )
    return lines


_FILE_GATES = ("max_bytes", "min_file_ratio")


def layers(passage: Passage) -> list[dict[str, Any]]:
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
            row: dict[str, Any] = {
                "name": layer.name,
                "class": layer.class_name,
                "tensors": tensors,
                "macs_before": passage.macs[0].get(layer.name),
                "macs_after": None if gone else passage.macs[1].get(layer.name),
            }
            reasons = _reasons(passage, layer.name)
            if reasons:
                row["left_alone"] = reasons
            if gone:
                row["replaced"] = True
            rows.append(row)
    return rows


def _tensor_row(passage: Passage, tensor: Tensor, *, gone: bool) -> dict[str, Any]:
    meter = passage.meters[identity(tensor)]
    assert meter.before is not None
    last = passage.summary(tensor, len(passage.models))
    changes = [
        {
            "step": step + 1,
            "title": passage.steps[step].title,
            **change.to_dict(),
            "nonzeros": summary.nonzeros,
        }
        for (step, change), (_, summary) in zip(meter.changes, meter.after, strict=True)
    ]
    encoding = passage.encodings.get(tensor.name) if not gone else None
    return {
        "name": tensor.name,
        "role": tensor.role,
        "kind": tensor.kind,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
        "new": tensor.key == "",
        "before": asdict(meter.before),
        "after": None if gone else asdict(last),
        "encoding": (encoding or tensor.encoding).label,
        "stored_bytes": None if gone else passage.stored.get(tensor.name),
        "coder": None if gone else passage.coders.get(tensor.name),
        "changes": changes,
        "left_alone": _reasons(passage, tensor.name)
        + [{"step": step + 1, "reason": reason} for step, reason in meter.left_alone],
    }


def _reasons(passage: Passage, name: str) -> list[dict[str, Any]]:
    return [
        {"step": index + 1, "reason": outcome.skipped[name]}
        for index, outcome in enumerate(passage.outcomes)
        if name in outcome.skipped
    ]


def step_rows(passage: Passage) -> list[dict[str, Any]]:
    """Per step: its parameters, the facts it gave, and how much it changed or left alone."""
    rows = []
    for index, (step, outcome) in enumerate(zip(passage.steps, passage.outcomes, strict=True)):
        touched = sum(
            any(changed == index for changed, _ in meter.changes)
            for meter in passage.meters.values()
        )
        rows.append(
            {
                "step": index + 1,
                "title": step.title,
                "parameters": step.model_dump(mode="json", exclude_unset=True),
                "facts": outcome.facts,
                "tensors_changed": touched,
                "left_alone": {**outcome.skipped, **_left_alone(passage, index)},
                "seconds": round(passage.seconds[index], 4),
            }
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
        if tensor.edits and not summary.nonzeros and passage.summary(tensor, 0).nonzeros:
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


def _sum(values: Any) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total

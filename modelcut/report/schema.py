"""The report as typed data; `to_dict` gives the JSON of schema `modelcut-report/1`.

Within a version the JSON grows only by new keys. A field is one key, in order; a field that is
declared `_PRESENT` is left out of the JSON where it has no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import import_module
from typing import Any

SCHEMA = "modelcut-report/1"


_PRESENT = {"present": True}
"""Of a field whose key is there only where it has a value."""

_FLAT = {"flat": True}
"""Of a mapping whose entries stand among the keys of its owner."""


class Part:
    """A part of the report."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        found: dict[str, Any] = {}
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, each.name)
            if each.metadata.get("flat"):
                found.update(value)
            elif not each.metadata.get("present") or not _is_missing(value):
                found[each.metadata.get("key", each.name)] = _plain(value)
        return found


def _is_missing(value: Any) -> bool:
    return value is None or value is False or value == ()


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True)
class Input(Part):
    """The model that was read.

    Attributes:
        path: as it was named.
        format: registry name of the format, or of the container around it.
        dialect: which Keras wrote it.
        writer: version of that Keras.
        bytes: size of the file, or of all files of a folder.
        sha256: its digest.
        facts: what the format tells besides, under the format's name.
    """

    path: str
    format: str
    dialect: str
    writer: str
    bytes: int
    sha256: str
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=_FLAT)


@dataclass(frozen=True)
class Output(Part):
    """The file that was written.

    Attributes:
        path: its place.
        format: registry name of its format.
        bytes: its size.
        sha256: its digest.
        compression: none, fast or best; None where the format has a coding of its own.
        dropped: what was left out of the file, in words.
        facts: what an engine tells of a file that it made, under the engine's name.
        header: the C array beside a `.tflite`.
    """

    path: str
    format: str
    bytes: int
    sha256: str
    compression: str | None
    dropped: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=_FLAT)
    header: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)


@dataclass(frozen=True)
class Totals(Part):
    """Sums over all tensors of a model.

    Attributes:
        parameters: number of values.
        nonzeros: how many of them are not zero.
        sparsity: fraction of zeros.
        bytes: of the values, uncompressed.
        deflated_bytes: after deflate; None where that was not worked out.
        bits_per_weight: of a plain fixed-length form.
    """

    parameters: int
    nonzeros: int
    sparsity: float
    bytes: int
    deflated_bytes: int | None
    bits_per_weight: float


@dataclass(frozen=True)
class Stage(Part):
    """A row of the ledger: the model as read, after a step, or as it is coded.

    Attributes:
        stage: "original", the step's number and title, or the coder.
        totals: of the model at this stage.
    """

    stage: str
    totals: Totals

    def to_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, **self.totals.to_dict()}


@dataclass(frozen=True)
class Size(Part):
    """What a model weighs.

    Attributes:
        totals: of its tensors.
        file_bytes: of its file; None where nothing was written.
        macs: multiply-accumulates of one inference; None where a layer's cannot be told.
        stored_bytes: of the tensors' values in the written file.
    """

    totals: Totals
    file_bytes: int | None
    macs: int | None
    stored_bytes: int | None = field(default=None, metadata=_PRESENT)

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        return {**found.pop("totals"), **found}


@dataclass(frozen=True)
class LeftOut(Part):
    """The optimizer's state, which the original file has and the written one has not.

    Attributes:
        bytes: what the original file spends on it.
        file_ratio_without: the file ratio, had the original been saved without it.
    """

    bytes: int
    file_ratio_without: float


@dataclass(frozen=True)
class Sizes(Part):
    """Before and after, and the ratios.

    Attributes:
        before: the original.
        after: the compressed model.
        ratio: parameter bytes of the original divided by the bytes of the file.
        file_ratio: bytes of the original file divided by those of the written one.
        optimizer: what of that is the optimizer's state; None where none was left out.
    """

    before: Size
    after: Size
    ratio: float | None = None
    file_ratio: float | None = None
    optimizer: LeftOut | None = field(default=None, metadata=_PRESENT)


@dataclass(frozen=True)
class StepRow(Part):
    """What a step did.

    Attributes:
        step: its number, from 1.
        title: such as "prune: magnitude".
        parameters: the fields that were set.
        facts: what it decided.
        tensors_changed: how many tensors it changed.
        left_alone: tensor or layer name -> why it was skipped.
        seconds: wall time of its own computation, before the writing.
    """

    step: int
    title: str
    parameters: Mapping[str, Any]
    facts: Mapping[str, Any]
    tensors_changed: int
    left_alone: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Reason(Part):
    """Why a step skipped something.

    Attributes:
        step: its number, from 1.
        reason: in words.
    """

    step: int
    reason: str


@dataclass(frozen=True)
class Change(Part):
    """What one step did to one tensor.

    Attributes:
        step: its number, from 1.
        title: of the step.
        error: Frobenius norm of the difference over that of the values before.
        sqnr_db: signal-to-noise ratio in dB, 10 log10(Σ w² / Σ d²); None where it is infinite.
        peak_error: largest magnitude of a difference.
        nonzeros: after the step.
    """

    step: int
    title: str
    error: float
    sqnr_db: float | None
    peak_error: float
    nonzeros: int


@dataclass(frozen=True)
class TensorRow(Part):
    """One tensor, before and after.

    Attributes:
        name: layer name, slash, role.
        role: kernel, bias, gamma …
        kind: what it is for: kernel, bias, norm, embedding, recurrent, state …
        shape: of the values.
        dtype: in the file.
        new: whether a step made it.
        before: a `model.measure.Summary`.
        after: the same after all steps; None where the tensor was replaced.
        encoding: such as "sparse, int8".
        stored_bytes: in the written file.
        coder: the entropy coder that wrote it, in a packed file.
        changes: one per step that changed it.
        left_alone: one per step that skipped it.
    """

    name: str
    role: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    new: bool
    before: Any
    after: Any
    encoding: str
    stored_bytes: int | None
    coder: str | None
    changes: tuple[Change, ...]
    left_alone: tuple[Reason, ...]


@dataclass(frozen=True)
class LayerRow(Part):
    """One layer and its tensors.

    Attributes:
        name: of the layer.
        class_name: its class; key `class`.
        tensors: in the order in which Keras saves them.
        macs_before: multiply-accumulates in the original.
        macs_after: in the compressed model.
        left_alone: one per step that skipped the layer.
        replaced: whether a step replaced the layer by others.
    """

    name: str
    class_name: str = field(metadata={"key": "class"})
    tensors: tuple[TensorRow, ...]
    macs_before: int | None
    macs_after: int | None
    left_alone: tuple[Reason, ...] = field(default=(), metadata=_PRESENT)
    replaced: bool = field(default=False, metadata=_PRESENT)


@dataclass(frozen=True)
class Evaluation(Part):
    """What the test data tells.

    Attributes:
        test: the CSV.
        before: the original; None where one model was measured alone.
        after: the compressed model, or the only one.
        change: of each metric, the original's less the result's or the other way round.
        agreement: how far the two decide alike.
    """

    test: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]
    change: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)
    agreement: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)


@dataclass(frozen=True)
class ChannelGroup(Part):
    """Channels that are removed together.

    Attributes:
        channels: how many there are.
        made_by: the layers whose output channels they are.
        weights: the tensors that have them on an axis.
    """

    channels: int
    made_by: tuple[str, ...]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class ChannelGraph(Part):
    """Which channels `prune: channels` can remove.

    Attributes:
        groups: the dependency groups.
        kept: layer whose channels cannot be removed -> why.
    """

    groups: tuple[ChannelGroup, ...]
    kept: Mapping[str, str]


@dataclass(frozen=True)
class Report(Part):
    """All that a job measured.

    Attributes:
        schema: version of the JSON.
        modelcut: version of modelcut.
        versions: of Python and the libraries that took part.
        host: processor architecture and operating system.
        input: the model that was read.
        output: the file that was written; None for a dry run, `inspect` and `eval`.
        recipe: as it was run, defaults left out.
        seed: of everything random.
        sizes: before and after.
        ledger: stage by stage.
        steps: what each step did.
        layers: each layer and tensor.
        evaluation: what the test data tells; None without test data.
        gates: one dict per gate that was set: name, limit, value, held.
        warnings: what a user should know.
        notes: what stands above everything else.
        against: of `eval --against`: the reference, as `input`.
        provenance: of `inspect`: what an earlier modelcut wrote into the file.
        graph: of `inspect --graph`: which layers share channels, and which keep theirs and why.
    """

    schema: str
    modelcut: str
    versions: Mapping[str, str]
    host: Mapping[str, str]
    input: Input
    output: Output | None
    recipe: Mapping[str, Any] | None
    seed: int | None
    sizes: Sizes
    ledger: tuple[Stage, ...]
    steps: tuple[StepRow, ...]
    layers: tuple[LayerRow, ...]
    evaluation: Evaluation | None = None
    gates: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    against: Input | None = field(default=None, metadata=_PRESENT)
    provenance: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)
    graph: ChannelGraph | None = field(default=None, metadata=_PRESENT)

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate["held"] for gate in self.gates)

    def _repr_html_(self) -> str:
        """The report's tables, for notebooks."""
        # By name: the forms of the report read this file.
        return str(import_module("modelcut.report.html").tables_of(self))


@dataclass(frozen=True)
class Worker(Part):
    """What a worker that is not the chief of a distributed training gives in place of a report.

    Attributes:
        worker: its index.
        workers: how many there are.
    """

    worker: int
    workers: int

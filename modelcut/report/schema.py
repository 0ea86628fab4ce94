"""The report as typed data; `to_dict` gives the JSON of schema `modelcut-report/1`.

Within a version the JSON grows only by new keys. A field is one key, in order; a field that is
declared `_PRESENT` is left out of the JSON where it has no value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from modelcut.model.measure import Summary

SCHEMA = "modelcut-report/1"


COMPARISON = "modelcut-comparison/1"


def is_marked(path: Path) -> bool:
    """Whether a file is a report or a comparison that modelcut wrote, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(4096)
    return any(name.partition("/")[0].encode() in head for name in (SCHEMA, COMPARISON))


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
        path: path of the input, as given by the user.
        format: registry name of the format (hdf5, keras_zip, saved_model, litert …), or of the
            container around it (mcut).
        dialect: which Keras wrote it.
        writer: version of Keras that wrote the file.
        bytes: size of the file, or of all files of a folder.
        sha256: SHA-256 of the file, in hexadecimal; None unless it was asked for (`--sha256`).
        blake3: BLAKE3 of the file, in hexadecimal, as `b3sum` gives it; of a folder, that of a line
            with name and digest for each of its files.
        facts: what the format tells besides, under the format's name.
        packed: registry name of the format inside a container; absent without a container.
        left_out: what a rewrite leaves out by default, such as the optimizer's state, in words.
    """

    path: str
    format: str
    dialect: str
    writer: str
    bytes: int
    sha256: str | None
    blake3: str
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=_FLAT)
    packed: str | None = field(default=None, metadata=_PRESENT)
    left_out: tuple[str, ...] = field(default=(), metadata=_PRESENT)


@dataclass(frozen=True)
class Output(Part):
    """The file that was written.

    Attributes:
        path: where it was written.
        format: registry name of the output's format.
        bytes: size of the output.
        sha256: SHA-256 of the file, in hexadecimal; None unless it was asked for (`--sha256`).
        blake3: BLAKE3 of the file, in hexadecimal, as `b3sum` gives it; of a folder, that of a line
            with name and digest for each of its files.
        compression: none, fast or best; None where the format has a coding of its own.
        dropped: what was left out of the file, such as the optimizer's state, in words.
        facts: what an engine tells of a file that it made, under the engine's name.
        header: the C array beside a `.tflite`: path, sizes and the measured arena.
    """

    path: str
    format: str
    bytes: int
    sha256: str | None
    blake3: str
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
        bytes: size of the values, uncompressed.
        deflated_bytes: size of the values after deflate, the bytes shuffled first where that is
            smaller; of a tensor beyond 4 MB that was not written so, 16 pieces are compressed and
            the rest is estimated from them, unless the full report was asked for. None where it was
            not computed.
        bits_per_weight: bits per parameter in a plain fixed-length form of the encodings; in a
            packed file, of the stored bytes.
        deflated_estimated: whether part of `deflated_bytes` is such an estimate.
    """

    parameters: int
    nonzeros: int
    sparsity: float
    bytes: int
    deflated_bytes: int | None
    bits_per_weight: float
    deflated_estimated: bool = False


@dataclass(frozen=True)
class Stage(Part):
    """A row of the ledger: the model as read, after a step, or as it is coded.

    Attributes:
        stage: "original", a step's number and title, or the entropy coder of a packed file.
        totals: totals of the model at this stage.
    """

    stage: str
    totals: Totals

    def to_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, **self.totals.to_dict()}


@dataclass(frozen=True)
class Size(Part):
    """What a model weighs.

    Attributes:
        totals: totals over its tensors.
        file_bytes: size of its file; None where nothing was written.
        macs: multiply-accumulates of one inference, a layer that is called twice counted twice;
            None where a layer's cannot be told.
        stored_bytes: bytes of the tensors' values in the written file.
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
        bytes: size of that state in the original file.
        file_ratio_without: the file ratio if the original had been saved without it.
    """

    bytes: int
    file_ratio_without: float


@dataclass(frozen=True)
class Weights(Part):
    """The weights alone, those of the original compressed like those of the result.

    Attributes:
        before: bytes of the original's weights.
        after: bytes of the weights in the written file; of a model that was only measured, what
            they deflate to.
        ratio: the one divided by the other.
        coding: what compresses both: deflate, or none; of a packed file, whose entropy coder is
            its own, deflate for the original.
    """

    before: int
    after: int
    ratio: float
    coding: str


@dataclass(frozen=True)
class Sizes(Part):
    """Before and after, and the ratios.

    Attributes:
        before: size of the original; of `eval --against`, of the reference.
        after: size of the compressed model.
        ratio: parameter bytes of the original divided by the bytes of the file.
        file_ratio: bytes of the original file divided by those of the written one.
        optimizer: the optimizer's state that the original file has and the written one lacks.
        weights: the weights alone, compressed alike.
    """

    before: Size
    after: Size
    ratio: float | None = None
    file_ratio: float | None = None
    optimizer: LeftOut | None = field(default=None, metadata=_PRESENT)
    weights: Weights | None = field(default=None, metadata=_PRESENT)


@dataclass(frozen=True)
class StepRow(Part):
    """What a step did.

    Attributes:
        step: number of the step, from 1.
        title: such as "prune: magnitude".
        parameters: the fields that were set.
        facts: what it decided: thresholds, ranks, rounds, curves of a training, trials of a search.
        tensors_changed: how many tensors it changed.
        left_alone: tensor or layer that was skipped, and the reason.
        seconds: wall time of the step's own computation, before the writing.
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
        step: number of the step that skipped it, from 1.
        reason: why, in words.
    """

    step: int
    reason: str


@dataclass(frozen=True)
class TensorChange(Part):
    """What one step did to one tensor.

    Attributes:
        step: number of the step, from 1.
        title: title of the step.
        error: relative error of this step: Frobenius norm of the difference over that of the
            values before.
        sqnr_db: signal-to-noise ratio in dB, 10 log10(Σ w² / Σ d²); None where it is infinite.
        peak_error: largest magnitude of a difference.
        nonzeros: number of non-zeros after the step.
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
        role: what it is in its layer: kernel, bias, gamma …
        kind: what it is for: kernel, bias, norm, embedding, recurrent, state …
        shape: shape of the values.
        dtype: dtype in the file.
        new: whether a step made it.
        before: its values as they were read, or as the step that made the tensor gave them.
        after: the same after all steps; None where the tensor was replaced.
        encoding: such as "sparse, int8".
        stored_bytes: bytes in the written file.
        coder: the entropy coder that wrote it, in a packed file.
        changes: what each step that changed it did.
        left_alone: each step that skipped it.
    """

    name: str
    role: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    new: bool
    before: Summary
    after: Summary | None
    encoding: str
    stored_bytes: int | None
    coder: str | None
    changes: tuple[TensorChange, ...]
    left_alone: tuple[Reason, ...]


@dataclass(frozen=True)
class LayerRow(Part):
    """One layer and its tensors.

    Attributes:
        name: name of the layer.
        class_name: class name of the layer.
        tensors: in the order in which Keras saves them.
        macs_before: multiply-accumulates in the original.
        macs_after: multiply-accumulates in the compressed model.
        left_alone: each step that skipped the layer as a whole.
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
        test: path of the CSV.
        before: the original; None where one model was measured alone.
        after: the compressed model, or the only one.
        change: drop or increase of each metric from the original to the compressed model.
        agreement: how far the two models decide alike.
        latency: the latencies of the two, measured in turn.
        confidence: level of the metrics' intervals.
        simulated: the compressed model, or the only one, in simulated integers, where that was
            asked for: as `after`, with `activation_bits`, `samples` (of calibration), `inside`
            (layers inside of which activations are not rounded), and the `change` and `agreement`
            beside the original, or beside the only model in floats.
    """

    test: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]
    change: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)
    agreement: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)
    latency: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)
    confidence: float | None = field(default=None, metadata=_PRESENT)
    simulated: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)


@dataclass(frozen=True)
class LayerError(Part):
    """How far a layer's outputs in a `.tflite` are from the original network's.

    Attributes:
        layer: name of the layer.
        class_name: class name of the layer.
        mse: mean squared error of its outputs.
        sqnr_db: signal-to-noise ratio in dB, 10 log10(Σ y² / Σ d²); None where it is infinite.
    """

    layer: str
    class_name: str = field(metadata={"key": "class"})
    mse: float
    sqnr_db: float | None


@dataclass(frozen=True)
class LayerErrors(Part):
    """The layers of a `.tflite` beside those of the original network, on calibration samples.

    Attributes:
        reference: the step whose result stands for the original, where one changed what layers
            give by design (equalize, fold, simplify, factorize); "": the model as it was read.
        samples: number of samples.
        layers: the layers whose outputs are in the file, in the order of the network.
        unmatched: layer -> why its outputs are not there.
        why: why nothing was measured; "" where it was.
    """

    reference: str
    samples: int
    layers: tuple[LayerError, ...]
    unmatched: Mapping[str, str]
    why: str = ""


@dataclass(frozen=True)
class HistogramRow(Part):
    """How the values of a tensor are spread, before and after, in a sample of them.

    Attributes:
        tensor: name of the tensor.
        low: lower end of the first bin.
        high: upper end of the last bin.
        before: number of non-zero values in each of the equal bins, before the steps.
        after: the same after all steps.
        sampled: number of values in the sample.
    """

    tensor: str
    low: float
    high: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    sampled: int


@dataclass(frozen=True, kw_only=True)
class ChannelGroup(Part):
    """Channels that are removed together.

    Attributes:
        channels: number of channels (if any).
        made_by: the layers whose output channels they are (if any).
        weights: the tensors that have them on an axis (if any).
        sizes: the numbers in the architecture that count them, as LAYER/KEY, such as
            `attention/num_heads` (if any).
    """

    channels: int
    made_by: tuple[str, ...]
    weights: tuple[str, ...]
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ChannelGraph(Part):
    """Which channels `prune: channels` can remove.

    Attributes:
        groups: the dependency groups (if any).
        kept: layer whose channels cannot be removed -> why (if any).
    """

    groups: tuple[ChannelGroup, ...]
    kept: Mapping[str, str]


@dataclass(frozen=True)
class DataFile(Part):
    """A file that was read besides the model.

    Attributes:
        role: what it is for: test, train, validate, calibrate, custom_objects.
        path: its path, as given by the user.
        blake3: BLAKE3 of its content, in hexadecimal.
    """

    role: str
    path: str
    blake3: str


@dataclass(frozen=True)
class TriedRecipe(Part):
    """One of several recipes that were tried.

    Attributes:
        recipe: the recipe's file.
        bytes: size of the file that it made; None where it could not be run.
        metrics: metrics of its model on the test data; of several outputs none.
        failed: names of the gates that failed.
        error: why it could not be run; "" where it was.
    """

    recipe: str
    bytes: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Report(Part):
    """All that a job measured.

    Attributes:
        schema: `modelcut-report/1`; within a version the layout grows only by new keys.
        modelcut: version of modelcut.
        notes: what a reader should know before the tables, which stands above them.
        versions: versions of Python, NumPy, h5py, isal, TensorFlow, Keras and tf_keras, as far as
            they are installed.
        host: processor architecture and operating system.
        input: the model that was read.
        output: the file that was written; None for a dry run, `inspect` and `eval`.
        recipe: the recipe as it was run, defaults left out.
        seed: seed of all random numbers.
        sizes: sizes before and after, and their ratios.
        ledger: the tensors at each stage, from the original to the result.
        steps: what each step did.
        layers: each layer with its tensors.
        evaluation: metrics on the test data; None without test data.
        layer_errors: with `--layer-errors`, each layer of a `.tflite` beside the original's.
        gates: each gate that was set, and whether it passed (`held`); `checked` is false, with the
            `reason`, for a gate under `if_data` that there was no data for.
        warnings: what a user should know.
        seconds: wall seconds by phase of a job that wrote a file, one after the other: open,
            survey, write (reading, editing and coding, block by block), verify, hash, evaluate,
            publish; and total.
        cpu_seconds: of the same job, CPU seconds of this process over all threads, by work: read,
            survey, edit, code, hash; and total. What an engine takes in its own process is not
            counted.
        against: with `eval --against`, the reference.
        provenance: with `inspect`, the provenance that an earlier modelcut wrote into the file.
        graph: with `inspect --graph`, which layers share channels, and which keep theirs and why.
        data: the files that were read besides the model, where the report is written to a file.
        fingerprint: BLAKE3 of all that decides the output: versions, recipe, options, and the
            contents of what was read; `--if-changed` compares it.
        tried: where several recipes were given, each of them with what came of it.
        search: where the recipe was chosen by `search`: the number of trials, the one that was
            chosen, and what it gave on the validation samples.
        histograms: the spread of the values of those tensors that changed most.
    """

    shown_by: ClassVar[Callable[[Report], str] | None] = None

    schema: str
    modelcut: str
    notes: tuple[str, ...] = ()
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
    layer_errors: LayerErrors | None = field(default=None, metadata=_PRESENT)
    gates: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] | None = field(default=None, metadata=_PRESENT)
    cpu_seconds: Mapping[str, float] | None = field(default=None, metadata=_PRESENT)
    against: Input | None = field(default=None, metadata=_PRESENT)
    provenance: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)
    graph: ChannelGraph | None = field(default=None, metadata=_PRESENT)
    data: tuple[DataFile, ...] = field(default=(), metadata=_PRESENT)
    fingerprint: str | None = field(default=None, metadata=_PRESENT)
    tried: tuple[TriedRecipe, ...] = field(default=(), metadata=_PRESENT)
    search: Mapping[str, Any] | None = field(default=None, metadata=_PRESENT)
    histograms: tuple[HistogramRow, ...] = field(default=(), metadata=_PRESENT)

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate["held"] for gate in self.gates)

    def _repr_html_(self) -> str | None:
        """The report's tables, for notebooks; None has them show plain text."""
        show = type(self).shown_by  # the form registers itself, since forms read this file
        return show(self) if show else None


@dataclass(frozen=True)
class Candidate(Part):
    """One of several models that are compared.

    Attributes:
        name: what it is called in tables: as much of its path as tells it from the others.
        input: its file.
        size: what it weighs.
        evaluation: as `evaluation.after` of a report.
        change: from the reference to it, as `evaluation.change` of a report; None for the
            reference.
        agreement: with the reference, as `evaluation.agreement` of a report.
        latency: beside the reference, as `evaluation.latency` of a report.
    """

    name: str
    input: Input
    size: Size
    evaluation: Mapping[str, Any]
    change: Mapping[str, Any] | None = None
    agreement: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison(Part):
    """Several models on the same test data.

    Attributes:
        schema: `modelcut-comparison/1`; within a version the layout grows only by new keys.
        modelcut: version of modelcut.
        versions: as in a report.
        host: processor architecture and operating system.
        test: path of the CSV.
        rows: number of samples.
        confidence: level of the metrics' intervals.
        models: the models, the first being the reference.
        warnings: what a user should know.
    """

    schema: str = COMPARISON
    modelcut: str
    versions: Mapping[str, str]
    host: Mapping[str, str]
    test: str
    rows: int
    confidence: float
    models: tuple[Candidate, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Worker(Part):
    """What a worker that is not the chief of a distributed training gives in place of a report.

    Attributes:
        worker: index of the worker.
        workers: how many there are.
    """

    worker: int
    workers: int

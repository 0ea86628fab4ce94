"""Runs networks over a CSV and measures them: one pass over the rows for all of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.arrays.blocks import ahead
from modelcut.data import DataOptions
from modelcut.data.csv import Batch, Csv
from modelcut.engines import Network, quiet
from modelcut.errors import InputError, UsageError
from modelcut.metrics import accumulators

_BATCH_VALUES = 1 << 22
_MOST_ROWS = 1024
_LATENCY_RUNS = 50
_LATENCY_SECONDS = 2.0


@dataclass
class Evaluation:
    """What one network did on the rows.

    Attributes:
        engine: name and version.
        task: of the first output.
        metrics: of the first output, and of all by name where there are several.
        rows: evaluated.
        seconds: in the engine, the first batch left out where there are more.
        latency: of single rows, or None.
    """

    engine: str
    task: str | None
    metrics: dict[str, Any]
    rows: int
    rows_per_second: float | None
    latency: dict[str, Any] | None
    cleaning: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; speeds are of this host."""
        return {
            "engine": self.engine,
            "task": self.task,
            "metrics": self.metrics,
            "rows": self.rows,
            "rows_per_second": self.rows_per_second,
            "latency": self.latency,
            "host": {"cpus": os.cpu_count(), "machine": platform.machine()},
            "cleaning": self.cleaning,
            "warnings": self.warnings,
        }


class Output:
    """One output's labels and accumulators, of all networks."""

    def __init__(self, name: str, task: str, units: int, columns: slice, networks: int) -> None:
        self.name = name
        self.task = task
        self.units = units
        self.columns = columns
        self.networks = networks
        self.sums: list[accumulators.Accumulator] = []

    def start(self, classes: Sequence[str] | None) -> None:
        self.sums = [
            accumulators.accumulator(self.task, self.units, classes) for _ in range(self.networks)
        ]


def evaluate(
    networks: Sequence[Network], path: Path, options: DataOptions, *, task: str | None = None
) -> tuple[list[Evaluation], dict[str, Any] | None]:
    """Evaluates networks that take the same inputs.

    Args:
        networks: one, or the original and the result.
        path: the CSV.
        options: how it is read.
        task: of the outputs; None: inferred.

    Returns:
        One evaluation a network; and, of two, how far they agree.

    Raises:
        InputError: rows or labels do not fit the networks.
        UsageError: nothing can be measured on this CSV.
    """
    first = networks[0]
    table = Csv.open(path, options, first.inputs)
    if not table.labels and len(networks) < 2:
        raise UsageError(f"{path}: has no label column, so nothing can be measured", "add --label")
    outputs = deal_labels(first, table, task, len(networks)) if table.labels else []
    for output in outputs:
        output.start(options.classes)
    agreement = _Agreement() if len(networks) == 2 else None
    seconds = [0.0] * len(networks)
    counted = rows = 0
    sample: Batch | None = None
    distinct = _Distinct()
    for number, batch in enumerate(ahead(table.batches(_batch_size(first)))):
        sample = sample or batch
        distinct.look(batch)
        results = []
        for index, network in enumerate(networks):
            with quiet():
                start = time.perf_counter()
                results.append(network.predict(_named(batch.inputs, network)))
                took = _seconds(network, time.perf_counter() - start)
            # The first batch traces the graph: it is no measure of the speed.
            seconds[index] += took if number else 0.0
        counted += len(batch) if number else 0
        rows += len(batch)
        _add(outputs, batch, results, options, str(path))
        if agreement:
            agreement.look(results[0][0], results[1][0])
    assert sample is not None
    warnings = [*table.warnings, *distinct.warnings(outputs)]
    evaluations = []
    for index, network in enumerate(networks):
        found = [output.sums[index].result() for output in outputs]
        merged = dict(found[0]) if found else {}
        if len(found) > 1:
            merged["outputs"] = {o.name: r for o, r in zip(outputs, found, strict=True)}
        if merged.get("nonfinite_outputs"):
            warnings.append(f"{merged['nonfinite_outputs']} rows gave NaN or infinite outputs")
        evaluations.append(
            Evaluation(
                engine=network.engine,
                task=outputs[0].task if outputs else None,
                metrics=merged,
                rows=rows,
                rows_per_second=counted / seconds[index] if seconds[index] else None,
                latency=_latency(network, sample),
                cleaning=table.cleaning.to_dict(),
                warnings=warnings,
            )
        )
    return evaluations, agreement.result() if agreement else None


def _named(inputs: Mapping[str, np.ndarray], network: Network) -> Mapping[str, np.ndarray]:
    """The inputs under a network's own names: formats differ in these, not in the order."""
    names = [spec.name for spec in network.inputs]
    if set(names) == set(inputs) or len(names) != len(inputs):
        return inputs
    return dict(zip(names, inputs.values(), strict=True))


def _seconds(network: Network, around: float) -> float:
    """Of the last call: the engine's own count where it runs in another process."""
    inside: float | None = getattr(network, "seconds", None)
    return around if inside is None else inside


def _batch_size(network: Network) -> int:
    if network.fixed_batch is not None:
        return network.fixed_batch
    values = sum(int(np.prod([n or 1 for n in spec.shape])) for spec in network.inputs)
    return int(np.clip(_BATCH_VALUES // max(1, values), 1, _MOST_ROWS))


def deal_labels(network: Network, table: Csv, task: str | None, networks: int = 1) -> list[Output]:
    """Deals the label columns out to the outputs, in order.

    Raises:
        UsageError: an output gets none, or takes more than one decision a row.
    """
    if table.columns.reconstructs:
        return _mirrored(network, table, task, networks)
    made, start = [], 0
    several = len(network.outputs) > 1
    for spec in network.outputs:
        shape = [n for n in spec.shape if n != 1]
        if len(shape) > 1 or None in shape:
            raise UsageError(
                f"the output {spec.name!r} of shape {spec.shape} has more than one label a row",
                "modelcut takes one decision a row; use such a network in your own code",
            )
        units = shape[0] if shape else 1
        assert units is not None
        left = len(table.labels) - start
        one_each = several and len(table.labels) == len(network.outputs)
        mine = 1 if one_each else left if not several else min(units, left)
        chosen = task or accumulators.infer_task(units, spec.activation, network.loss, mine)
        if several and not one_each and chosen in ("binary", "multiclass"):
            mine = min(1, left)
        if mine < 1:
            raise UsageError(
                f"{table.path}: no label column is left for the output {spec.name!r}",
                "name one for each output: --label '[a, b]'; of a SavedModel, "
                "--signature NAME:OUTPUT takes one",
            )
        made.append(Output(spec.name, chosen, units, slice(start, start + mine), networks))
        start += mine
    return made


def _mirrored(network: Network, table: Csv, task: str | None, networks: int) -> list[Output]:
    """Deals each input out to the output that should give it back, in order.

    Raises:
        UsageError: an output is not like its input.
    """
    if task not in (None, "regression"):
        raise UsageError(f"label: input is a regression, not {task}", "leave --task out")
    if len(network.inputs) != len(network.outputs):
        raise UsageError(
            f"label: input: the model has {len(network.inputs)} inputs and "
            f"{len(network.outputs)} outputs",
            "an autoencoder has one output for each input",
        )
    made, start = [], 0
    for given, spec in zip(network.inputs, network.outputs, strict=True):
        units = len(table.columns.features[given.name])
        known = [n for n in spec.shape if n is not None]
        fits = units % prod(known) == 0 if len(known) < len(spec.shape) else units == prod(known)
        if given.dtype == "string" or not fits:
            raise UsageError(
                f"label: input: the output {spec.name!r} of shape {spec.shape} cannot be compared "
                f"with the input {given.name!r} of shape {given.shape} ({given.dtype})",
                "--label names the label columns",
            )
        made.append(Output(spec.name, "regression", units, slice(start, start + units), networks))
        start += units
    return made


def _add(
    outputs: list[Output],
    batch: Batch,
    results: list[list[np.ndarray]],
    options: DataOptions,
    where: str,
) -> None:
    for number, output in enumerate(outputs):
        assert batch.labels is not None
        part = batch.labels[:, output.columns]
        labels = accumulators.labels_for(output.task, output.units, part, options.classes, where)
        for sums, result in zip(output.sums, results, strict=True):
            sums.update(labels, result[number].reshape(len(labels), -1))


class _Agreement:
    """How far two networks give the same answers."""

    def __init__(self) -> None:
        self._rows = self._same = 0
        self._most = 0.0

    def look(self, one: np.ndarray, two: np.ndarray) -> None:
        one = one.reshape(len(one), -1).astype(np.float64)
        two = two.reshape(len(two), -1).astype(np.float64)
        if one.shape != two.shape:
            raise InputError("the two models give outputs of different shapes")
        self._rows += len(one)
        same = (one > 0.5) == (two > 0.5) if one.shape[1] == 1 else None
        self._same += int((one.argmax(1) == two.argmax(1)).sum() if same is None else same.sum())
        if one.size:
            self._most = max(self._most, float(np.nanmax(np.abs(one - two), initial=0.0)))

    def result(self) -> dict[str, Any]:
        return {"top1": self._same / max(1, self._rows), "max_difference": self._most}


class _Distinct:
    """Notices data on which a measure means little."""

    def __init__(self) -> None:
        self._first: np.ndarray | None = None
        self._label: Any = None
        self._alike = self._one_label = True

    def look(self, batch: Batch) -> None:
        rows = next(iter(batch.inputs.values())).reshape(len(batch), -1)
        if self._first is None:
            self._first = rows[0].copy()
            self._label = None if batch.labels is None else batch.labels[0].copy()
        if self._alike:
            self._alike = bool((rows == self._first).all())
        if self._one_label and batch.labels is not None:
            self._one_label = bool((batch.labels == self._label).all())

    def warnings(self, outputs: list[Output]) -> list[str]:
        found = []
        if self._alike:
            found.append("all rows of the CSV are alike")
        if outputs and self._one_label and outputs[0].task != "regression":
            found.append("all rows of the CSV have the same label")
        return found


def _latency(network: Network, sample: Batch) -> dict[str, Any]:
    """Milliseconds of single rows (of the fixed batch, where there is one), after a warm-up."""
    rows = network.fixed_batch or 1
    times: list[float] = []
    started = time.perf_counter()
    with quiet():
        for run in range(_LATENCY_RUNS + 5):
            at = run * rows % max(1, len(sample) - rows + 1)
            inputs = _named(sample.inputs, network)
            part = {name: values[at : at + rows] for name, values in inputs.items()}
            start = time.perf_counter()
            network.predict(part, exact=True)
            took = _seconds(network, time.perf_counter() - start)
            if run >= 5 or time.perf_counter() - started > _LATENCY_SECONDS:
                times.append(1000 * took)
            if time.perf_counter() - started > _LATENCY_SECONDS:
                break
    return {
        "batch": rows,
        "runs": len(times),
        "median_ms": float(np.median(times)),
        "p90_ms": float(np.percentile(times, 90)),
    }

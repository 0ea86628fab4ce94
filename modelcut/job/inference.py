"""Runs networks over a CSV and measures them: one pass over the rows for all of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.arrays.blocks import ahead
from modelcut.data import DataOptions
from modelcut.data.csv import Batch, Csv
from modelcut.data.rows import with_labels
from modelcut.engines import Network, quiet
from modelcut.job.targets import Targets, Wanted, paired, plan
from modelcut.job.watched import within
from modelcut.metrics.limits import Limits
from modelcut.metrics.scores import Agreement, Scores, Target, check_limits

_BATCH_VALUES = 1 << 22
_MOST_ROWS = 1024
_LATENCY_RUNS = 50
_LATENCY_SECONDS = 2.0


@dataclass
class Measurement:
    """What one network did on the rows.

    Attributes:
        engine: name and version of the engine.
        task: task of the first measured output.
        metrics: metrics of the first measured output, and of all outputs by name where there are
            several.
        outputs: task and labels of each output.
        rows: number of samples that were evaluated.
        seconds: time spent in the engine; the first batch is left out where there are more.
        latency: latency of single samples, or None.
    """

    engine: str
    task: str | None
    metrics: dict[str, Any]
    rows: int
    rows_per_second: float | None
    latency: dict[str, Any] | None
    outputs: list[dict[str, Any]] = field(default_factory=list)
    cleaning: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; speeds are of this host."""
        return {
            "engine": self.engine,
            "task": self.task,
            "metrics": self.metrics,
            "outputs": self.outputs,
            "rows": self.rows,
            "rows_per_second": self.rows_per_second,
            "latency": self.latency,
            "host": {"cpus": os.cpu_count(), "machine": platform.machine()},
            "cleaning": self.cleaning,
            "warnings": self.warnings,
        }


@dataclass(frozen=True)
class Bounds:
    """What one batch may take.

    Attributes:
        rows: samples in it, at most.
        seconds: of CPU; 0 for no limit.
    """

    rows: int = _MOST_ROWS
    seconds: float = 0


@dataclass(frozen=True)
class Evaluator:
    """A network and a CSV that it fits, with what each output is measured against.

    Attributes:
        network: the one that decides what its outputs are for.
        table: the CSV that the samples are read from.
        options: how the CSV is parsed.
        targets: the outputs.
        bounds: what a batch may take.
    """

    network: Network
    table: Csv
    options: DataOptions
    targets: Targets
    bounds: Bounds = Bounds()

    @classmethod
    def open(
        cls,
        network: Network,
        path: Path,
        options: DataOptions,
        wanted: Wanted | None = None,
        bounds: Bounds | None = None,
    ) -> Evaluator:
        """Looks at the first lines of the CSV; no sample is run yet.

        Raises:
            InputError: the CSV does not fit the network.
            UsageError: its label columns do not.
        """
        table = Csv.open(path, options, network.inputs)
        targets = plan(network, table, options, wanted or Wanted())
        return cls(network, table, options, targets, bounds or Bounds())

    def check(self, limits: Limits, *, compared: bool) -> None:
        """Refuses what cannot be measured.

        Args:
            limits: the limits that will be checked.
            compared: whether there will be another network.

        Raises:
            UsageError: with what to do.
        """
        if not compared:
            with_labels(self.table.labels or None, self.table.path)
        check_limits(limits, self.targets.outputs, compared=compared)

    def run(self, other: Network | None = None) -> tuple[list[Measurement], dict[str, Any] | None]:
        """Runs all rows.

        Args:
            other: a network that is compared with the evaluator's own, which is the original.

        Returns:
            One evaluation a network; and, of two, how far they agree.

        Raises:
            InputError: rows or labels do not fit the networks.
        """
        networks = [self.network] if other is None else [self.network, other]
        orders = [paired(self.network.outputs, each.outputs) for each in networks]
        targets, table = self.targets.outputs, self.table
        first = Scores(targets)
        scores = [first] if other is None else [first, Scores(targets, first)]
        agreement = Agreement(targets, first) if other is not None else None
        seconds = [0.0] * len(networks)
        counted = rows = 0
        sample: Batch | None = None
        distinct = _Distinct()
        size = _batch_size(self.network, self.bounds.rows)
        for number, batch in enumerate(ahead(table.batches(size))):
            sample = sample or batch
            distinct.look(batch)
            results = []
            for index, network in enumerate(networks):
                with quiet(), within(self.bounds.seconds, "running the network"):
                    start = time.perf_counter()
                    found = network.predict(_named(batch.inputs, network))
                    took = _seconds(network, time.perf_counter() - start)
                results.append([found[place] for place in orders[index]])
                # The first batch traces the graph: it is no measure of the speed.
                seconds[index] += took if number else 0.0
            counted += len(batch) if number else 0
            rows += len(batch)
            labels = _labels(targets, batch, str(table.path))
            for sums, result in zip(scores, results, strict=True):
                sums.update(labels, result)
            if agreement:
                agreement.look(*results)
        assert sample is not None
        warnings = [*self.targets.notes, *table.warnings, *distinct.warnings(targets)]
        evaluations = []
        for index, network in enumerate(networks):
            merged = scores[index].result()
            lines = [*warnings, *scores[index].notes(), *_odd(merged)]
            measured = [target for target in targets if target.places]
            evaluations.append(
                Measurement(
                    engine=network.engine,
                    task=measured[0].task.kind if measured else None,
                    metrics=merged,
                    rows=rows,
                    rows_per_second=counted / seconds[index] if seconds[index] else None,
                    latency=_latency(network, sample),
                    outputs=scores[index].described(),
                    cleaning=table.cleaning.to_dict(),
                    warnings=lines,
                )
            )
        return evaluations, agreement.result() if agreement else None


def evaluate(
    networks: Sequence[Network],
    path: Path,
    options: DataOptions,
    *,
    task: str | Mapping[str, str] | None = None,
    from_logits: bool | Mapping[str, bool] | None = None,
) -> tuple[list[Measurement], dict[str, Any] | None]:
    """Evaluates networks that take the same inputs.

    Args:
        networks: one network, or the original and the compressed one.
        path: the CSV.
        options: how the CSV is parsed.
        task: task of the outputs; None: inferred from the file.
        from_logits: whether outputs are logits; None: inferred from the file.

    Returns:
        One evaluation a network; and, of two, how far they agree.

    Raises:
        InputError: rows or labels do not fit the networks.
        UsageError: nothing can be measured on this CSV.
    """
    evaluator = Evaluator.open(networks[0], path, options, Wanted(task or "auto", from_logits))
    evaluator.check(Limits(), compared=len(networks) > 1)
    return evaluator.run(networks[1] if len(networks) > 1 else None)


def _labels(targets: Sequence[Target], batch: Batch, where: str) -> list[np.ndarray | None]:
    """The labels of each output; None for one that is not measured."""
    table = batch.labels
    return [
        target.labels(table, where) if target.places and table is not None else None
        for target in targets
    ]


def _odd(merged: Mapping[str, Any]) -> list[str]:
    """What was odd in the values of the outputs."""
    lines = []
    for name, part in (merged.get("outputs") or {"": merged}).items():
        which = f" of the output {name!r}" if name else ""
        if part.get("nonfinite_outputs"):
            rows = part["nonfinite_outputs"]
            lines.append(f"{rows} rows gave NaN or infinite outputs{which}")
    return lines


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


def _batch_size(network: Network, most: int = _MOST_ROWS) -> int:
    if network.fixed_batch is not None:
        return network.fixed_batch
    values = sum(int(np.prod([n or 1 for n in spec.shape])) for spec in network.inputs)
    return int(np.clip(_BATCH_VALUES // max(1, values), 1, min(most, _MOST_ROWS)))


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

    def warnings(self, targets: Sequence[Target]) -> list[str]:
        found = []
        if self._alike:
            found.append("all rows of the CSV are alike")
        measured = [target for target in targets if target.places]
        if measured and self._one_label and measured[0].task.decides:
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

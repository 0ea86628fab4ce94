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
from modelcut.data.rows import with_labels
from modelcut.data.sources import open_table
from modelcut.data.table import Batch, Table
from modelcut.engines import Network, quiet
from modelcut.job import latency, limits
from modelcut.job.expected import Expected, Seen
from modelcut.job.request import Say
from modelcut.job.targets import Targets, Wanted, paired, plan
from modelcut.metrics import accumulators
from modelcut.metrics.confidence import Confidence
from modelcut.metrics.limits import Limits
from modelcut.metrics.scores import Agreement, Scores, Target, check_limits

_BATCH_VALUES = 1 << 22
_MOST_ROWS = 1024


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
class Pair:
    """How a network compares with the first one, on the same rows.

    Attributes:
        change: drop or increase of each metric, with intervals and McNemar's test.
        agreement: how far the two decide alike.
        latency: median of the paired ratios of their latencies, with its interval.
    """

    change: dict[str, Any]
    agreement: dict[str, Any]
    latency: dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """A network and a CSV that it fits, with what each output is measured against.

    Attributes:
        network: the one that decides what its outputs are for.
        table: the CSV that the samples are read from.
        options: how the CSV is parsed.
        targets: the outputs.
        expected: what the network's first layers expect of the features.
        apart: whether networks may run in a process of their own; False: one runs in this one.
    """

    network: Network
    table: Table
    options: DataOptions
    targets: Targets
    expected: Sequence[Expected] = ()
    apart: bool = True

    @classmethod
    def open(
        cls,
        network: Network,
        path: Path,
        options: DataOptions,
        wanted: Wanted | None = None,
        expected: Sequence[Expected] = (),
        *,
        apart: bool = True,
    ) -> Evaluator:
        """Looks at the first lines of the CSV; no sample is run yet.

        Raises:
            InputError: the CSV does not fit the network.
            UsageError: its label columns do not.
        """
        table = open_table(path, options, network.inputs)
        options = table.options
        targets = plan(network, table, options, wanted or Wanted())
        return cls(network, table, options, targets, expected, apart)

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

    def run(
        self,
        *others: Network,
        names: Sequence[str] = ("the original", "the result"),
        say: Say = lambda _: None,
    ) -> tuple[list[Measurement], list[Pair]]:
        """Runs all rows.

        Args:
            others: networks that are compared with the evaluator's own, which is the original.
            names: what each network is called in warnings; of a single one, "the model".
            say: takes a line about progress.

        Returns:
            One evaluation a network; and of each of the others how it compares with the first.

        Raises:
            InputError: rows or labels do not fit the networks.
        """
        networks = [self.network, *others]
        names = names if others else ("the model",)
        orders = [paired(self.network.outputs, each.outputs) for each in networks]
        targets, table = self.targets.outputs, self.table
        first = Scores(targets)
        scores = [first, *(Scores(targets, first) for _ in others)]
        agreements = [Agreement(targets, first) for _ in others]
        # Of a network alone, or of each other one together with the first.
        certain = [Confidence(targets, first, 1 + bool(others)) for _ in others or networks]
        seconds = [0.0] * len(networks)
        counted = rows = 0
        sample: Batch | None = None
        distinct, seen = _Distinct(), Seen(self.expected)
        for number, batch in enumerate(ahead(table.batches(_batch_size(self.network)))):
            sample = sample or batch
            distinct.look(batch)
            seen.look(list(batch.inputs.values()))
            results = []
            for index, network in enumerate(networks):
                with quiet(), limits.running(network):
                    start = time.perf_counter()
                    found = network.predict(_named(batch.inputs, network))
                    took = _seconds(network, time.perf_counter() - start)
                results.append([found[place] for place in orders[index]])
                # The first batch traces the graph: it is no measure of the speed.
                seconds[index] += took if number else 0.0
            counted += len(batch) if number else 0
            rows += len(batch)
            say(f"evaluating, {rows:,} samples")
            labels = _labels(targets, batch, str(table.path))
            for sums, result in zip(scores, results, strict=True):
                sums.update(labels, result)
            for agreement, result in zip(agreements, results[1:], strict=True):
                agreement.look(results[0], result)
            for index, counts in enumerate(certain):
                counts.look(labels, *([results[0], results[index + 1]] if others else results))
        assert sample is not None
        times, compared = latency.measure(networks, sample, _named)
        warnings = [*self.targets.notes, *table.warnings, *distinct.warnings(targets)]
        warnings += seen.warnings()
        evaluations = []
        for index, network in enumerate(networks):
            mine, which = certain[max(0, index - 1)], min(index, 1)
            merged = mine.metrics(scores[index].result(), which)
            lines = [*warnings, *scores[index].notes(), *_odd(merged)]
            lines += mine.warnings(merged, which, names[index])
            measured = [target for target in targets if target.places]
            evaluations.append(
                Measurement(
                    engine=network.engine,
                    task=measured[0].task.kind if measured else None,
                    metrics=merged,
                    rows=rows,
                    rows_per_second=counted / seconds[index] if seconds[index] else None,
                    latency=times[index],
                    outputs=scores[index].described(),
                    cleaning=table.cleaning.to_dict(),
                    warnings=lines,
                )
            )
        pairs = [
            Pair(
                counts.change(accumulators.compare(evaluations[0].metrics, other.metrics)),
                agreement.result(),
                ratio,
            )
            for counts, agreement, other, ratio in zip(
                certain, agreements, evaluations[1:], compared, strict=False
            )
        ]
        return evaluations, pairs


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
    found, pairs = evaluator.run(*networks[1:])
    return found, pairs[0].agreement if pairs else None


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


def _batch_size(network: Network) -> int:
    if network.fixed_batch is not None:
        return network.fixed_batch
    values = sum(int(np.prod([n or 1 for n in spec.shape])) for spec in network.inputs)
    most = limits.rows_within(network, _MOST_ROWS)
    return int(np.clip(_BATCH_VALUES // max(1, values), 1, most))


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

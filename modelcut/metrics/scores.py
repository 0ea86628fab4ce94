"""All outputs of a network together: their metrics, and how far two networks agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.errors import InputError, UsageError
from modelcut.metrics import accumulators
from modelcut.metrics.labels import labels_for
from modelcut.metrics.limits import Limits
from modelcut.metrics.task import Task, decisions
from modelcut.safety import printable

_SLACK = 1e-3
"""By how much a probability may lie outside [0, 1]: formats of 8 bits round."""


@dataclass(frozen=True)
class Target:
    """One output and what it is measured against.

    Attributes:
        name: name of the output.
        task: what it is for.
        places: which of the label columns are its own, in order; none: it is not measured.
        columns: names of the label columns.
        classes: names of its classes, or None.
    """

    name: str
    task: Task
    places: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None

    def labels(self, table: np.ndarray, where: str) -> np.ndarray:
        """Its labels as the accumulators take them; `table` is (rows, label columns).

        Raises:
            InputError: labels that the output cannot mean; `where` is the file.
        """
        part = table[:, list(self.places)]
        task = self.task
        return labels_for(task.kind, task.units, part, self.classes, where, self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"name": self.name, **self.task.to_dict(), "labels": list(self.columns)}


class Scores:
    """Metrics of all outputs of one network that are measured."""

    def __init__(self, targets: Sequence[Target], like: Scores | None = None) -> None:
        """Nothing is summed up yet.

        Args:
            targets: the outputs, in the network's order.
            like: scores of the network that this one is compared with; where only the values tell
                logits from probabilities, those of that network decide.
        """
        self.targets = tuple(targets)
        self._outside = [0] * len(self.targets)
        self._sums: list[accumulators.Accumulator | None] = []
        for index, target in enumerate(self.targets):
            values = like.values(index) if like else None
            task = target.task
            self._sums.append(
                accumulators.accumulator(
                    task.kind, task.units, target.classes, logits=task.logits, values=values
                )
                if target.places
                else None
            )

    def values(self, index: int) -> accumulators.Values | None:
        """What tells logits from probabilities, of an output where only values do."""
        return getattr(self._sums[index], "values", None)

    def update(self, labels: Sequence[np.ndarray | None], outputs: Sequence[np.ndarray]) -> None:
        """Takes a batch: labels and values of each output."""
        for index, (truth, output) in enumerate(zip(labels, outputs, strict=True)):
            sums, task = self._sums[index], self.targets[index].task
            if sums is None:
                continue
            assert truth is not None
            values = output.reshape(len(output), -1)
            sums.update(truth, values)
            if task.decides and task.logits is False:
                outside = (values < -_SLACK) | (values > 1 + _SLACK)
                self._outside[index] += int(outside.any(axis=1).sum())

    def described(self) -> list[dict[str, Any]]:
        """What each output is for, as plain JSON data; `guessed` where its values told."""
        found = []
        for index, target in enumerate(self.targets):
            line = target.to_dict()
            values = self.values(index)
            if values is not None:
                line |= {"from_logits": values.logits, "guessed": True}
            found.append(line)
        return found

    def notes(self) -> list[str]:
        """What the values told, or what they tell against the file."""
        lines = []
        for index, target in enumerate(self.targets):
            which = "the output" if len(self.targets) == 1 else f"the output {target.name!r}"
            values = self.values(index)
            if values is not None:
                what = "logits" if values.logits else "probabilities"
                lines.append(
                    f"{which}: its values were taken for {what}, guessed from the values alone: "
                    "neither the last activation nor a loss tells (--from-logits says it)"
                )
            if self._outside[index]:
                lines.append(
                    f"{which}: {self._outside[index]} rows gave values outside [0, 1], though it "
                    "should give probabilities: are they logits? (--from-logits true)"
                )
        return lines

    def result(self) -> dict[str, Any]:
        """The metrics of the first measured output; of all by name in `outputs` if several are."""
        found = {
            target.name: sums.result()
            for target, sums in zip(self.targets, self._sums, strict=True)
            if sums is not None
        }
        merged = dict(next(iter(found.values()))) if found else {}
        if len(self.targets) > 1 and found:
            merged["outputs"] = found
        return merged


class Agreement:
    """How far two networks give the same answers, output by output.

    Of classes: the share of samples on which both have the same class; of a single yes or no, on
    which both are on the same side of the threshold; of several labels, on which all labels are
    alike. A sample for which one of them gives NaN is not alike. Numbers decide nothing, so there
    is no agreement on them, only a largest difference.
    """

    def __init__(self, targets: Sequence[Target], like: Scores | None = None) -> None:
        """Nothing is seen yet; `like`: see `Scores`."""
        self._targets = tuple(targets)
        self._like = like
        self._rows = 0
        self._same = np.zeros((len(self._targets), 2), np.int64)
        self._most = [0.0] * len(self._targets)
        self._own = [accumulators.Values(sums=t.task.kind == "multiclass") for t in self._targets]

    def look(self, ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> None:
        """Takes the outputs of both for a batch.

        Raises:
            InputError: they differ in shape.
        """
        for index, (target, one, two) in enumerate(zip(self._targets, ones, others, strict=True)):
            first = one.reshape(len(one), -1).astype(np.float64)
            second = two.reshape(len(two), -1).astype(np.float64)
            if first.shape != second.shape:
                raise InputError("the two models give outputs of different shapes")
            if first.size:
                with np.errstate(invalid="ignore"):
                    most = float(np.nanmax(np.abs(first - second), initial=0.0))
                self._most[index] = max(self._most[index], most)
            if target.task.logits is None and target.task.decides:
                self._own[index].look(first)
            for logits in (False, True):
                same = alike(target.task.kind, first, second, logits=logits)
                if same is not None:
                    self._same[index, int(logits)] += int(same.sum())
        self._rows += len(ones[0])

    def result(self) -> dict[str, Any]:
        """`top1` and `max_difference` of the first output; of all in `outputs` if several are."""
        found = {}
        for index, target in enumerate(self._targets):
            logits = target.task.logits
            if logits is None:
                seen = self._like.values(index) if self._like else None
                logits = (seen or self._own[index]).logits
            share = float(self._same[index, int(logits)] / max(1, self._rows))
            top1 = share if target.task.decides else None
            found[target.name] = {"top1": top1, "max_difference": self._most[index]}
        merged: dict[str, Any] = dict(next(iter(found.values())))
        if len(found) > 1:
            merged["outputs"] = found
        return merged


def alike(kind: str, one: np.ndarray, two: np.ndarray, *, logits: bool) -> np.ndarray | None:
    """On which samples two outputs (rows, units) decide the same; None where nothing is decided."""
    first = decisions(kind, one, logits=logits)
    second = decisions(kind, two, logits=logits)
    if first is None or second is None:
        return None
    same = first == second
    same = same.all(axis=1) if same.ndim > 1 else same
    known: np.ndarray = ~(np.isnan(one).any(axis=1) | np.isnan(two).any(axis=1))
    return np.asarray(same & known)


def check_limits(limits: Limits, targets: Sequence[Target], *, compared: bool) -> None:
    """Refuses limits that nothing measures on these outputs, before any work.

    Args:
        limits: the limits that will be checked.
        targets: the outputs.
        compared: whether there are two networks.

    Raises:
        UsageError: names the limit, why it has no meaning, and what to do.
    """
    for limit in limits.each():
        outputs = tuple(targets)
        if limit.output:
            outputs = tuple(target for target in outputs if target.name == limit.output)
            if not outputs:
                raise UsageError(
                    f"the gate {limit.shown}: the model has no output of this name",
                    f"its outputs: {printable(', '.join(t.name for t in targets), 200)}",
                )
        if limit.if_data:
            continue  # the report says that it was not checked
        if limit.compares and not compared:
            raise UsageError(f"the gate {limit.shown} compares two models", "add --against FILE")
        if not limit.of:
            continue
        if limit.of != "agreement":
            outputs = tuple(target for target in outputs if target.places)
            if not outputs:
                raise UsageError(f"the gate {limit.shown} needs labels", "add --label COLUMN")
        meant = "regression" if limit.of == "numbers" else "classes"
        if not any((limit.of == "numbers") != target.task.decides for target in outputs):
            kinds = dict.fromkeys(target.task.kind or "an unknown task" for target in outputs)
            raise UsageError(
                f"the gate {limit.shown} is for {meant}, and has no meaning for "
                f"{' and '.join(kinds)}",
                "leave it out, or set the task with --task",
            )

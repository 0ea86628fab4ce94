"""Metrics of predictions against labels, summed up batch by batch.

Definitions are those of scikit-learn with `zero_division=0`: precision, recall and F1 of a class
from its counts; macro over the classes that occur in labels or predictions, or over all labels of
a multi-label network; weighted by support.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from modelcut.metrics.task import decisions

_TINY = sys.float_info.epsilon
_MOST_CONFUSED = 1000


class Accumulator(Protocol):
    """Sums up one output of a network."""

    def update(self, labels: np.ndarray, outputs: np.ndarray) -> None:
        """Takes a batch: labels as `labels_for` gives them, outputs (rows, units)."""

    def result(self) -> dict[str, Any]:
        """The metrics so far, as plain JSON data."""


def accumulator(
    task: str,
    units: int,
    classes: Sequence[str] | None = None,
    *,
    logits: bool | None = None,
    values: Values | None = None,
) -> Accumulator:
    """The accumulator of a task.

    Args:
        task: one of `task.KINDS`.
        units: number of values per sample of the output.
        classes: names of the classes, for the report.
        logits: what the outputs are; None: the values tell, all of them, at the end.
        values: where logits is None: those that tell; None: the accumulator's own.
    """
    if task == "regression":
        return Regression(units)
    if logits is None:
        readings = [accumulator(task, units, classes, logits=each) for each in (False, True)]
        return Undecided(readings, values, sums=task != "multilabel" and units > 1)
    if task == "multilabel":
        return Multilabel(units, classes, logits=logits)
    return Classes(max(2, units), classes, logits=logits)


class Values:
    """What tells logits from probabilities, where nothing else does.

    Probabilities lie in [0, 1], and those of classes sum to 1 up to what 8 bits can hold. That is
    asked of all samples together: it depends neither on their order nor on the batches.
    """

    def __init__(self, *, sums: bool) -> None:
        self._sums = sums
        self.logits = False

    def look(self, outputs: np.ndarray) -> None:
        """Takes a batch, (rows, units)."""
        outputs = outputs[np.isfinite(outputs).all(axis=1)].astype(np.float64)
        outside = (outputs < 0) | (outputs > 1)
        self.logits |= bool(outside.any())
        if self._sums:
            slack = max(0.05, outputs.shape[1] / 512)  # half a code of 8 bits each
            self.logits |= bool((np.abs(outputs.sum(axis=1) - 1) > slack).any())


class Undecided:
    """Outputs that may be probabilities or logits: summed up as both until all are seen.

    Attributes:
        values: statistics that tell at the end whether outputs are logits or probabilities.
    """

    def __init__(
        self, readings: Sequence[Accumulator], values: Values | None, *, sums: bool
    ) -> None:
        self._readings = readings
        self._mine = values is None
        self.values = Values(sums=sums) if values is None else values

    def update(self, labels: np.ndarray, outputs: np.ndarray) -> None:
        """See `Accumulator`."""
        if self._mine:
            self.values.look(outputs)
        for reading in self._readings:
            reading.update(labels, outputs)

    def result(self) -> dict[str, Any]:
        """See `Accumulator`."""
        return self._readings[self.values.logits].result()


class Classes:
    """One class of several: binary (one unit, or two) and multiclass."""

    def __init__(
        self, count: int, names: Sequence[str] | None = None, *, logits: bool = False
    ) -> None:
        self._names = [str(n) for n in names] if names else [str(i) for i in range(count)]
        self._confusion = np.zeros((count, count), np.int64)
        self._loss = 0.0
        self._top = 0
        self._nonfinite = 0
        self._logits = logits

    def update(self, labels: np.ndarray, outputs: np.ndarray) -> None:
        """See `Accumulator`."""
        outputs = outputs.astype(np.float64)
        bad = ~np.isfinite(outputs).all(axis=1)
        self._nonfinite += int(bad.sum())
        outputs = np.nan_to_num(outputs, nan=0.0, posinf=1e30, neginf=-1e30)
        predicted = decisions("multiclass", outputs, logits=self._logits)
        assert predicted is not None
        outputs = self._probabilities(outputs)
        count = len(self._confusion)
        pairs = labels * count + predicted
        self._confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)
        chosen = outputs[np.arange(len(labels)), labels]
        self._loss -= float(np.log(np.clip(chosen, _TINY, 1 - _TINY)).sum())
        if count > 5:
            # As in argmax, of equal outputs the first comes first; NaN is no answer.
            first = np.arange(count) < labels[:, None]
            better = (outputs > chosen[:, None]) | ((outputs == chosen[:, None]) & first)
            self._top += int(((better.sum(axis=1) < 5) & ~bad).sum())

    def _probabilities(self, outputs: np.ndarray) -> np.ndarray:
        if outputs.shape[1] == 1:
            one = 1 / (1 + np.exp(-np.clip(outputs, -60, 60))) if self._logits else outputs
            return np.concatenate([1 - one, one], axis=1)
        if self._logits:
            outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return outputs / np.maximum(outputs.sum(axis=1, keepdims=True), _TINY)

    def result(self) -> dict[str, Any]:
        """Accuracy, averaged and per-class precision, recall and F1, log loss, confusion."""
        confusion = self._confusion
        rows = int(confusion.sum())
        hits = np.diag(confusion)
        found = _scores(hits, confusion.sum(axis=0), confusion.sum(axis=1), self._names)
        count = len(confusion)
        result = {
            "accuracy": _share(int(hits.sum()), rows),
            **found,
            "log_loss": self._loss / rows if rows else 0.0,
            "from_logits": self._logits,
            "nonfinite_outputs": self._nonfinite,
            "rows": rows,
            "confusion": confusion.tolist() if count <= _MOST_CONFUSED else None,
        }
        if count > 5:
            result["top_5_accuracy"] = _share(self._top, rows)
        return result


class Multilabel:
    """Several yes-or-no decisions a row."""

    def __init__(
        self, units: int, names: Sequence[str] | None = None, *, logits: bool = False
    ) -> None:
        self._logits = logits
        self._names = [str(n) for n in names] if names else [str(i) for i in range(units)]
        self._hits = np.zeros(units, np.int64)
        self._said = np.zeros(units, np.int64)
        self._true = np.zeros(units, np.int64)
        self._right = np.zeros(units, np.int64)
        self._rows = self._exact = self._nonfinite = 0
        self._loss = 0.0

    def update(self, labels: np.ndarray, outputs: np.ndarray) -> None:
        """See `Accumulator`."""
        outputs = outputs.astype(np.float64)
        self._nonfinite += int((~np.isfinite(outputs).all(axis=1)).sum())
        outputs = np.nan_to_num(outputs, nan=0.0)
        said = decisions("multilabel", outputs, logits=self._logits)
        assert said is not None
        if self._logits:
            outputs = 1 / (1 + np.exp(-np.clip(outputs, -60, 60)))
        true = labels == 1
        self._hits += (said & true).sum(axis=0)
        self._said += said.sum(axis=0)
        self._true += true.sum(axis=0)
        self._right += (said == true).sum(axis=0)
        self._exact += int((said == true).all(axis=1).sum())
        self._rows += len(labels)
        chosen = np.clip(np.where(true, outputs, 1 - outputs), _TINY, 1 - _TINY)
        self._loss -= float(np.log(chosen).sum())

    def result(self) -> dict[str, Any]:
        """Subset accuracy as `accuracy`, per label and averaged scores, mean log loss."""
        found = _scores(self._hits, self._said, self._true, self._names, every=True)
        cells = self._rows * len(self._names)
        return {
            "accuracy": _share(self._exact, self._rows),
            "label_accuracy": _share(int(self._right.sum()), cells),
            **found,
            "log_loss": self._loss / cells if cells else 0.0,
            "from_logits": self._logits,
            "nonfinite_outputs": self._nonfinite,
            "rows": self._rows,
        }


class Regression:
    """Numbers against numbers, each output by itself and all together."""

    def __init__(self, units: int) -> None:
        self._rows = self._nonfinite = 0
        self._absolute = np.zeros(units)
        self._squared = np.zeros(units)
        self._mean = np.zeros(units)
        self._spread = np.zeros(units)

    def update(self, labels: np.ndarray, outputs: np.ndarray) -> None:
        """See `Accumulator`."""
        bad = ~np.isfinite(outputs).all(axis=1)
        self._nonfinite += int(bad.sum())
        error = outputs.astype(np.float64) - labels
        self._absolute += np.abs(error).sum(axis=0)
        self._squared += np.square(error).sum(axis=0)
        # Mean and spread of the labels, stable over batches (Chan, Golub and LeVeque 1983).
        total = self._rows + len(labels)
        mean = labels.mean(axis=0)
        delta = mean - self._mean
        self._spread += np.square(labels - mean).sum(axis=0)
        self._spread += delta**2 * self._rows * len(labels) / total
        self._mean += delta * len(labels) / total
        self._rows = total

    def result(self) -> dict[str, Any]:
        """MAE, RMSE and R² of each output, and their means over the outputs."""
        rows = max(1, self._rows)
        mae, mse = self._absolute / rows, self._squared / rows
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(
                self._spread > 0,
                1 - self._squared / self._spread,
                np.where(self._squared == 0, 1.0, 0.0),
            )
        return {
            "mae": float(mae.mean()),
            "rmse": float(np.sqrt(mse).mean()),
            "r2": float(r2.mean()),
            "per_output": [
                {"mae": float(a), "rmse": float(np.sqrt(b)), "r2": float(c)}
                for a, b, c in zip(mae, mse, r2, strict=True)
            ],
            "nonfinite_outputs": self._nonfinite,
            "rows": self._rows,
        }


def _scores(
    hits: np.ndarray,
    said: np.ndarray,
    true: np.ndarray,
    names: Sequence[str],
    *,
    every: bool = False,
) -> dict[str, Any]:
    """Precision, recall and F1 from counts, per class and averaged.

    Macro averages are over the classes that occur, in the labels or in the predictions, or over
    `every` one, as scikit-learn takes them of an indicator matrix.
    """
    precision, recall = _ratio(hits, said), _ratio(hits, true)
    f1 = _ratio(2 * hits, said + true)
    support = true / max(1, int(true.sum()))
    micro = (
        _share(int(hits.sum()), int(said.sum())),
        _share(int(hits.sum()), int(true.sum())),
        _share(2 * int(hits.sum()), int(said.sum() + true.sum())),
    )
    result: dict[str, Any] = {}
    parts = zip(("precision", "recall", "f1"), (precision, recall, f1), micro, strict=True)
    present = (said + true) > (-1 if every else 0)
    for name, values, total in parts:
        result[f"{name}_macro"] = float(values[present].mean()) if present.any() else 0.0
        result[f"{name}_micro"] = total
        result[f"{name}_weighted"] = float((values * support).sum())
    result["per_class"] = [
        {
            "class": names[i] if i < len(names) else str(i),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(true[i]),
        }
        for i in range(len(true))
    ]
    return result


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.maximum(below, 1), 0.0)


def _share(above: int, below: int) -> float:
    return above / below if below else 0.0


_DROPS = {
    "accuracy_drop": "accuracy",
    "precision_drop": "precision_macro",
    "recall_drop": "recall_macro",
    "f1_drop": "f1_macro",
    "r2_drop": "r2",
}
_INCREASES = {
    "log_loss_increase": "log_loss",
    "mae_increase": "mae",
    "rmse_increase": "rmse",
}


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What changed from one result to another; losses are positive.

    Returns:
        Drops of what should be high, increases of what should be low, and for classes the
        recall and F1 that each lost, with the worst of them named.
    """
    change: dict[str, Any] = {}
    for name, key in _DROPS.items():
        if key in before and key in after:
            change[name] = before[key] - after[key]
    for name, key in _INCREASES.items():
        if key in before and key in after:
            change[name] = after[key] - before[key]
    if before.get("per_class") and after.get("per_class"):
        rows = [
            {
                "class": a["class"],
                "recall_drop": b["recall"] - a["recall"],
                "f1_drop": b["f1"] - a["f1"],
            }
            for b, a in zip(before["per_class"], after["per_class"], strict=True)
        ]
        change["per_class"] = rows
        for part in ("recall", "f1"):
            worst = max(rows, key=lambda row: row[f"{part}_drop"])
            change[f"worst_class_{part}"] = worst["class"]
            change[f"worst_class_{part}_drop"] = worst[f"{part}_drop"]
    if before.get("outputs") and after.get("outputs"):
        change["outputs"] = {
            name: compare(part, after["outputs"][name])
            for name, part in before["outputs"].items()
            if name in after["outputs"]
        }
    return change

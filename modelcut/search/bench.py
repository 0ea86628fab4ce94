"""Measures many variants of one model on the same rows, without writing a file for each.

The network stays loaded: of each variant only the tensors that differ are computed and assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modelcut import metrics
from modelcut.data import InputSpec
from modelcut.data.csv import Batch
from modelcut.engines import Network
from modelcut.evaluation import Agreement, Output, Sums
from modelcut.gates import Limits
from modelcut.measure import summarize
from modelcut.model import Model, Tensor


class Running(Network, Protocol):
    """A network whose tensors can be replaced while it is loaded."""

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Puts values in the place of the tensors of these names, each of its shape."""


@dataclass(frozen=True)
class Measured:
    """What one variant did.

    Attributes:
        metrics: of its first output, as `metrics` gives them; of the others under "outputs".
        change: against the base, as `metrics.compare` gives it.
        agreement: share of rows on which it decides as the base does.
        shift: squared difference of the outputs to the base's, over the variance of the base's.
        bits: of a plain fixed-length writing of all tensors.
    """

    metrics: Mapping[str, Any]
    change: Mapping[str, Any]
    agreement: float = 1.0
    shift: float = 0.0
    bits: int = 0

    def judge(self, limits: Limits) -> bool:
        """Whether all limits hold."""
        evaluation = {
            "after": {"metrics": self.metrics},
            "change": self.change,
            "agreement": {"top1": self.agreement},
        }
        return all(verdict["held"] for verdict in limits.judge({"evaluation": evaluation}))

    def to_dict(self) -> dict[str, Any]:
        """The numbers of most interest, as plain JSON data."""
        found = {name: self.metrics[name] for name in _SHOWN if name in self.metrics}
        shift = self.shift if np.isfinite(self.shift) else None
        return {**found, "agreement": self.agreement, "shift": shift, "bits": self.bits}


_SHOWN = ("accuracy", "recall_macro", "f1_macro", "log_loss", "mae", "rmse", "r2")


class Bench:
    """A base model, its running network, and the rows on which variants are measured.

    Args:
        base: the model that variants are compared with.
        start: opens the network of a model.
        rows: labelled rows in the network's inputs; held in memory.
        outputs: what the labels mean.
    """

    def __init__(
        self,
        base: Model,
        start: Callable[[Model], Running],
        rows: Sequence[Batch],
        outputs: Sequence[Output],
    ) -> None:
        self._start, self._rows, self._outputs = start, rows, outputs
        self._labels = [[output.labels(batch) for output in outputs] for batch in rows]
        self._base = base
        self._tensors = {tensor.name: tensor for tensor in base.tensors}
        self._bits: dict[str, int] = {}
        self._running = start(base)
        self._assigned: dict[str, Tensor] = {}
        self._answers = [
            [part.astype(np.float32) for part in self._running.predict(batch.inputs)]
            for batch in rows
        ]
        found = self._score(self._answers)
        bits = sum(map(self._bits_of, self._tensors.values()))
        self.base = Measured(found, metrics.compare(found, found), bits=bits)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Of the network."""
        return self._running.inputs

    def measure(self, model: Model) -> Measured:
        """Measures a variant of the base model, with its deferred edits."""
        values, bits = self._pull_changed(model)
        if not values and model.architecture is self._base.architecture:
            return self.base
        if model.architecture is not self._base.architecture:
            running = self._start(model)
        else:
            running = self._running
            back = {
                name: self._tensors[name].pull()[0] for name in self._assigned if name not in values
            }
            running.assign({**back, **values})
            self._assigned = {name: self._tensors[name] for name in values}
        answers = [running.predict(batch.inputs) for batch in self._rows]
        found = self._score(answers)
        change = metrics.compare(self.base.metrics, found)
        agreement, shift = Agreement(), _Shift()
        for before, after in zip(self._answers, answers, strict=True):
            agreement.look(before[0], after[0])
            shift.look(before, after)
        return Measured(found, change, agreement.result()["top1"], shift.result(), bits)

    def _score(self, answers: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
        sums = Sums(self._outputs)
        for labels, results in zip(self._labels, answers, strict=True):
            sums.add(labels, results)
        return sums.result()

    def _pull_changed(self, model: Model) -> tuple[dict[str, np.ndarray], int]:
        values, bits = {}, 0
        for tensor in model.tensors:
            if tensor is self._tensors.get(tensor.name):
                bits += self._bits_of(tensor)
            else:
                values[tensor.name], encoding = tensor.pull()
                bits += summarize(values[tensor.name], encoding).bits
        return values, bits

    def _bits_of(self, tensor: Tensor) -> int:
        """Of a tensor of the base."""
        if tensor.name not in self._bits:
            self._bits[tensor.name] = summarize(*tensor.pull()).bits
        return self._bits[tensor.name]


class _Shift:
    """How far outputs moved, in units of how much they vary over the rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: list[np.ndarray] = []
        self._squares: list[np.ndarray] = []
        self._moved: list[float] = []

    def look(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> None:
        if not self._rows:
            widths = [part[0].size for part in before]
            self._sums = [np.zeros(width) for width in widths]
            self._squares = [np.zeros(width) for width in widths]
            self._moved = [0.0] * len(widths)
        self._rows += len(before[0])
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            old = old.reshape(len(old), -1).astype(np.float64)
            new = new.reshape(len(new), -1).astype(np.float64)
            self._sums[index] += old.sum(axis=0)
            self._squares[index] += np.square(old).sum(axis=0)
            with np.errstate(over="ignore", invalid="ignore"):
                moved = float(np.square(new - old).sum())
            self._moved[index] += moved if np.isfinite(moved) else np.inf

    def result(self) -> float:
        total = 0.0
        for sums, squares, moved in zip(self._sums, self._squares, self._moved, strict=True):
            spread = float((squares - sums**2 / max(1, self._rows)).sum())
            total += moved / spread if spread > 0 else moved
        return total

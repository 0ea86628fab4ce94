"""Measures many variants of one model on the same rows, without writing a file for each.

The network stays loaded: of each variant only the tensors that differ are computed and written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.data.rows import with_labels
from modelcut.errors import UsageError
from modelcut.metrics import accumulators
from modelcut.metrics.limits import Limits
from modelcut.metrics.scores import Agreement
from modelcut.model.measure import summarize
from modelcut.model.model import Model, Tensor
from modelcut.runtime import Part, Rows, Running, Runtime
from modelcut.steps.strength import SET_ASIDE

_MOST_BYTES = 1 << 30
_BATCH_VALUES = 1 << 20


@dataclass(frozen=True)
class Measured:
    """What one variant did.

    Attributes:
        metrics: the metrics of the variant, as `Scores.result` returns them.
        change: difference to the metrics of the base model, as `metrics.compare` returns it.
        agreement: fraction of samples on which it decides as the base model does, as `Agreement`
            returns it.
        shift: squared difference of the outputs to the base's, over the variance of the base's.
        bits: bits of all tensors in a plain fixed-length code.
    """

    metrics: Mapping[str, Any]
    change: Mapping[str, Any]
    agreement: Mapping[str, Any]
    shift: float = 0.0
    bits: int = 0

    def judge(self, limits: Limits) -> bool:
        """Whether all limits hold."""
        evaluation = {
            "after": {"metrics": self.metrics},
            "change": self.change,
            "agreement": self.agreement,
        }
        return all(verdict["held"] for verdict in limits.judge({"evaluation": evaluation}))

    def to_dict(self) -> dict[str, Any]:
        """The numbers of most interest, as plain JSON data."""
        found = {name: self.metrics[name] for name in _SHOWN if name in self.metrics}
        shift = self.shift if np.isfinite(self.shift) else None
        if "outputs" in self.metrics:
            found["outputs"] = {
                output: {name: part[name] for name in _SHOWN if name in part}
                for output, part in self.metrics["outputs"].items()
            }
        top1 = self.agreement["top1"]
        return {**found, "agreement": top1, "shift": shift, "bits": self.bits}


_SHOWN = ("accuracy", "recall_macro", "f1_macro", "log_loss", "mae", "rmse", "r2")


class Bench:
    """A base model, its running network, and the rows on which variants are measured.

    Attributes:
        base: the measurement of the base model.
        targets: the outputs that are measured.
        rows: how many rows there are; all are held in memory.
    """

    def __init__(
        self,
        model: Model,
        runtime: Runtime,
        *,
        part: Part = "validation",
        reference: Bench | None = None,
    ) -> None:
        """Runs the base model over the rows.

        Args:
            model: the base model, which variants are compared with.
            runtime: runs models and has the rows.
            part: which of the runtime's samples to measure on.
            reference: measures losses against its base model, on the same samples; None: against
                `model`.

        Raises:
            UsageError: the rows have no labels, or do not fit into memory.
        """
        self._lab, self._model = runtime, model
        self._tensors = {tensor.name: tensor for tensor in model.tensors}
        self._bits: dict[str, int] = {}
        self._written: set[str] = set()
        self._running = runtime.open(model)
        self._rows = list(_held(runtime, self._running, part))
        self.rows = sum(map(len, self._rows))
        self._answers = self._run(self._running)
        self.targets = runtime.scores(self._running).targets
        self._decided = self._answers if reference is None else reference._answers
        found = self._score(self._answers)
        bits = sum(map(self._bits_of, self._tensors.values()))
        same = self._agreement(self._answers)
        self._reference: Mapping[str, Any] = found
        if reference is not None:
            self._reference = reference._reference
        change = accumulators.compare(self._reference, found)
        self.base = Measured(found, change, same, bits=bits)

    def measure(self, model: Model) -> Measured:
        """Measures a variant of the base model, with its deferred edits."""
        values, bits = self._pull_changed(model)
        if not values and model.architecture is self._model.architecture:
            return self.base
        if model.architecture is self._model.architecture:
            running = self._running
            back = [self._tensors[name] for name in self._written if name not in values]
            running.write({**{tensor.name: tensor.pull()[0] for tensor in back}, **values})
            self._written = set(values)
        else:
            running = self._lab.open(model)
        answers = self._run(running)
        found = self._score(answers)
        change = accumulators.compare(self._reference, found)
        shift = _shift(self._answers, answers)
        return Measured(found, change, self._agreement(answers), shift, bits)

    def _run(self, running: Running) -> list[list[np.ndarray]]:
        return [
            [part.reshape(len(rows), -1) for part in running.predict(rows)] for rows in self._rows
        ]

    def _score(self, answers: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
        scores = self._lab.scores(self._running)
        for rows, results in zip(self._rows, answers, strict=True):
            assert rows.labels is not None
            scores.update(rows.labels, results)
        return scores.result()

    def _agreement(self, answers: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
        agreement = Agreement(self.targets)
        for old, new in zip(self._decided, answers, strict=True):
            agreement.look(old, new)
        return agreement.result()

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


def _held(runtime: Runtime, running: Running, part: Part) -> Iterator[Rows]:
    """The rows, as long as they fit into memory."""
    first = next(iter(runtime.rows(running, 1, part=part, share=SET_ASIDE)))
    values = sum(array.size for array in first.inputs)
    taken = 0
    size = max(1, min(1024, _BATCH_VALUES // max(1, values)))
    for rows in runtime.rows(running, size, part=part, share=SET_ASIDE):
        with_labels(rows.labels, "the validation data")
        taken += sum(array.nbytes for array in rows.inputs)
        if taken > _MOST_BYTES:
            raise UsageError(
                f"the validation samples take more than {_MOST_BYTES >> 30} GiB, and a search "
                "needs them repeatedly",
                "read fewer with --limit, or give a smaller CSV",
            )
        yield rows


def _shift(before: Sequence[Sequence[np.ndarray]], after: Sequence[Sequence[np.ndarray]]) -> float:
    """Squared difference of the outputs, in units of how much the base's vary over the rows."""
    shift = 0.0
    for index in range(len(before[0])):
        old = np.concatenate([parts[index] for parts in before]).astype(np.float64)
        new = np.concatenate([parts[index] for parts in after]).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = float(np.square(new - old).sum())
        spread = float(np.square(old - old.mean(axis=0)).sum())
        shift += (moved if np.isfinite(moved) else np.inf) / (spread or 1.0)
    return shift

"""How often each combination of a label and what one or two networks decided for it occurs.

That is all that accuracy, recall and F1 depend on, so that samples need not be kept: resampling
these counts is resampling the samples (the bootstrap; Efron 1979), of both networks together, and
the intervals of differences are those of paired samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from modelcut.metrics import intervals
from modelcut.metrics.intervals import Interval
from modelcut.metrics.task import decisions

_MOST_PATTERNS = 1 << 17
_DRAWS = 4_000_000
_REPLICATES = (200, 1000)
_CHUNK = 1 << 21

_Scores: TypeAlias = "tuple[np.ndarray, np.ndarray]"
"""Precision, recall and F1, macro, (replicates, 3); and F1 of each class, (replicates, classes)."""


def decided(kind: str, outputs: np.ndarray, *, logits: bool) -> np.ndarray:
    """What outputs (rows, units) decide, those that are NaN or infinite too, as the metrics do."""
    values = outputs.astype(np.float64)
    if kind == "multilabel":
        values = np.nan_to_num(values, nan=0.0)
    else:
        values = np.nan_to_num(values, nan=0.0, posinf=1e30, neginf=-1e30)
    found = decisions(kind, values, logits=logits)
    assert found is not None
    return found


class Outcomes:
    """Counts of (label, decision of the first network, decision of a second one).

    Labels and decisions are int64 (rows,) class numbers, or (rows, units) yes or no.
    """

    def __init__(self, classes: int, networks: int, *, labels: bool = False) -> None:
        """Nothing is counted yet.

        Args:
            classes: number of classes, or of labels.
            networks: one or two.
            labels: several yes-or-no decisions a sample, not one class.
        """
        self._classes = classes
        self._networks = networks
        self._labels = labels
        self._keys: np.ndarray | None = None
        self._counts = np.zeros(0, np.int64)
        self._full = False

    def look(self, truth: np.ndarray, found: Sequence[np.ndarray]) -> None:
        """Takes a batch: labels, and the decisions of each network."""
        if not self._full:
            self._take(truth, found, np.ones(len(truth), np.int64))

    def _take(self, truth: np.ndarray, found: Sequence[np.ndarray], counts: np.ndarray) -> None:
        """Adds samples that occur so many times each."""
        parts = [truth, *found]
        if self._labels:
            bits = np.packbits(np.concatenate([part == 1 for part in parts], axis=1), axis=1)
            keys = np.ascontiguousarray(bits).view(f"V{bits.shape[1]}").ravel()
        else:
            keys = np.ravel_multi_index(tuple(parts), (self._classes,) * len(parts)).astype(
                np.int64
            )
        if self._keys is not None:
            keys = np.concatenate([self._keys, keys])
            counts = np.concatenate([self._counts, counts])
        self._keys, where = np.unique(keys, return_inverse=True)
        self._counts = np.bincount(where.ravel(), counts, len(self._keys)).astype(np.int64)
        # More would take long to resample, and so many samples leave little doubt anyway.
        self._full = len(self._keys) > _MOST_PATTERNS

    @property
    def known(self) -> bool:
        """Whether there are counts: False where too many combinations occurred, or no samples."""
        return self._keys is not None and not self._full

    def _patterns(self) -> list[np.ndarray]:
        """Labels and decisions of each combination."""
        assert self._keys is not None
        number = self._networks + 1
        if not self._labels:
            return list(np.unravel_index(self._keys, (self._classes,) * number))
        width = self._keys.dtype.itemsize
        bits = np.unpackbits(self._keys.view(np.uint8).reshape(-1, width), axis=1)
        return np.split(bits[:, : number * self._classes].astype(np.int64), number, axis=1)

    def of_one(self, network: int = 0) -> dict[str, Any]:
        """Intervals of one network's scores.

        Returns:
            `accuracy`, `precision_macro`, `recall_macro`, `f1_macro`, and `classes`: of each class
            its `recall` and `f1`; {} where nothing was counted.
        """
        if not self.known:
            return {}
        if self._networks > 1:  # the same numbers as of the network alone
            return self._alone(network).of_one()
        truth, found = self._patterns()
        right = self._right(truth, found)
        rows = int(self._counts.sum())
        hits, said, true = (total[0] for total in self._totals(self._counts[None], truth, found))
        recalls = [
            (h / t if t else 0.0, intervals.wilson(int(h), int(t)))
            for h, t in zip(hits, true, strict=True)
        ]
        present = (said + true > 0) | self._labels
        kept = [part for part, there in zip(recalls, present, strict=True) if there]
        recall = intervals.mean_of(kept)
        macro, f1 = [], []
        for ((scores, each),) in self._replicates(truth, found):
            macro.append(scores)
            f1.append(each)
        scores, each = np.concatenate(macro), np.concatenate(f1)
        return {
            "accuracy": intervals.wilson(int(self._counts[right].sum()), rows),
            "precision_macro": _or(intervals.of_sample(scores[:, 0]), recall),
            "recall_macro": recall,
            "f1_macro": _or(intervals.of_sample(scores[:, 2]), recall),
            "classes": [
                {"recall": one, "f1": _or(intervals.of_sample(each[:, index]), one)}
                for index, (_, one) in enumerate(recalls)
            ],
        }

    def _alone(self, network: int) -> Outcomes:
        """The counts of one of two networks."""
        parts = self._patterns()
        found = Outcomes(self._classes, 1, labels=self._labels)
        found._take(parts[0], [parts[network + 1]], self._counts)
        return found

    def of_both(self) -> dict[str, Any]:
        """What two networks differ in.

        Returns:
            `mcnemar` and `intervals` of the drops; {} where nothing was counted.
        """
        if not self.known or self._networks < 2:
            return {}
        truth, one, two = self._patterns()
        lost, gained = self._discordant(truth, one, two)
        rows = int(self._counts.sum())
        drop = intervals.paired_difference(lost, gained, rows)
        drops = np.concatenate(
            [first - second for (first, _), (second, _) in self._replicates(truth, one, two)]
        )
        names = ("precision_drop", "recall_drop", "f1_drop")
        return {
            "mcnemar": {
                "only_before_right": lost,
                "only_after_right": gained,
                "p_value": intervals.mcnemar(lost, gained),
            },
            "intervals": {
                "accuracy_drop": drop,
                **{
                    name: _or(intervals.of_sample(drops[:, index]), drop)
                    for index, name in enumerate(names)
                },
            },
        }

    def most_decided(self, network: int = 0) -> tuple[int, int, int, int] | None:
        """The class that a network decides for most often, and the most frequent label.

        Returns:
            The class, how often it is decided for, how often it is the label, and the class of the
            most frequent label; None of several labels a sample, and where nothing was counted.
        """
        if not self.known or self._labels:
            return None
        parts = self._patterns()
        said, true = (
            np.bincount(part, self._counts, self._classes)
            for part in (parts[network + 1], parts[0])
        )
        most = int(said.argmax())
        return most, int(said[most]), int(true[most]), int(true.argmax())

    def recall_drop(self, number: int) -> Interval | None:
        """The interval of the drop of one class's recall; None where nothing was counted."""
        if not self.known or self._networks < 2:
            return None
        truth, one, two = self._patterns()
        if self._labels:
            mine = truth[:, number] == 1
            lost = mine & (one[:, number] == 1) & (two[:, number] != 1)
            gained = mine & (one[:, number] != 1) & (two[:, number] == 1)
        else:
            mine = truth == number
            lost = mine & (one == number) & (two != number)
            gained = mine & (one != number) & (two == number)
        counts = (int(self._counts[where].sum()) for where in (lost, gained, mine))
        return intervals.paired_difference(*counts)

    def _right(self, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
        same = truth == found
        return same.all(axis=1) if self._labels else same

    def _discordant(self, truth: np.ndarray, one: np.ndarray, two: np.ndarray) -> tuple[int, int]:
        first, second = self._right(truth, one), self._right(truth, two)
        lost, gained = first & ~second, second & ~first
        return int(self._counts[lost].sum()), int(self._counts[gained].sum())

    def _replicates(self, truth: np.ndarray, *found: np.ndarray) -> Iterator[list[_Scores]]:
        """Scores of each network's decisions on resampled counts, the same ones each time."""
        number = int(np.clip(_DRAWS // len(self._counts), *_REPLICATES))
        rng = np.random.default_rng(0)
        rows = int(self._counts.sum())
        step = max(1, _CHUNK // len(self._counts))
        for start in range(0, number, step):
            size = min(step, number - start)
            draws = rng.multinomial(rows, self._counts / rows, size=size)
            yield [self._scores(draws, truth, each) for each in found]

    def _scores(self, draws: np.ndarray, truth: np.ndarray, found: np.ndarray) -> _Scores:
        hits, said, true = self._totals(draws, truth, found)
        each = [_ratio(hits, said), _ratio(hits, true), _ratio(2 * hits, said + true)]
        present = (said + true > 0) | self._labels
        classes = np.maximum(1, present.sum(axis=1))
        macro = [np.where(present, part, 0).sum(axis=1) / classes for part in each]
        return np.stack(macro, axis=1), each[2]

    def _totals(
        self, counts: np.ndarray, truth: np.ndarray, found: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hits, predictions and labels of each class, (replicates, classes)."""
        if self._labels:
            wide = counts.astype(np.float64)
            return wide @ (truth & found), wide @ found, wide @ truth
        hits = np.where(truth == found, truth, self._classes)
        return tuple(_summed(counts, part, self._classes) for part in (hits, found, truth))  # type: ignore[return-value]


def _summed(counts: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """Sums over the last axis by group; a group beyond the last one is left out."""
    order = np.argsort(groups, kind="stable")
    there, starts = np.unique(groups[order], return_index=True)
    totals = np.zeros((len(counts), number))
    sums = np.add.reduceat(counts[:, order], starts, axis=1)
    totals[:, there[there < number]] = sums[:, there < number]
    return totals


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.maximum(below, 1), 0.0)


def _or(found: Interval, other: Interval) -> Interval:
    """An interval of the bootstrap; without spread (no sample is wrong), another one."""
    return other if found[0] == found[1] else found

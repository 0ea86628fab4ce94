"""How certain the scores of all outputs are, of one network or of two on the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from modelcut.metrics.limits import Limits
from modelcut.metrics.numbers import Numbers
from modelcut.metrics.outcomes import Outcomes, decided
from modelcut.metrics.scores import Scores, Target
from modelcut.safety import printable

_COLLAPSED = 0.99
_MORE_THAN_LABELS = 0.05
_FEW = 20
"""Of fewer samples it is no wonder if all are taken for the same class."""


class Confidence:
    """Counts what one or two networks decide for the outputs that stand for classes or labels."""

    def __init__(self, targets: Sequence[Target], like: Scores, networks: int) -> None:
        """Nothing is counted yet.

        Args:
            targets: the outputs.
            like: the scores whose values tell logits from probabilities, where nothing else does.
            networks: one or two.
        """
        self._targets = tuple(targets)
        self._like = like
        self._outcomes: list[dict[bool, Outcomes]] = []
        self._numbers: list[Numbers | None] = []
        for target in self._targets:
            task, found = target.task, {}
            regression = bool(target.places) and task.kind == "regression"
            self._numbers.append(Numbers(task.units, networks) if regression else None)
            if target.places and task.decides:
                labels = task.kind == "multilabel"
                number = task.units if labels else max(2, task.units)
                readings = (False, True) if task.logits is None else (task.logits,)
                found = {each: Outcomes(number, networks, labels=labels) for each in readings}
            self._outcomes.append(found)

    def look(self, labels: Sequence[np.ndarray | None], *networks: Sequence[np.ndarray]) -> None:
        """Takes a batch: labels of each output, and each network's values of each output."""
        for index, (target, readings) in enumerate(zip(self._targets, self._outcomes, strict=True)):
            truth = labels[index]
            for logits, outcomes in readings.items():
                assert truth is not None
                values = (network[index].reshape(len(truth), -1) for network in networks)
                kind = target.task.kind
                outcomes.look(truth, [decided(kind, each, logits=logits) for each in values])
            if (numbers := self._numbers[index]) is not None:
                assert truth is not None
                numbers.look(truth, [each[index].reshape(len(truth), -1) for each in networks])

    def _counted(self) -> Iterator[tuple[Target, Outcomes]]:
        """The outputs that decide, each with its counts."""
        for index, (target, readings) in enumerate(zip(self._targets, self._outcomes, strict=True)):
            if readings:
                values = self._like.values(index)
                yield (
                    target,
                    readings[values.logits if len(readings) > 1 and values else min(readings)],
                )

    def metrics(self, metrics: Mapping[str, Any], network: int = 0) -> dict[str, Any]:
        """The metrics of a network, as `Scores.result` gives them, with their intervals."""
        found = dict(metrics)
        parts = {name: dict(part) for name, part in (metrics.get("outputs") or {}).items()}
        first = next((target for target in self._targets if target.places), None)
        for target, outcomes in self._counted():
            told = outcomes.of_one(network)
            if not told:
                continue
            classes = told.pop("classes")
            for part in _parts_of(target, found, parts, first):
                part["intervals"] = told
                part["per_class"] = [
                    {**row, "recall_interval": each["recall"], "f1_interval": each["f1"]}
                    for row, each in zip(part["per_class"], classes, strict=True)
                ]
        for target, numbers in self._measured():
            if told := numbers.of_one(network):
                for part in _parts_of(target, found, parts, first):
                    part["intervals"] = told
        return {**found, "outputs": parts} if parts else found

    def _measured(self) -> Iterator[tuple[Target, Numbers]]:
        """The outputs of numbers, each with its sums."""
        for target, numbers in zip(self._targets, self._numbers, strict=True):
            if numbers is not None:
                yield target, numbers

    def change(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """What changed between two networks, with McNemar's test and the drops' intervals."""
        found = dict(change)
        parts = {name: dict(part) for name, part in (change.get("outputs") or {}).items()}
        first = next((target for target in self._targets if target.places), None)
        for target, outcomes in self._counted():
            told = outcomes.of_both()
            for part in _parts_of(target, found, parts, first) if told else ():
                names = [row["class"] for row in part["per_class"]]
                worst = outcomes.recall_drop(names.index(part["worst_class_recall"]))
                more = {"worst_class_recall_drop": worst}
                part |= {**told, "intervals": {**told["intervals"], **more}}
        for target, numbers in self._measured():
            if told := numbers.of_both():
                for part in _parts_of(target, found, parts, first):
                    part["intervals"] = told
        return {**found, "outputs": parts} if parts else found

    def warnings(self, metrics: Mapping[str, Any], network: int, who: str) -> list[str]:
        """Says where a network decides for one class throughout, or not better than a guess.

        Args:
            metrics: its metrics.
            network: which of the networks it is.
            who: what it is called: "the original".
        """
        lines = []
        parts = metrics.get("outputs") or {}
        for target, outcomes in self._counted():
            found = outcomes.most_decided(network)
            rows = int(metrics.get("rows") or 0)
            if found is None or rows < _FEW:
                continue
            most, said, true, label = found
            part = parts.get(target.name, metrics)
            names = [printable(str(row["class"]), 32) for row in part["per_class"]]
            where = f", output {printable(target.name, 32)!r}" if parts else ""
            share, labels = said / rows, true / rows
            if share >= _COLLAPSED and true < rows and share - labels > _MORE_THAN_LABELS:
                lines.append(
                    f"{who}{where}: {said:,} of {rows:,} samples are taken for class "
                    f"{names[most]!r}, which is the label of {true:,}: were the features prepared "
                    "as in training (--scale, --mean and --std, the order of the columns)?"
                )
            most_frequent = max(row["support"] for row in part["per_class"])
            if part["accuracy"] * rows <= most_frequent < rows:
                lines.append(
                    f"{who}{where}: an accuracy of {part['accuracy']:.4f} is no better than to "
                    f"say {names[label]!r} of all, the label of {most_frequent / rows:.1%} of them"
                )
        return lines


def _parts_of(
    target: Target,
    whole: dict[str, Any],
    parts: Mapping[str, dict[str, Any]],
    first: Target | None,
) -> list[dict[str, Any]]:
    """Where the numbers of an output stand: by its name, and of the first one at the top too."""
    mine = [parts[target.name]] if target.name in parts else []
    return [*mine, whole] if target is first else mine


def too_few(limits: Limits, change: Mapping[str, Any], rows: int) -> list[str]:
    """Which limits on drops the test data is too small for.

    A limit is smaller than what the samples can tell apart where half of the interval's width is
    more than it.

    Args:
        limits: the gates.
        change: `evaluation.change` of a report.
        rows: number of samples.
    """
    lines = []
    for limit in limits.each():
        place, _, key = limit.path.rpartition(".")
        if place != "evaluation.change" or limit.limit <= 0:
            continue
        parts = change.get("outputs") or {"": change}
        for name, part in parts.items():
            interval = (part.get("intervals") or {}).get(key)
            if interval is None or limit.output not in ("", name):
                continue
            low, high = interval
            half = (high - low) / 2
            if half <= limit.limit:
                continue
            which = f" of the output {printable(name, 32)!r}" if name else ""
            # The width goes with the square root of the number of samples.
            needed = rows * (half / limit.limit) ** 2
            lines.append(
                f"{rows:,} test samples cannot tell {_words(key)}{which} by "
                f"{limit.limit:g} (gate {limit.name}) from none: measured {part[key]:+.4f}, with "
                f"95 % confidence between {low:+.4f} and {high:+.4f}; about "
                f"{_rounded(needed):,} samples would"
            )
    return lines


def _words(key: str) -> str:
    """What changes for the worse; the recall of a class without a name is the worst one's."""
    if key.endswith("_increase"):
        return f"an increase of the {key.removesuffix('_increase').upper()}"
    what = key.removesuffix("_drop").replace("worst_class_", "a class's ").replace("_", " ")
    return f"a drop of {what}"


def _rounded(value: float) -> int:
    """Up to two digits."""
    digits = max(0, len(str(int(value))) - 2)
    return int(np.ceil(value / 10**digits)) * 10**digits

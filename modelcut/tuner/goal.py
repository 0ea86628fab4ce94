"""What is wanted of a model: objectives and constraints, both by the names of the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from statistics import NormalDist
from typing import Any

from modelcut.errors import UsageError
from modelcut.metrics.intervals import paired_difference, wilson
from modelcut.metrics.limits import Gates, Limit
from modelcut.report.schema import Report


@dataclass(frozen=True)
class Objective:
    """A number that is to be as small or as large as it can be.

    Attributes:
        name: name of the gate without its min_ or max_, such as bytes or accuracy.
        path: where in the report the number stands.
        minimize: whether small is good.
    """

    name: str
    path: str
    minimize: bool

    @classmethod
    def of(cls, name: str, *, minimize: bool) -> Objective:
        """The objective of this name.

        Raises:
            UsageError: no gate has this name.
        """
        prefix = "max_" if minimize else "min_"
        info = Gates.model_fields.get(prefix + name)
        if info is None or not isinstance(info.json_schema_extra, dict):
            flag = "--minimize" if minimize else "--maximize"
            known = ", ".join(known_names(minimize=minimize))
            raise UsageError(f"{flag} {name}: no such number", f"known: {known}")
        return cls(name, str(info.json_schema_extra["path"]), minimize)

    @property
    def needs_data(self) -> bool:
        """Whether the network must be run to know it."""
        return self.path.startswith("evaluation.")

    def value(self, report: Report) -> float | None:
        """The number in a report, or None."""
        name = ("max_" if self.minimize else "min_") + self.name
        return Limit(name, 0.0, self.path).value(report)[0]

    def cost(self, value: float) -> float:
        """The number such that small is good."""
        return value if self.minimize else -value


def known_names(*, minimize: bool) -> list[str]:
    """The names of all objectives in one direction."""
    prefix = "max_" if minimize else "min_"
    return [name.removeprefix(prefix) for name in Gates.model_fields if name.startswith(prefix)]


@dataclass(frozen=True)
class Goal:
    """Objectives, the first of which decides among equals, and limits that must hold.

    Attributes:
        objectives: what is minimized and maximized; at least one.
        gates: the limits.
        confidence: probability with which a limit on accuracy or its drop shall hold on the test
            samples; 0.5: it holds on the validation samples.
        tested: number of test samples; infinite where there are none, so that a limit shall hold
            for all samples of the same kind.
    """

    objectives: tuple[Objective, ...]
    gates: Gates
    confidence: float = 0.9
    tested: float = inf

    def judge(self, report: Report) -> Judged:
        """Holds a report of a trial against the goal."""
        values = [objective.value(report) for objective in self.objectives]
        verdicts = self.gates.judge(report)
        excess = sum(_excess(verdict) for verdict in verdicts)
        missing = any(value is None or not isfinite(value) for value in values)
        doubt = sum(_excess(self._doubted(verdict, report)) for verdict in verdicts)
        return Judged(
            tuple(float("inf") if value is None else value for value in values),
            float("inf") if missing else excess,
            float("inf") if missing else doubt,
        )

    def _doubted(self, verdict: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
        """A verdict with the highest drop of accuracy that the confidence allows for.

        Or with the lowest accuracy, where it is that which is limited.
        """
        evaluation = report.evaluation
        if evaluation is None or verdict["value"] is None or not verdict["held"]:
            return verdict
        if verdict["name"].endswith("min_accuracy"):
            return self._lowest(verdict, int(evaluation.after["rows"]))
        if not verdict["name"].endswith("accuracy_drop"):
            return verdict
        z = self.errors(verdict["limit"], int(evaluation.after["rows"]))
        value = highest_drop(verdict["value"], report, z)
        return {**verdict, "value": value, "held": value <= verdict["limit"] + 1e-9}

    def errors(self, limit: float, rows: int, part: float = 1.0) -> float:
        """How many standard errors of the validation samples a drop must be below its limit.

        Args:
            limit: the limit on the drop.
            rows: number of validation samples.
            part: of their variance, what is left where the drop is known better than by them.
        """
        return NormalDist().inv_cdf(self.told(limit, rows)) * self._widened(rows, part)

    def _lowest(self, verdict: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
        """A verdict on accuracy at the lower end of its interval.

        Of few samples no more is asked than that all of them are decided rightly.
        """
        limit = min(max(verdict["limit"], 1e-9), 1.0)
        z = NormalDist().inv_cdf(self.confidence) * self._widened(rows)
        z = min(z, sqrt(rows * (1 - limit) / limit))
        low = wilson(round(verdict["value"] * rows), rows, z)[0] if z > 0 else verdict["value"]
        return {**verdict, "value": low, "held": low >= verdict["limit"] - 1e-9}

    def told(self, limit: float, rows: int) -> float:
        """The confidence with which so many samples are asked for a limit on a drop.

        It is lowered to where two samples that the models decide differently, one to the good and
        one to the bad, are still within the limit: fewer samples can tell no more.
        """
        most = NormalDist().cdf(limit * (rows + 2) / sqrt(3) / self._widened(rows))
        return max(0.5, min(self.confidence, most))

    def _widened(self, rows: int, part: float = 1.0) -> float:
        """By what a standard error grows, since the test samples are drawn by chance, too.

        A difference of two samples has the sum of their variances, as in the prediction interval of
        a proportion (Krishnamoorthy and Peng 2011, section 2). Test samples that are fewer than
        those for validation count as equally many: of few, no choice makes a limit likely to hold.
        """
        return sqrt(part + min(1.0, rows / max(1.0, self.tested)))

    @property
    def bold(self) -> bool:
        """Whether it is the smaller or faster model that is sought, not the more accurate one."""
        first = self.objectives[0]
        return first.minimize and (not first.needs_data or first.name.startswith("latency"))

    @property
    def by_size(self) -> bool:
        """Whether the one objective does not depend on the data, and hardly on a training."""
        return len(self.objectives) == 1 and not self.objectives[0].needs_data

    def costs(self, values: Sequence[float]) -> tuple[float, ...]:
        """Objective values such that small is good."""
        pairs = zip(self.objectives, values, strict=True)
        return tuple(objective.cost(value) for objective, value in pairs)


@dataclass(frozen=True)
class Judged:
    """What a trial is worth.

    Attributes:
        values: the values of the objectives.
        excess: by how much the limits are exceeded together, in units of each limit; 0: all hold.
        doubt: the same where a drop of accuracy is as high as the goal's confidence allows for.
    """

    values: tuple[float, ...]
    excess: float
    doubt: float


def _excess(verdict: Mapping[str, Any]) -> float:
    if verdict["held"]:
        return 0.0
    if verdict["value"] is None:
        return float("inf")
    return max(abs(verdict["value"] - verdict["limit"]) / max(abs(verdict["limit"]), 1e-3), 1e-9)


def highest_drop(drop: float, report: Report, z: float) -> float:
    """How large a drop of accuracy may be that was measured as `drop`, `z` standard errors up.

    It changes only by samples on which one of the two models alone is right. Where the report does
    not count them, such as those of several outputs, it is no more than those that are decided
    differently (McNemar 1947).
    """
    evaluation = report.evaluation
    assert evaluation is not None
    rows = int(evaluation.after["rows"])
    counted = (evaluation.change or {}).get("mcnemar")
    if z <= 0:
        return drop
    if counted:
        lost, gained = counted["only_before_right"], counted["only_after_right"]
        return max(drop, paired_difference(lost, gained, rows, z)[1])
    top1 = evaluation.agreement.get("top1") if evaluation.agreement else None
    return drop if top1 is None else drop + z * sqrt(max(0.0, 1 - top1) / max(1, rows))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is at least as good in every cost, and better in some."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

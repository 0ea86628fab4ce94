"""Conditions that decide the exit code, and how each is held against a report.

Adding a gate is adding a field with its `path`: where in the report the number stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from modelcut.errors.strict import Strict
from modelcut.metrics.each import AS_GIVEN, ONE_OR_EACH, schema

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def _bytes(value: Any) -> Any:
    """Bytes from a number or words such as "250 kB" or "1.5 MiB"."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", value.lower())
        if match and match[2] in _UNITS:
            try:
                return int(float(match[1]) * _UNITS[match[2]])
            except (ValueError, OverflowError):
                return value
    return value


Size = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]
# One number, by which the worst output is judged, or a mapping {output: number}.
EachShare = Annotated[
    float,
    Field(ge=0, le=1),
    ONE_OR_EACH,
    AS_GIVEN,
    schema({"type": "number", "minimum": 0, "maximum": 1}),
]
EachPositive = Annotated[
    float, Field(ge=0), ONE_OR_EACH, AS_GIVEN, schema({"type": "number", "minimum": 0})
]
EachNumber = Annotated[float, ONE_OR_EACH, AS_GIVEN, schema({"type": "number"})]

Of = Literal["", "classes", "numbers", "agreement"]


def _gate(path: str, text: str, of: Of = "", interval: str = "") -> Any:
    extra = {"path": path, "of": of, "interval": interval}
    return Field(default=None, description=text, json_schema_extra=dict(extra))


@dataclass(frozen=True)
class Limit:
    """One limit that is set.

    Attributes:
        name: name of the gate.
        limit: the number.
        path: where in the report its value stands.
        of: what outputs it is for: classes, numbers, agreement (of decisions); "" for any model.
        output: the name of the output that is meant; "": the worst one decides.
        interval: where in the report the value's confidence interval stands, by which a noisy value
            is judged; "": the value itself decides.
        if_data: whether it is only asked where the report has such a number.
    """

    name: str
    limit: float
    path: str
    of: str = ""
    output: str = ""
    interval: str = ""
    if_data: bool = False

    @property
    def shown(self) -> str:
        """The name, with the output's where one is meant."""
        return f"{self.name}.{self.output}" if self.output else self.name

    @property
    def at_most(self) -> bool:
        """Whether it is an upper limit."""
        return self.name.startswith("max_")

    @property
    def compares(self) -> bool:
        """Whether it takes two models to judge it."""
        places = ("evaluation.change.", "evaluation.agreement.", "evaluation.latency.")
        return self.path.startswith(places)

    @property
    def needs_data(self) -> bool:
        """Whether the network must be run on samples to judge it."""
        return self.path.startswith("evaluation.")

    @property
    def trained(self) -> bool:
        """Whether a longer training may change its number."""
        return self.needs_data and "latency" not in self.name

    def unchecked(self, report: Any) -> str:
        """Why it is not asked of a report; "" where it is.

        Args:
            report: as in `value`.
        """
        if not self.if_data or self._values(report):
            return ""
        evaluation = _attribute(report, "evaluation")
        if evaluation is None:
            return "no test data"
        if self.compares and not _attribute(evaluation, "before"):
            return "nothing to compare with"
        return "not measured on such outputs or data"

    def value(self, report: Any) -> tuple[float | None, str]:
        """What a report has at its place, and of which output; None for nothing.

        Args:
            report: a `report.schema.Report`, or a mapping with the parts that the path names.
        """
        found = self._values(report)
        odd = next((name for name, value in found.items() if value != value), None)
        if odd is not None or not found:
            return None, odd or self.output
        name = (max if self.at_most else min)(found, key=lambda name: found[name])
        return found[name], name

    def _values(self, report: Any) -> dict[str, float]:
        """What a report has at its place, by output."""
        parent, _, key = self.path.rpartition(".")
        measured = _part(report, parent)
        parts = _attribute(measured, "outputs") or {"": measured}
        if self.output:
            parts = {self.output: parts.get(self.output, {})}
        values = {name: _attribute(part, key) for name, part in parts.items()}
        return {name: value for name, value in values.items() if _is_number(value)}


class Limits(Strict):
    """Limits on what an evaluation measures; what is not set is not asked.

    A name that begins with `min_` is a lower limit, one with `max_` an upper one. Of several
    outputs the worst decides; `{output: limit}` names one, or some.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    max_accuracy_drop: EachShare | None = _gate(
        "evaluation.change.accuracy_drop",
        "Maximum accuracy drop, as a fraction (0.01 = one percentage point).",
        "classes",
    )
    min_accuracy: EachShare | None = _gate(
        "evaluation.after.metrics.accuracy", "Minimum accuracy of the compressed model.", "classes"
    )
    max_f1_drop: EachShare | None = _gate(
        "evaluation.change.f1_drop", "Maximum drop of the macro F1 score, as a fraction.", "classes"
    )
    min_f1: EachShare | None = _gate(
        "evaluation.after.metrics.f1_macro",
        "Minimum macro F1 score of the compressed model.",
        "classes",
    )
    max_recall_drop: EachShare | None = _gate(
        "evaluation.change.recall_drop",
        "Maximum drop of the macro recall, as a fraction.",
        "classes",
    )
    min_recall: EachShare | None = _gate(
        "evaluation.after.metrics.recall_macro",
        "Minimum macro recall of the compressed model.",
        "classes",
    )
    max_class_recall_drop: EachShare | None = _gate(
        "evaluation.change.worst_class_recall_drop",
        "Maximum drop of the recall of any single class, as a fraction.",
        "classes",
    )
    max_class_f1_drop: EachShare | None = _gate(
        "evaluation.change.worst_class_f1_drop",
        "Maximum drop of the F1 score of any single class, as a fraction.",
        "classes",
    )
    max_log_loss_increase: EachPositive | None = _gate(
        "evaluation.change.log_loss_increase", "Maximum increase of the log loss.", "classes"
    )
    min_agreement: EachShare | None = _gate(
        "evaluation.agreement.top1",
        "Minimum fraction of samples on which both models predict the same class.",
        "agreement",
    )
    max_mae_increase: EachPositive | None = _gate(
        "evaluation.change.mae_increase",
        "Regression: maximum increase of the mean absolute error.",
        "numbers",
    )
    max_rmse_increase: EachPositive | None = _gate(
        "evaluation.change.rmse_increase",
        "Regression: maximum increase of the root mean squared error.",
        "numbers",
    )
    min_r2: EachNumber | None = _gate(
        "evaluation.after.metrics.r2", "Regression: minimum R² of the compressed model.", "numbers"
    )

    def each(self) -> Iterator[Limit]:
        """The limits that are set, one for each output that is named."""
        for name, info in type(self).model_fields.items():
            said, extra = getattr(self, name), info.json_schema_extra
            if said is None or not isinstance(extra, dict) or "path" not in extra:
                continue
            of = str(extra["of"])
            for output, limit in said.items() if isinstance(said, dict) else [("", said)]:
                where, interval = str(extra["path"]), str(extra["interval"])
                yield Limit(name, limit, where, of, output, interval)

    def items(self) -> Iterator[tuple[str, float, str]]:
        """The limits that are set: name, limit, path in the report."""
        for limit in self.each():
            yield limit.shown, limit.limit, limit.path

    def needing_data(self) -> list[str]:
        """Names of the limits that are set and cannot be judged without test data."""
        return [limit.shown for limit in self.each() if limit.needs_data and not limit.if_data]

    def judge(self, report: Any) -> list[dict[str, Any]]:
        """Holds each limit against a report; see `Limit.value`.

        Returns:
            One dict a limit: name, limit, value (None where the report has no such number, which
            does not hold), held; of a network with several outputs, the output that decided; and of
            a noisy value its interval: it does not hold where all of that is beyond the limit. Of
            a limit that is not asked, `checked` is false, with the reason.
        """
        verdicts: list[dict[str, Any]] = []
        for limit in self.each():
            value, output = limit.value(report)
            if why := limit.unchecked(report):
                verdict = {"name": limit.name, "limit": limit.limit, "value": None, "held": True}
                verdict |= {"output": limit.output} if limit.output else {}
                verdicts.append({**verdict, "checked": False, "reason": why})
                continue
            # A share of rows is not exact in binary: 0.03 - 0.02 must pass a limit of 0.01.
            slack = 1e-9 * max(1.0, abs(limit.limit))
            interval = _part(report, limit.interval) if limit.interval else None
            best = value
            if value is not None and interval is not None:
                best = interval[0] if limit.at_most else interval[1]
            held = best is not None and (
                best <= limit.limit + slack if limit.at_most else best >= limit.limit - slack
            )
            verdict = {"name": limit.name, "limit": limit.limit, "value": value, "held": held}
            verdict |= {"output": output} if output else {}
            verdicts.append(verdict | ({"interval": list(interval)} if interval else {}))
        return verdicts


_MAX_LATENCY = _gate(
    "evaluation.after.latency.median_ms",
    "Maximum latency of a single sample in milliseconds, on this host; fails where all of the "
    "confidence interval is above it.",
    interval="evaluation.after.latency.interval_ms",
)
_MAX_LATENCY_RATIO = _gate(
    "evaluation.latency.ratio",
    "Maximum ratio of the latency to that of the original, such as 1 for not slower; fails "
    "where all of the confidence interval is above it.",
    interval="evaluation.latency.interval",
)


class IfData(Limits):
    """Limits that are only asked where test data measures them; see `Limits`."""

    max_latency_ms: Positive | None = _MAX_LATENCY
    max_latency_ratio: Positive | None = _MAX_LATENCY_RATIO


class Gates(Limits):
    """What must hold for the exit code to be 0; see `Limits`."""

    max_bytes: Size | None = _gate(
        "output.bytes", "Maximum size of the written file, in bytes or with a unit, such as 250 kB."
    )
    min_ratio: Positive | None = _gate(
        "sizes.ratio",
        "Minimum ratio of the original's parameter bytes to the size of the written file.",
    )
    min_weights_ratio: Positive | None = _gate(
        "sizes.weights.ratio",
        "Minimum ratio of the original's weights to those in the written file, both compressed "
        "alike: the first line of the report; the optimizer's state counts on neither side.",
    )
    min_file_ratio: Positive | None = _gate(
        "sizes.file_ratio",
        "Minimum ratio of the size of the original file, with its optimizer's state if it has one, "
        "to that of the written file. min_weights_ratio is without.",
    )
    min_sparsity: Share | None = _gate(
        "sizes.after.totals.sparsity", "Minimum fraction of zeros among the parameters."
    )
    max_bits_per_weight: Positive | None = _gate(
        "sizes.after.totals.bits_per_weight",
        "Maximum number of bits per parameter in the written file.",
    )
    max_macs: Size | None = _gate(
        "sizes.after.macs", "Maximum number of multiply-accumulates of one inference."
    )
    max_latency_ms: Positive | None = _MAX_LATENCY
    max_latency_ratio: Positive | None = _MAX_LATENCY_RATIO
    if_data: IfData | None = Field(
        default=None,
        description="Gates on what test data measures, which are not checked where there is none, "
        "or where the network's task has no such number. One that is set outside takes the place "
        "of the same one in here.",
    )

    def each(self) -> Iterator[Limit]:
        """The limits that are set, those under `if_data` last."""
        yield from super().each()
        for limit in self.if_data.each() if self.if_data else ():
            if getattr(self, limit.name) is None:
                yield replace(limit, if_data=True)

    def asked_with_data(self) -> Gates:
        """The same limits, where those that need test data are asked only if there is some."""
        needing = {limit.name for limit in self.each() if limit.needs_data}
        found = self.model_dump(exclude_none=True)
        inside = found.pop("if_data", {})
        inside |= {name: found.pop(name) for name in sorted(needing & found.keys())}
        return Gates.model_validate({**found, **({"if_data": inside} if inside else {})})


def uncertain(verdicts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of which gates the interval of the value holds the limit: passed, but not for certain."""
    lines = []
    for verdict in verdicts:
        low, high = verdict.get("interval") or (0.0, 0.0)
        if low < verdict["limit"] < high:
            lines.append(
                f"gate {verdict['name']}: the limit {verdict['limit']:g} lies within the "
                f"confidence interval of what was measured, {low:.4g} to {high:.4g}: it passed, "
                "and may not the next time"
            )
    return lines


def _part(report: Any, path: str) -> Any:
    for name in path.split("."):
        report = _attribute(report, name)
    return report


def _attribute(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

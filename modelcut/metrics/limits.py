"""Conditions that decide the exit code, and how each is held against a report.

Adding a gate is adding a field with its `path`: where in the report the number stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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


def _gate(path: str, text: str) -> Any:
    return Field(default=None, description=text, json_schema_extra={"path": path})


class Limits(BaseModel):
    """Limits on what an evaluation measures; what is not set is not asked.

    A name that begins with `min_` is a lower limit, one with `max_` an upper one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    max_accuracy_drop: Share | None = _gate(
        "evaluation.change.accuracy_drop", "Most accuracy that may be lost, as a share (0.01)."
    )
    min_accuracy: Share | None = _gate(
        "evaluation.after.metrics.accuracy", "Least accuracy of the result."
    )
    max_f1_drop: Share | None = _gate(
        "evaluation.change.f1_drop", "Most macro F1 that may be lost."
    )
    min_f1: Share | None = _gate("evaluation.after.metrics.f1_macro", "Least macro F1.")
    max_recall_drop: Share | None = _gate(
        "evaluation.change.recall_drop", "Most macro recall that may be lost."
    )
    min_recall: Share | None = _gate(
        "evaluation.after.metrics.recall_macro", "Least macro recall of the result."
    )
    max_class_recall_drop: Share | None = _gate(
        "evaluation.change.worst_class_recall_drop", "Most recall that any one class may lose."
    )
    max_class_f1_drop: Share | None = _gate(
        "evaluation.change.worst_class_f1_drop", "Most F1 that any one class may lose."
    )
    max_log_loss_increase: Positive | None = _gate(
        "evaluation.change.log_loss_increase", "Most that the log loss may grow."
    )
    min_agreement: Share | None = _gate(
        "evaluation.agreement.top1", "Least share of rows on which both models decide alike."
    )
    max_mae_increase: Positive | None = _gate(
        "evaluation.change.mae_increase", "Regression: most that the mean absolute error may grow."
    )
    max_rmse_increase: Positive | None = _gate(
        "evaluation.change.rmse_increase", "Regression: most that the RMSE may grow."
    )
    min_r2: float | None = _gate("evaluation.after.metrics.r2", "Regression: least R².")

    def items(self) -> Iterator[tuple[str, float, str]]:
        """The limits that are set: name, limit, path in the report."""
        for name, info in type(self).model_fields.items():
            limit, extra = getattr(self, name), info.json_schema_extra
            if limit is not None and isinstance(extra, dict) and "path" in extra:
                yield name, limit, str(extra["path"])

    def needing_data(self) -> list[str]:
        """Names of the limits that are set and cannot be judged without test data."""
        return [name for name, _, path in self.items() if path.startswith("evaluation.")]

    def judge(self, report: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Holds each limit against a report.

        Returns:
            One dict a limit: name, limit, value (None where the report has no such number, which
            does not hold), held.
        """
        verdicts = []
        for name, limit, path in self.items():
            value = _lookup(report, path)
            at_most = name.startswith("max_")
            # A share of rows is not exact in binary: 0.03 - 0.02 must pass a limit of 0.01.
            slack = 1e-9 * max(1.0, abs(limit))
            held = value is not None and (
                value <= limit + slack if at_most else value >= limit - slack
            )
            verdicts.append({"name": name, "limit": limit, "value": value, "held": held})
        return verdicts


class Gates(Limits):
    """What must hold for the exit code to be 0; see `Limits`."""

    max_bytes: Size | None = _gate("output.bytes", "Most bytes of the written file (250 kB).")
    min_ratio: Positive | None = _gate(
        "sizes.ratio", "Least ratio of the original's parameter bytes to the written file."
    )
    min_file_ratio: Positive | None = _gate(
        "sizes.file_ratio", "Least ratio of the original file to the written file."
    )
    min_sparsity: Share | None = _gate(
        "sizes.after.sparsity", "Least share of zeros among the parameters."
    )
    max_bits_per_weight: Positive | None = _gate(
        "sizes.after.bits_per_weight", "Most bits a parameter takes in the written file."
    )
    max_macs: Size | None = _gate("sizes.after.macs", "Most multiply-accumulates of one inference.")
    max_latency_ms: Positive | None = _gate(
        "evaluation.after.latency.median_ms", "Most milliseconds a single row takes, on this host."
    )


def _lookup(report: Any, path: str) -> float | None:
    for part in path.split("."):
        if not isinstance(report, Mapping):
            return None
        report = report.get(part)
    return report if isinstance(report, (int, float)) and report == report else None

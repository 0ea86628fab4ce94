"""The first table of a report: what matters most, before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelcut.report.cells import Table, count, factor, is_number, number, or_dash, size, sized
from modelcut.report.schema import Report
from modelcut.safety import printable


def summary(report: Report) -> Table:
    """The table of what matters most, before and after."""
    before, after = report.sizes.before, report.sizes.after
    rows: list[tuple[str, ...]] = []

    def add(name: str, old: Any, new: Any, show: Callable[[Any], str], change: str = "") -> None:
        if old is None and new is None:
            return
        if not change and isinstance(old, (int, float)) and isinstance(new, (int, float)):
            change = factor(old, new)
        rows.append((name, or_dash(old, show), or_dash(new, show), change))

    written, weights = report.output is not None, report.sizes.weights
    if weights is not None:
        deflated = weights.coding == "deflate"
        name = "weights" + (", deflated" if deflated else "")
        add(name, weights.before, weights.after, size)
        if deflated and before.totals.deflated_estimated:
            rows[-1] = (name, sized(before.totals)(weights.before), *rows[-1][2:])
    state = report.sizes.optimizer
    add("file, optimizer left out" if state else "file", before.file_bytes, after.file_bytes, size)
    add("parameters as bytes", before.totals.bytes, after.totals.bytes, size)
    add("… after deflate", before.totals.deflated_bytes, after.totals.deflated_bytes, size)
    if before.totals.deflated_estimated or after.totals.deflated_estimated:
        cells = (or_dash(t.deflated_bytes, sized(t)) for t in (before.totals, after.totals))
        rows[-1] = (rows[-1][0], *cells, rows[-1][3])
    add("parameters", before.totals.parameters, after.totals.parameters, count)
    add("non-zero", before.totals.nonzeros, after.totals.nonzeros, count)
    add("bits per weight", before.totals.bits_per_weight, after.totals.bits_per_weight, number)
    add("multiply-accumulates", before.macs, after.macs, count)
    outputs, notes = metrics_of(report), []
    for output, (old, new) in outputs.items():
        for key, name in METRICS.items():
            a: Any = old.get(key)
            b: Any = new.get(key)
            drop = f"{b - a:+.4f}" if is_number(a) and is_number(b) else ""
            shown = f"{printable(output, 32)}: {name}" if output else name
            add(shown, a, b, lambda value: f"{value:.4f}", drop)
        notes += _certainty(report, output)
    notes += _simulated(report, add)
    early, late = ((side.get("latency") or {}).get("median_ms") for side in sides(report))
    ratio = report.evaluation.latency if report.evaluation else None
    change = latency_change(ratio)
    add("latency, one row, this host", early, late, lambda value: f"{value:.3g} ms", change)
    if ratio and not ratio["same_engine"]:
        notes.append("the latencies are of different engines: " + " and ".join(
            printable(str(name), 60) for name in ratio["engines"]
        ))  # fmt: skip
    note = "; ".join(notes)
    compared = any(old for old, _ in outputs.values()) or report.against is not None
    if not written and not report.steps and not compared:
        # Nothing was done: there is only one state to tell of.
        alone = [(row[0], row[1] if row[2] == "–" else row[2]) for row in rows]
        return Table("Summary", ("", "value"), alone, note=note)
    heads = ("reference", "model") if report.against is not None else ("before", "after")
    return Table("Summary", ("", *heads, "change"), rows, note=note)


def _simulated(report: Report, add: Callable[..., None]) -> list[str]:
    """Adds what simulated integers gave, and says how they were simulated."""
    found = report.evaluation.simulated if report.evaluation else None
    if not found:
        return []
    bits = found["activation_bits"]
    outputs = metrics_of(report)
    inside = found["metrics"].get("outputs") or {"": found["metrics"]}
    for output, part in inside.items():
        old, new = outputs.get(output, ({}, {}))
        before = old or new  # of an only model, beside itself in floats
        for key in ("accuracy", "rmse"):
            a, b = before.get(key), part.get(key)
            drop = f"{b - a:+.4f}" if is_number(a) and is_number(b) else ""
            name = f"{METRICS[key]}, integers simulated"
            name = f"{printable(output, 32)}: {name}" if output else name
            add(name, a, b, lambda value: f"{value:.4f}", drop)
    note = f"integers simulated: activations in {bits} bits, kernels in 8 or as quantized, ranges "
    note += f"of {found['samples']} samples"
    if found["inside"]:
        names = ", ".join(printable(name, 32) for name in found["inside"][:4])
        more = len(found["inside"]) - 4
        note += f"; not simulated inside of {names}" + (f" and {more} more" if more > 0 else "")
    return [note]


def latency_change(ratio: Mapping[str, Any] | None) -> str:
    """How two latencies compare that were measured in turn: a factor only where there is one."""
    if not ratio or ratio["ratio"] is None:
        return ""
    if not ratio["measurable"]:
        return "no measurable change"
    times = factor(1.0, ratio["ratio"])
    return times if ratio["same_engine"] else f"{times}, other engine"


def _certainty(report: Report, output: str) -> list[str]:
    """The intervals of an output's accuracy or MAE and R², and of their change, in words."""
    found = report.evaluation
    if found is None or found.confidence is None:
        return []
    after = metrics_of(report)[output][1]
    change = found.change or {}
    change = (change.get("outputs") or {"": change}).get(output, {})
    told = []
    for key, changed, sign in _CERTAIN:
        ends = (after.get("intervals") or {}).get(key)
        if ends is None:
            continue
        words = f"{_SHORT.get(key, key)} {ends[0]:{_FORM}} to {ends[1]:{_FORM}}"
        if (loss := (change.get("intervals") or {}).get(changed)) is not None:
            # The column shows after minus before, a drop being negative.
            low, high = sorted(sign * end for end in loss)
            words += f", change {low:+{_FORM}} to {high:+{_FORM}}"
            if key == "accuracy":
                words += f" (McNemar's test: p = {change['mcnemar']['p_value']:.2g})"
        told.append(words)
    if not told:
        return []
    line = f"{100 * found.confidence:g} % confidence: {'; '.join(told)}"
    return [f"{printable(output, 32)}: {line}" if output else line]


_FORM = ".4f"
_SHORT = {"mae": "MAE", "r2": "R²"}
_CERTAIN = (("accuracy", "accuracy_drop", -1), ("mae", "mae_increase", 1), ("r2", "r2_drop", -1))
"""Metric, what of it changed for the worse, and the sign that this has as after minus before."""


def sides(report: Report) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The evaluations before and after; empty where there is none."""
    if report.evaluation is None:
        return {}, {}
    return report.evaluation.before or {}, report.evaluation.after


def metrics_of(report: Report) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The metrics before and after of each output, by its name ("" where there is one)."""
    before, after = (side.get("metrics") or {} for side in sides(report))
    names = after.get("outputs") or {}
    if not names:
        return {"": (before, after)}
    return {
        name: ((before.get("outputs") or {}).get(name, {}), part) for name, part in names.items()
    }


METRICS = {
    "accuracy": "accuracy",
    "precision_macro": "precision, macro",
    "recall_macro": "recall, macro",
    "f1_macro": "F1, macro",
    "log_loss": "log loss",
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "r2": "R²",
}

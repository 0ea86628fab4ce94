"""What the page shows as charts: data taken from the report, each with a table of the same numbers.

Nothing is drawn here, so that a page can be written without a library for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelcut.report.cells import Table, count, is_number, number, or_dash, percent, size
from modelcut.report.schema import LayerRow, Report, StepRow
from modelcut.report.summary import metrics_of
from modelcut.safety import printable

_MOST_BARS = 16
_MOST_CLASSES = 20
_MOST_POINTS = 500


@dataclass(frozen=True)
class Bars:
    """A group of horizontal bars for each label.

    Attributes:
        labels: names of the groups.
        series: name of each series -> its values, None where there is none.
        axis: what the values are.
        unit: bytes, percent or number.
    """

    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    axis: str
    unit: str = "number"


@dataclass(frozen=True)
class Lines:
    """Curves over one axis.

    Attributes:
        series: name of each curve -> its points (x, y).
        x, y: what the axes are.
        logarithmic: which axes are: "", "y" or "xy".
        mark: where on the x axis something happened, and what; or None.
    """

    series: Mapping[str, Sequence[tuple[float, float]]]
    x: str
    y: str
    logarithmic: str = ""
    mark: tuple[float, str] | None = None


@dataclass(frozen=True)
class Points:
    """Trials as size against a metric.

    Attributes:
        points: (size, metric, whether all limits held) of each.
        front: the points of the Pareto front, by size.
        chosen: the point that was chosen, or None.
        x, y: what the axes are.
        names: names of the points, where these are models, not trials.
    """

    points: Sequence[tuple[float, float, bool]]
    front: Sequence[tuple[float, float]]
    chosen: tuple[float, float] | None
    x: str
    y: str
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Matrix:
    """Confusion matrices: how many samples of a true class (row) were taken for which (column).

    Attributes:
        labels: names of the classes.
        parts: title of each matrix -> its counts.
    """

    labels: Sequence[str]
    parts: Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Spread:
    """Two histograms on the same bins.

    Attributes:
        low, high: ends of the range.
        before, after: count of each bin.
    """

    low: float
    high: float
    before: Sequence[int]
    after: Sequence[int]


@dataclass(frozen=True)
class Ranges:
    """A number with its interval for each label.

    Attributes:
        labels: what the numbers are of.
        values: the numbers.
        ends: lower and upper end of the interval of each; None where there is none.
        axis: what the numbers are.
    """

    labels: Sequence[str]
    values: Sequence[float]
    ends: Sequence[tuple[float, float] | None]
    axis: str


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        section: heading of the part of the page.
        title: what is shown.
        figure: what is drawn.
        table: the same numbers.
    """

    section: str
    title: str
    figure: Bars | Lines | Points | Matrix | Spread | Ranges
    table: Table


def charts(report: Report) -> Iterator[Chart]:
    """All charts that the report has something for, in the order of the page."""
    yield from _layers(report)
    yield from _histograms(report)
    for step in report.steps:
        yield from _singular(step)
    yield from _confusion(report)
    yield from _lost(report)
    for step in report.steps:
        yield from _training(step)
    for step in report.steps:
        yield from _budget(step)
    yield from _search(report)


def _layers(report: Report) -> Iterator[Chart]:
    """Size, sparsity and bits by layer."""
    merged: dict[str, list[LayerRow]] = {}
    for layer in report.layers:
        if layer.tensors:
            merged.setdefault(layer.name, []).append(layer)
    changed = bool(report.steps) or report.output is not None
    rows: list[tuple[str, float, float, float | None, float | None]] = []
    for name, parts in merged.items():
        tensors = [tensor for part in parts for tensor in part.tensors]
        before = sum(t.before.deflated or t.before.bytes for t in tensors if not t.new)
        after, values, nonzeros, bits = 0, 0, 0, 0
        for tensor in tensors:
            if tensor.after is None:
                continue
            # A SavedModel's variables are not deflated: bars side by side would differ by that.
            coded = (tensor.stored_bytes, tensor.after.deflated)
            after += min((part for part in coded if part is not None), default=tensor.after.bytes)
            values += tensor.after.size
            nonzeros += tensor.after.nonzeros
            bits += tensor.after.bits
        sparse = 1 - nonzeros / values if values else None
        rows.append((name, before, after, sparse, bits / values if values else None))
    if not rows:
        return
    ordered = sorted(rows, key=lambda row: -max(row[1], row[2]))
    shown, rest = ordered[:_MOST_BARS], ordered[_MOST_BARS:]
    labels = [printable(row[0], 200) for row in shown]
    series: dict[str, list[float | None]] = {"after" if changed else "size": [r[2] for r in shown]}
    if changed:
        series = {"before": [row[1] for row in shown], **series}
    if rest:
        labels.append(f"{len(rest):,} other layers")
        for name, at in (("before", 1), ("after", 2), ("size", 2)):
            if name in series:
                series[name].append(sum(row[at] for row in rest))  # type: ignore[misc]
    table = Table(
        "",
        ("layer", "before", "after", "zeros", "bits/weight"),
        [
            (
                printable(name, 200),
                size(before),
                size(after),
                or_dash(sparse, percent),
                or_dash(bits, number),
            )
            for name, before, after, sparse, bits in ordered
        ],
        note="bytes of the weights, deflated, or as they are stored where that is less",
    )
    yield Chart("Layers", "Size by layer", Bars(labels, series, "bytes", "bytes"), table)
    named = [printable(row[0], 200) for row in shown]
    zeros, bits_of = [row[3] for row in shown], [row[4] for row in shown]
    for title, axis, values_of, unit in (
        ("Sparsity by layer", "zeros", zeros, "percent"),
        ("Bits per weight by layer", "bits", bits_of, "number"),
    ):
        yield Chart("Layers", title, Bars(named, {"after": values_of}, axis, unit), table)


def _histograms(report: Report) -> Iterator[Chart]:
    for row in report.histograms:
        width = (row.high - row.low) / max(1, len(row.before))
        cells = [
            (f"{row.low + index * width:.4g}", count(before), count(after))
            for index, (before, after) in enumerate(zip(row.before, row.after, strict=True))
        ]
        zeros = row.sampled - sum(row.after)
        note = f"{count(row.sampled)} values sampled; zeros are not shown: {count(zeros)} after"
        table = Table("", ("bin from", "before", "after"), cells, note=note)
        figure = Spread(row.low, row.high, row.before, row.after)
        yield Chart("Weights that changed most", printable(row.tensor, 200), figure, table)


def _singular(step: StepRow) -> Iterator[Chart]:
    layers = step.facts.get("layers")
    for name, fact in layers.items() if isinstance(layers, Mapping) else ():
        found = fact.get("singular_values") if isinstance(fact, Mapping) else None
        if not isinstance(found, Mapping):
            continue
        points = list(zip(found["number"], found["value"], strict=False))
        rank = fact.get("rank")
        mark = (float(rank), f"rank {rank}") if is_number(rank) else None
        if not points:
            continue
        table = Table("", ("number", "singular value"), [(count(x), f"{y:.4g}") for x, y in points])
        lines = Lines({"": points}, "number", "singular value", "xy", mark)
        yield Chart("Singular values", printable(str(name), 200), lines, table)


def _confusion(report: Report) -> Iterator[Chart]:
    for output, (before, after) in metrics_of(report).items():
        matrix, old = after.get("confusion"), before.get("confusion")
        if not matrix:
            continue
        names = [str(row["class"]) for row in after.get("per_class") or []]
        kept = list(range(len(matrix)))
        title = f"Confusion of {printable(output, 60)}" if output else "Confusion"
        if len(kept) > _MOST_CLASSES:
            kept = sorted(kept, key=lambda k: -_errors(matrix, k))[:_MOST_CLASSES]
            title += f": the {len(kept)} classes with the most errors"
        labels = [printable(names[k], 60) for k in kept]
        parts = {"before": old, "after": matrix} if old else {"": matrix}
        cut = {name: [[part[i][j] for j in kept] for i in kept] for name, part in parts.items()}
        pairs = sorted(
            ((matrix[i][j], i, j) for i in range(len(matrix)) for j in range(len(matrix))
             if i != j and matrix[i][j]), key=lambda pair: (-pair[0], pair[1:]),
        )[:50]  # fmt: skip
        rows = [
            (
                printable(names[i], 60),
                printable(names[j], 60),
                count(old[i][j]) if old else "–",
                count(many),
            )
            for many, i, j in pairs
        ]
        columns = ("true class", "taken for", "before", "after")
        table = Table("", columns, rows, left=("taken for",), note="up to 50 most frequent errors")
        yield Chart("Classes", title, Matrix(labels, cut), table)


def _errors(matrix: Sequence[Sequence[int]], k: int) -> int:
    return sum(matrix[k]) - matrix[k][k]


def _lost(report: Report) -> Iterator[Chart]:
    """The classes whose recall dropped most."""
    change = report.evaluation.change if report.evaluation else None
    if not change:
        return
    for output, (before, after) in metrics_of(report).items():
        old, new = before.get("per_class") or [], after.get("per_class") or []
        drops = sorted(
            zip(old, new, strict=False), key=lambda pair: pair[1]["recall"] - pair[0]["recall"]
        )
        shown = [pair for pair in drops if pair[1]["recall"] < pair[0]["recall"]][:12]
        if not shown:
            continue
        title = "Recall of the classes that lost most"
        title += f", {printable(output, 60)}" if output else ""
        labels = [printable(str(new["class"]), 60) for _, new in shown]
        series = {
            name: [pair[at]["recall"] for pair in shown]
            for at, name in enumerate(("before", "after"))
        }
        rows = [
            (
                printable(str(b["class"]), 60),
                count(b["support"]),
                f"{a['recall']:.4f}",
                f"{b['recall']:.4f}",
                _ends(b.get("recall_interval")),
            )
            for a, b in shown
        ]
        columns = ("class", "rows", "recall before", "after", "95 % interval")
        yield Chart(
            "Classes", title, Bars(labels, series, "recall", "percent"), Table("", columns, rows)
        )


def _ends(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else "–"


def _training(step: StepRow) -> Iterator[Chart]:
    losses = step.facts.get("loss")
    if not isinstance(losses, (list, tuple)) or len(losses) < 2:
        return
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": {"training": []}}
    curves["loss"]["training"] = [(n, v) for n, v in enumerate(losses, 1) if is_number(v)]
    for epoch, entry in enumerate(step.facts.get("validation") or (), 1):
        for name, value in entry.items():
            if is_number(value):
                where = "loss" if "loss" in name else name
                curves.setdefault(where, {}).setdefault("validation", []).append((epoch, value))
    best = step.facts.get("best_epoch")
    mark = (float(best), "best epoch") if is_number(best) and best else None
    for name, series in curves.items():
        epochs = sorted({int(x) for points in series.values() for x, _ in points})
        known = [dict(points) for points in series.values()]
        rows = [
            (str(epoch), *(f"{k[epoch]:.5g}" if epoch in k else "–" for k in known))
            for epoch in epochs
        ]
        title = f"Step {step.step}, {printable(step.title, 60)}: {printable(name, 40)}"
        lines = Lines(series, "epoch", name, mark=mark)
        yield Chart("Training", title, lines, Table("", ("epoch", *series), rows))


def _budget(step: StepRow) -> Iterator[Chart]:
    """Trials of one step's budget."""
    found = step.facts.get("budget")
    if not isinstance(found, Mapping):
        return
    metric = _metric(found.get("base") or {})
    trials = [
        (trial["bits"] / 8, trial[metric], bool(trial.get("held")), trial)
        for trial in found.get("trials") or ()
        if metric and is_number(trial.get(metric)) and is_number(trial.get("bits"))
    ]
    chosen = found.get("reached") or {}
    at = (chosen["bits"] / 8, chosen[metric]) if metric and chosen.get(metric) is not None else None
    title = f"Step {step.step}, {printable(step.title, 60)}: trials"
    yield from _trials(title, trials, metric, at, "bytes, plain")


def _search(report: Report) -> Iterator[Chart]:
    """Trials of `modelcut search`."""
    found = report.search
    tried = (found or {}).get("tried") or ()
    metric = _metric(tried[0] if tried else {})
    lucky = {
        str(each["number"]): f"passed over: a drop of {each['expected_drop']:.2g} is expected"
        for each in (found or {}).get("passed_over") or ()
        if is_number(each.get("number")) and is_number(each.get("expected_drop"))
    }
    trials = [
        (
            trial["bytes"],
            trial[metric],
            bool(trial.get("held")),
            {**trial, "note": lucky.get(str(trial.get("number")), "")},
        )
        for trial in tried
        if metric and is_number(trial.get(metric)) and is_number(trial.get("bytes"))
    ]
    chosen = next((t for t in trials if t[3].get("number") == (found or {}).get("chosen")), None)
    at = (chosen[0], chosen[1]) if chosen else None
    yield from _trials("Trials of the search", trials, metric, at, "bytes of the file")


def _metric(measured: Mapping[str, Any]) -> str:
    names = ("accuracy", "f1_macro", "r2", "rmse", "mae", "log_loss")
    return next((name for name in names if is_number(measured.get(name))), "")


def _trials(
    title: str,
    trials: Sequence[tuple[float, float, bool, Mapping[str, Any]]],
    metric: str,
    chosen: tuple[float, float] | None,
    axis: str,
) -> Iterator[Chart]:
    if len(trials) < 2:
        return
    lower = metric in ("rmse", "mae", "log_loss")
    front: list[tuple[float, float]] = []
    for weight, value, *_ in sorted(trials, key=lambda t: (t[0], t[1] if lower else -t[1])):
        if not front or (value < front[-1][1] if lower else value > front[-1][1]):
            front.append((weight, value))
    rows = [
        (
            size(weight),
            f"{value:.4f}",
            "yes" if held else "no",
            "front" if (weight, value) in front else "",
            "chosen" if (weight, value) == chosen else trial.get("note", ""),
        )
        for weight, value, held, trial in sorted(trials, key=lambda t: t[:2])[:_MOST_POINTS]
    ]
    columns = (axis, metric, "within limits", "Pareto front", "")
    points = Points([t[:3] for t in trials[:5000]], front, chosen, axis, metric)
    yield Chart("Search", title, points, Table("", columns, rows))

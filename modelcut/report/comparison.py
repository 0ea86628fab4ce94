"""Several models side by side: tables, and the forms that these are shown in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelcut.report import html, json, md
from modelcut.report.cells import Table, count, is_number, number, or_dash, percent, size
from modelcut.report.charts import Bars, Chart, Points, Ranges
from modelcut.report.schema import Candidate, Comparison
from modelcut.report.summary import METRICS, latency_change
from modelcut.safety import printable, without_surrogates


def render(found: Comparison, form: str) -> str:
    """The comparison as text, in one of the forms "json", "md" and "html"."""
    text = {"json": json.render, "md": _md, "html": _html}[form](found)
    return without_surrogates(text)


_SHOWN = ("accuracy", "recall_macro", "f1_macro", "rmse", "mae", "r2")


def tables(found: Comparison) -> Iterator[Table]:
    """Sizes, scores and latencies, a model a row."""
    yield _sizes(found)
    yield from _scores(found)
    yield _latencies(found)


def _name(model: Candidate) -> str:
    return printable(model.name, 60)


def _sizes(found: Comparison) -> Table:
    rows = [
        (
            _name(model),
            or_dash(model.size.file_bytes, size),
            or_dash(model.size.totals.deflated_bytes, size),
            count(model.size.totals.parameters),
            percent(model.size.totals.sparsity),
            number(model.size.totals.bits_per_weight),
            or_dash(model.size.macs, count),
        )
        for model in found.models
    ]
    columns = ("model", "file", "weights", "parameters", "zeros", "bits/weight", "MACs")
    note = "weights: deflated, without an optimizer's state"
    return Table("Size", columns, rows, note=note)


def _scores(found: Comparison) -> Iterator[Table]:
    """Of each output its scores, with the interval of the first one."""
    outputs = _outputs(found.models[0]) or {"": {}}
    for output in outputs:
        parts = [_outputs(model).get(output, {}) for model in found.models]
        keys = [key for key in _SHOWN if any(is_number(part.get(key)) for part in parts)]
        if not keys:
            continue
        rows = [
            (
                _name(model),
                or_dash(part.get(keys[0]), lambda value: f"{value:.4f}"),
                _interval((part.get("intervals") or {}).get(keys[0])),
                *(or_dash(part.get(key), lambda value: f"{value:.4f}") for key in keys[1:]),
                or_dash(_of(model.agreement, output).get("top1"), percent),
                _p_value(_of(model.change, output)),
            )
            for model, part in zip(found.models, parts, strict=True)
        ]
        title = f"Scores of {printable(output, 32)}" if output else "Scores"
        names = [METRICS[key].removesuffix(", macro") for key in keys]
        interval = f"{100 * found.confidence:g} % interval"
        columns = ("model", names[0], interval, *names[1:], "agreement", "p")
        note = (
            f"{count(found.rows)} rows; recall and F1: macro; agreement with the first model, and "
        )
        note += "p of McNemar's test that both are equally often right"
        yield Table(title, columns, rows, note=note)


def _outputs(model: Candidate) -> Mapping[str, Mapping[str, Any]]:
    metrics = model.evaluation.get("metrics") or {}
    return metrics.get("outputs") or {"": metrics}


def _of(part: Mapping[str, Any] | None, output: str) -> Mapping[str, Any]:
    """A part for one output; that of the first where there is one."""
    whole = part or {}
    found: Mapping[str, Any] = (whole.get("outputs") or {}).get(output, whole)
    return found


def _interval(ends: Any) -> str:
    return f"{ends[0]:.4f}–{ends[1]:.4f}" if ends else "–"


def _p_value(change: Mapping[str, Any]) -> str:
    return or_dash((change.get("mcnemar") or {}).get("p_value"), lambda value: f"{value:.2g}")


def _latencies(found: Comparison) -> Table:
    rows = []
    for model in found.models:
        own = model.evaluation.get("latency") or {}
        ends = own.get("interval_ms")
        rows.append(
            (
                _name(model),
                or_dash(own.get("median_ms"), lambda value: f"{value:.3g} ms"),
                f"{ends[0]:.3g}–{ends[1]:.3g}" if ends else "–",
                latency_change(model.latency) or "reference",
                printable(str(model.evaluation.get("engine", "")), 40),
            )
        )
    note = "one row, this host; the models in turn, each beside the first one"
    columns = ("model", "latency", "99 % interval", "change", "engine")
    return Table("Latency", columns, rows, left=("engine",), note=note)


def _md(found: Comparison) -> str:
    parts = [f"<!-- {found.schema} -->", f"# modelcut: {len(found.models)} models", ""]
    for table in tables(found):
        parts += [f"## {md.escaped(table.title)}", "", md.table_of(table), ""]
        parts += [f"_{md.escaped(table.note)}_", ""] if table.note else []
    if found.warnings:
        parts += ["## Warnings", "", *(f"- {md.escaped(line)}" for line in found.warnings), ""]
    parts += ["## Origin", "", md.table_of(_origin(found)), ""]
    return "\n".join(parts)


def _html(found: Comparison) -> str:
    title = f"{len(found.models)} models on {found.test.rpartition('/')[2]}"
    items = "".join(f"<li>{html.text_of(line)}</li>" for line in found.warnings)
    parts = [f"<header><h1>{html.text_of(title)}</h1></header>"]
    parts += [html.section(table.title, html.table_of(table)) for table in tables(found)]
    parts += [html.figures(_charts(found)), html.section("Warnings", items and f"<ul>{items}</ul>")]
    parts += [html.section("Provenance", html.table_of(_origin(found)))]
    return html.page(f"modelcut: {title}", "".join(parts), found.schema)


def _charts(found: Comparison) -> Iterator[Chart]:
    names = [_name(model) for model in found.models]
    sizes = [model.size.file_bytes for model in found.models]
    table = _sizes(found)
    yield Chart("Charts", "Size of the file", Bars(names, {"": sizes}, "bytes", "bytes"), table)
    for output in _outputs(found.models[0]):
        parts = [_outputs(model).get(output, {}) for model in found.models]
        key = next((k for k in METRICS if all(is_number(p.get(k)) for p in parts)), None)
        if key is None:
            continue
        ends = [(part.get("intervals") or {}).get(key) for part in parts]
        scores = next(t for t in _scores(found) if not output or printable(output, 32) in t.title)
        values = [part[key] for part in parts]
        where = f"{printable(output, 32)}: " if output else ""
        figure = Ranges(names, values, [tuple(e) if e else None for e in ends], METRICS[key])
        yield Chart("Charts", f"{where}{METRICS[key]} with its interval", figure, scores)
        points = [(float(s or 0), value, True) for s, value in zip(sizes, values, strict=True)]
        if all(sizes):
            figured = Points(points, [], None, "bytes of the file", METRICS[key], names)
            yield Chart("Charts", f"{where}size against {METRICS[key]}", figured, scores)


def _origin(found: Comparison) -> Table:
    rows = [(model.input.path, f"BLAKE3 {model.input.blake3}") for model in found.models]
    rows.append(("test data", found.test))
    rows.append(("modelcut", found.modelcut))
    rows += [(name, str(value)) for name, value in (*found.host.items(), *found.versions.items())]
    cells = [(printable(name, 200), printable(value, 200)) for name, value in rows]
    return Table("Provenance", ("", "value"), cells, left=("value",))

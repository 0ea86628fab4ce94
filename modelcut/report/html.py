"""The report as one HTML file: no script, nothing fetched, and names from files are text.

Charts are drawn where Matplotlib is installed; the table of the same numbers is there in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from typing import Any

import yaml

from modelcut.report import draw
from modelcut.report.cells import Table, is_number, size
from modelcut.report.charts import Chart, charts
from modelcut.report.gates import unchecked, verdict
from modelcut.report.schema import Report
from modelcut.report.summary import latency_change, metrics_of, sides
from modelcut.report.tables import tables
from modelcut.safety import printable

_MOST_ROWS = 500
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What the browser may do for the page: nothing, even if a name were taken for markup."""
Card = tuple[str, str, str]
"""What it is, the number, and a line below it."""


def render(report: Report) -> str:
    """A whole page."""
    title = report.input.path.rstrip("/").rpartition("/")[2]
    if report.output is not None:
        title += f" → {report.output.path.rstrip('/').rpartition('/')[2]}"
    found = list(charts(report))
    parts = [_head(report, title)]
    parts += [_cards(_headline(report)), _failed(report)]
    listed = [table for table in tables(report, full=True) if table.rows or table.text]
    first = ("Summary", "Gates")
    parts += [section(t.title, table_of(t)) for name in first for t in listed if t.title == name]
    parts += [_lines("Warnings", report.warnings), figures(found)]
    parts += [section(t.title, table_of(t)) for t in listed if t.title not in first]
    parts += [_lines("Left out of the file", report.output.dropped if report.output else ())]
    parts += [_recipe(report), section("Provenance", table_of(_provenance(report)))]
    return page(f"modelcut: {title}", "".join(parts), report.schema)


def page(title: str, body: str, schema: str) -> str:
    """A file of HTML around a body; `schema` says whose it is, so that it may be replaced."""
    style = resources.files("modelcut.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<!-- {schema} -->\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{text_of(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head>\n<body>{body}</body></html>\n"
    )


def tables_of(report: Report) -> str:
    """The tables, what was left out and the warnings, as a fragment."""
    parts = [section(t.title, table_of(t)) for t in tables(report, full=True) if t.rows]
    parts.append(_lines("Left out of the file", report.output.dropped if report.output else ()))
    parts.append(_lines("Warnings", report.warnings))
    return "".join(parts)


def section(title: str, body: str) -> str:
    """A heading and what stands below it; nothing where there is nothing."""
    mark = ' id="warnings"' if title == "Warnings" else ""
    return f"<section{mark}><h2>{text_of(title)}</h2>{body}</section>\n" if body else ""


def table_of(table: Table) -> str:
    """A table that scrolls by itself where it is too wide."""
    left = [index == 0 or column in table.left for index, column in enumerate(table.columns)]

    def row(cells: tuple[str, ...], tag: str) -> str:
        found = (
            f"<{tag}{_class(cell, mine)}>{text_of(cell)}</{tag}>"
            for cell, mine in zip(cells, left, strict=True)
        )
        return f"<tr>{''.join(found)}</tr>"

    shown = table.rows[:_MOST_ROWS]
    body = "\n".join(row(cells, "td") for cells in shown)
    more = len(table.rows) - len(shown)
    notes = [table.note] if table.note else []
    notes += [f"{more:,} more rows are in the JSON report"] if more else []
    note = f"<p><small>{text_of('; '.join(notes))}</small></p>" if notes else ""
    lines = "\n".join(printable(line, 400) for line in table.text.splitlines())
    text = f"<pre>{escape(lines)}</pre>" if table.text else ""
    head = row(table.columns, "th")
    grid = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>" if shown else ""
    return f'<div class="wide">{grid}</div>{note}{text}'


def _class(cell: str, left: bool) -> str:
    names = ["l"] if left else []
    names += {"FAILED": ["bad"], "passed": ["good"]}.get(cell, [])
    return f' class="{" ".join(names)}"' if names else ""


def figures(found: Iterable[Chart]) -> str:
    """The charts by section, each with its table behind it."""
    sections: dict[str, list[str]] = {}
    alone: set[str] = set()  # tables without a drawing: several charts may show parts of one
    why = draw.missing()
    for number, chart in enumerate(found):
        svg = ""
        if not why:
            try:
                svg = draw.draw(chart, f"c{number}")
            except Exception as error:  # noqa: BLE001 - a broken Matplotlib must not cost the page
                why = f"Charts are left out: {type(error).__name__}: {error}"
        table = table_of(chart.table)
        if not svg:
            if table in alone:
                continue
            alone.add(table)
        behind = f"<details{'' if svg else ' open'}><summary>Table</summary>{table}</details>"
        sections.setdefault(chart.section, []).append(
            f"<figure><h3>{text_of(chart.title)}</h3>{svg}{behind}</figure>"
        )
    note = "" if not why or not sections else f'<p class="soft">{text_of(why)}</p>'
    return note + "".join(
        section(title, f'<div class="charts">{"".join(parts)}</div>')
        for title, parts in sections.items()
    )


def _head(report: Report, title: str) -> str:
    marks = ""
    if report.gates:
        kind = "good" if any(not unchecked(gate) for gate in report.gates) else "soft"
        kind = kind if report.passed else "bad"
        marks = f'<span class="verdict {kind}">{text_of(verdict(report.gates))}</span>'
    if report.warnings:
        many = len(report.warnings)
        words = f"{many} warning{'s' if many > 1 else ''}"
        marks += f' <a class="verdict" href="#warnings">{words}</a>'
    notes = "".join(f"<p>{text_of(line)}</p>" for line in report.notes)
    source = report.input
    what = f"{source.format}, written by {source.writer}"
    if report.output is not None:
        what += f"; result: {report.output.format}"
    if report.against is not None:
        what += f"; reference: {report.against.path}"
    return (
        f"<header><h1>{text_of(title)}</h1>{marks}"
        f'<p class="soft">{text_of(what)}</p>{notes}</header>'
    )


def _cards(found: Iterable[Card]) -> str:
    cards = "".join(
        f'<div class="card"><span>{text_of(what)}</span><strong>{text_of(value)}</strong>'
        f"<span>{text_of(below)}</span></div>"
        for what, value, below in found
    )
    return f'<div class="cards">{cards}</div>' if cards else ""


def _headline(report: Report) -> Iterable[Card]:
    """What is above everything else: size, scores with their intervals, latency."""
    sizes, weights = report.sizes, report.sizes.weights
    before, after = sizes.before, sizes.after
    if weights is not None:
        how = ", both deflated" if weights.coding == "deflate" else ""
        below = f"{size(weights.before)} → {size(weights.after)}{how}"
        yield "weights", _times(weights.ratio), below
    if after.file_bytes is not None and before.file_bytes is not None and sizes.file_ratio:
        below = f"{size(before.file_bytes)} → {size(after.file_bytes)}"
        if sizes.optimizer is not None:
            below += f", {size(sizes.optimizer.bytes)} optimizer state left out"
        yield "file", _times(sizes.file_ratio), below
    elif before.file_bytes is not None:
        yield "file", size(before.file_bytes), f"{before.totals.parameters:,} parameters"
    for output, (old, new) in metrics_of(report).items():
        for key, name in _HEADLINES.items():
            if is_number(new.get(key)):
                yield _score(f"{printable(output, 32)}: {name}" if output else name, key, old, new)
    first, last = ((side.get("latency") or {}).get("median_ms") for side in sides(report))
    if is_number(last):
        value = f"{first:.3g} → {last:.3g} ms" if is_number(first) else f"{last:.3g} ms"
        ratio = report.evaluation.latency if report.evaluation else None
        below = latency_change(ratio)
        if ratio and ratio["measurable"] and ratio["interval"]:
            below += " (× {:.3g} to {:.3g})".format(*ratio["interval"])
        yield "latency, one sample", value, below


_HEADLINES = {
    "accuracy": "accuracy",
    "recall_macro": "recall, macro",
    "f1_macro": "F1, macro",
    "rmse": "RMSE",
    "r2": "R²",
}


def _score(name: str, key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Card:
    value = f"{new[key]:.4f}"
    if is_number(old.get(key)):
        value = f"{old[key]:.4f} → {value}"
    ends = (new.get("intervals") or {}).get(key)
    return name, value, f"95 %: {ends[0]:.4f} – {ends[1]:.4f}" if ends else ""


def _times(ratio: float) -> str:
    return f"÷ {ratio:.2f}" if ratio >= 1 else f"× {1 / max(ratio, 1e-12):.2f}"


def _failed(report: Report) -> str:
    """The gates that failed, named above the fold."""
    found = [
        f"{gate['name']}: {_shown(gate['value'])}, limit {gate['limit']:g}"
        for gate in report.gates
        if not gate["held"]
    ]
    items = "".join(f'<li class="bad">{text_of(line)}</li>' for line in found)
    return f"<ul>{items}</ul>" if items else ""


def _shown(value: Any) -> str:
    return f"{value:.6g}" if is_number(value) else "not measured"


def _lines(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{text_of(line)}</li>" for line in lines)
    return section(title, f"<ul>{items}</ul>" if items else "")


def _recipe(report: Report) -> str:
    if not report.recipe or not report.recipe.get("steps"):
        return ""
    text = yaml.safe_dump(dict(report.recipe), sort_keys=False, allow_unicode=True)
    lines = "\n".join(printable(line, 2000) for line in text.splitlines())
    return section("Recipe", f"<pre>{escape(lines)}</pre>")


def _provenance(report: Report) -> Table:
    rows = []
    files = [("input", report.input), ("output", report.output), ("reference", report.against)]
    for what, file in files:
        if file is None:
            continue
        rows.append((what, file.path))
        rows += [
            (f"{what}, {name}", str(digest))
            for name, digest in (("BLAKE3", file.blake3), ("SHA-256", file.sha256))
            if digest
        ]
    if report.evaluation is not None:
        rows.append(("test data", report.evaluation.test))
        rows.append(("engine", str(report.evaluation.after.get("engine", ""))))
    rows.append(("seed", str(report.seed)))
    rows += [(name, str(value)) for name, value in report.host.items()]
    rows.append(("modelcut", report.modelcut))
    rows += [(name, str(value)) for name, value in report.versions.items()]
    return Table("Provenance", ("", "value"), rows, left=("value",))


def text_of(value: str) -> str:
    """A text from anywhere as text of a page."""
    return escape(printable(str(value), 400))


Report.shown_by = tables_of  # in notebooks

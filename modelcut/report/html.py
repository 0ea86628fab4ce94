"""The report as HTML: tables only, no script, nothing fetched; names from files are text."""

from __future__ import annotations

from html import escape

from modelcut.report.cells import Table
from modelcut.report.schema import Report
from modelcut.report.tables import tables
from modelcut.safety import printable

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{padding:.2rem .7rem;border-bottom:1px solid #8884;text-align:right;white-space:nowrap}"
    ".l{text-align:left}p{max-width:50rem}"
)


def render(report: Report) -> str:
    """A whole page."""
    title = f"modelcut: {_text(report.input.path.rpartition('/')[2])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{tables_of(report)}</body></html>\n"
    )


def tables_of(report: Report) -> str:
    """The tables, what was left out and the warnings, as a fragment."""
    parts = [_table(table) for table in tables(report, full=True) if table.rows]
    for title, lines in (
        ("Left out of the file", report.output.dropped if report.output else ()),
        ("Warnings", report.warnings),
    ):
        if lines:
            items = "".join(f"<li>{_text(line)}</li>" for line in lines)
            parts.append(f"<h2>{title}</h2><ul>{items}</ul>")
    return "".join(parts)


def _table(table: Table) -> str:
    left = [index == 0 or column in table.left for index, column in enumerate(table.columns)]

    def row(cells: tuple[str, ...], tag: str) -> str:
        found = (
            f"<{tag}{' class=l' if mine else ''}>{_text(cell)}</{tag}>"
            for cell, mine in zip(cells, left, strict=True)
        )
        return f"<tr>{''.join(found)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    note = f"<p><small>{_text(table.note)}</small></p>" if table.note else ""
    lines = "\n".join(printable(line, 400) for line in table.text.splitlines())
    text = f"<pre>{escape(lines)}</pre>" if table.text else ""
    head = row(table.columns, "th")
    return (
        f"<h2>{_text(table.title)}</h2><table><thead>{head}</thead><tbody>{body}</tbody></table>"
        f"{note}{text}"
    )


def _text(value: str) -> str:
    return escape(printable(str(value), 400))


Report.shown_by = tables_of  # in notebooks

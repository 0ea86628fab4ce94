"""The report as Markdown, for a CI job's summary or a pull request."""

from __future__ import annotations

import html

from modelcut.report.cells import Table
from modelcut.report.gates import verdict
from modelcut.report.schema import Input, Output, Report
from modelcut.report.tables import tables
from modelcut.safety import printable


def render(report: Report) -> str:
    """Markdown text; what stood in the model or the CSV is escaped."""
    parts = [f"<!-- {report.schema} -->", f"# {_headline(report)}", ""]
    for line in report.notes:
        parts += [f"**{escaped(line)}**", ""]
    parts += [_steps(report)] if report.steps else []
    for table in tables(report, full=True):
        parts += [f"## {table.title}", "", table_of(table), ""]
        if table.note:
            parts += [f"_{escaped(table.note)}_", ""]
        if table.text:  # an indented block: no backtick in a name can end it
            parts += [*(f"    {printable(line, 400)}" for line in table.text.splitlines()), ""]
    dropped = report.output.dropped if report.output else ()
    if dropped:
        parts += ["## Left out of the file", "", *(f"- {escaped(line)}" for line in dropped), ""]
    if report.warnings:
        parts += ["## Warnings", "", *(f"- {escaped(line)}" for line in report.warnings), ""]
    parts += ["## Origin", "", *_origin(report), ""]
    return "\n".join(parts)


def _headline(report: Report) -> str:
    name = escaped(str(report.input.path).rpartition("/")[2])
    weights, ratio = report.sizes.weights, report.sizes.ratio
    smaller = f", {ratio:.1f}× smaller" if ratio else ""
    if weights is not None:
        smaller = f", weights {weights.ratio:.1f}× smaller"
    gates = f" — {verdict(report.gates)}" if report.gates else ""
    return f"modelcut: {name}{smaller}{gates}"


def _steps(report: Report) -> str:
    lines = []
    for step in report.steps:
        fields = ", ".join(f"{key}: {value}" for key, value in step.parameters.items())
        lines.append(f"{step.step}. **{escaped(step.title)}** {escaped(fields)}")
    return "\n".join([*lines, ""])


def table_of(table: Table) -> str:
    """A table as Markdown."""
    align = [
        "---" if index == 0 or column in table.left else "--:"
        for index, column in enumerate(table.columns)
    ]
    rows = [table.columns, tuple(align), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell if row is rows[1] else escaped(cell) for cell in row) + " |"
        for row in rows
    )


def _origin(report: Report) -> list[str]:
    source = report.input
    lines = [
        f"- input: `{_code(source.path)}`, {source.format}, written by "
        f"{escaped(source.writer)}, {_digests(source)}"
    ]
    if report.output:
        output = report.output
        lines.append(f"- output: `{_code(output.path)}`, {_digests(output)}")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines.append(f"- modelcut {report.modelcut}, seed {report.seed}, {versions}")
    return lines


def _digests(file: Input | Output) -> str:
    """What the file is known again by."""
    found = f"BLAKE3 `{file.blake3}`"
    return f"{found}, SHA-256 `{file.sha256}`" if file.sha256 else found


def escaped(text: str) -> str:
    """Text in which nothing is markup."""
    text = html.escape(printable(str(text), 400), quote=False)
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return text


def _code(text: str) -> str:
    return printable(str(text), 400).replace("`", "'").replace("|", "\\|")

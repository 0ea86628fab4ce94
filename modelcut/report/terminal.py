"""The report on the terminal: Rich tables on a terminal, plain aligned text in a pipe or a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TextIO

from modelcut.report.cells import Table
from modelcut.report.fitting import columns_of, fitted
from modelcut.report.schema import Report
from modelcut.report.tables import tables
from modelcut.safety import printable


def show(report: Report, stream: TextIO | None = None, *, layers: bool = False) -> None:
    """Prints the tables, what was left out, and the warnings.

    Args:
        report: the report.
        stream: where they are printed; None: stdout.
        layers: a row for each layer in place of one for each tensor.
    """
    stream = stream or sys.stdout
    for line in report.notes:
        print(f"note: {printable(line, 300)}", file=stream)
    draw(tables(report, layers=layers), stream)
    for line in report.output.dropped if report.output else ():
        print(f"left out: {printable(line, 300)}", file=stream)
    for line in report.warnings:
        print(f"warning: {printable(line, 300)}", file=stream)


def draw(found: Iterable[Table], stream: TextIO | None = None) -> None:
    """Prints tables, those without rows left out."""
    stream = stream or sys.stdout
    for table in found:
        if table.rows:
            (_rich if stream.isatty() else _plain)(table, stream)
        if table.text:
            lines = (printable(line, 400) for line in table.text.splitlines())
            print(*lines, sep="\n", end="\n\n", file=stream)


def _rich(table: Table, stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=stream)
    table = fitted(_short(table), console.width)
    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(table.columns):
        left = index == 0 or column in table.left
        drawn.add_column(column, justify="left" if left else "right", no_wrap=not left)
    for row in table.rows:
        # Text, not str: a layer named "[red]" is a name, not markup.
        drawn.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console.print(drawn)
    if table.note:
        console.print(Text(table.note, style="dim"))
        console.print()


_MOST_ROWS = 200
"""Of a table on a terminal: more push all else out of sight."""


def _short(table: Table) -> Table:
    """A table whose last rows are only counted where there are very many."""
    left_out = len(table.rows) - _MOST_ROWS
    if left_out <= 0:
        return table
    more = f"{left_out:,} more rows: the page, --json and a pipe have all"
    note = f"{more}; {table.note}" if table.note else more
    return replace(table, rows=table.rows[:_MOST_ROWS], note=note)


def _style(cell: str) -> str:
    return {"FAILED": "bold red", "passed": "green"}.get(cell, "")


def _plain(table: Table, stream: TextIO) -> None:
    rows = [table.columns, *table.rows]
    widths = [max(columns_of(row[i]) for row in rows) for i in range(len(table.columns))]
    print(table.title, file=stream)
    for row in rows:
        cells = [
            cell + " " * (width - columns_of(cell))
            if i == 0 or column in table.left
            else " " * (width - columns_of(cell)) + cell
            for i, (cell, width, column) in enumerate(zip(row, widths, table.columns, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip(), file=stream)
    if table.note:
        print(f"  ({table.note})", file=stream)
    print(file=stream)

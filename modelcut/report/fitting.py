"""Tables as wide as a terminal: names shortened in the middle, columns dropped by importance."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

from modelcut.report.cells import Table

_GAP = 3
_SHORTEST = 24
"""Columns that a name keeps at least."""


def fitted(table: Table, width: int) -> Table:
    """The table, no wider than this where that can be.

    First the names in the first column are shortened, then the columns that the table lists in
    `drop` are left out, which the note tells.

    Args:
        table: the table.
        width: columns of the terminal.
    """
    dropped: list[str] = []
    droppable = [name for name in table.drop if name in table.columns]
    while True:
        found = _shortened(table, width)
        if _width(found) <= width or not droppable:
            break
        name = droppable.pop(0)
        dropped.append(name)
        place = table.columns.index(name)
        table = replace(
            table,
            columns=(*table.columns[:place], *table.columns[place + 1 :]),
            rows=[(*row[:place], *row[place + 1 :]) for row in table.rows],
        )
    if dropped:
        told = f"not shown at this width: {', '.join(dropped)}"
        found = replace(found, note="; ".join(filter(None, (found.note, told))))
    return found


def _widths(table: Table) -> list[int]:
    rows = [table.columns, *table.rows]
    return [max(columns_of(row[i]) for row in rows) for i in range(len(table.columns))]


def _width(table: Table) -> int:
    return sum(_widths(table)) + _GAP * (len(table.columns) - 1) + 2


def _shortened(table: Table, width: int) -> Table:
    """The table with shorter names of layers and classes, as far as that helps."""
    over = _width(table) - width
    if over <= 0 or not table.rows:
        return table
    for place, least in ((0, _SHORTEST), *((table.columns.index(n), 12) for n in _also(table))):
        longest = max(least, _widths(table)[place] - max(0, over))
        over -= max(0, _widths(table)[place] - longest)
        rows = [
            (*row[:place], middle(row[place], longest), *row[place + 1 :]) for row in table.rows
        ]
        table = replace(table, rows=rows)
    return table


def _also(table: Table) -> list[str]:
    """Further columns of names; what others say would be lost."""
    return [name for name in ("class",) if name in table.columns[1:]]


def middle(text: str, width: int) -> str:
    """A text of at most so many columns: "block1_conv…/kernel"."""
    if columns_of(text) <= width:
        return text
    left = right = ""
    head, tail = 0, len(text) - 1
    room = width - 1
    while head <= tail:  # the end tells more than the middle: both grow in turn
        for letter, ends in ((text[tail], True), (text[head], False)):
            room -= columns_of(letter)
            if room < 0:
                return f"{left}…{right}"
            if ends:
                right, tail = letter + right, tail - 1
            else:
                left, head = left + letter, head + 1
    return text


def columns_of(text: str) -> int:
    """Columns that a text takes on a terminal: two for a letter of Chinese, none for an accent."""
    return sum(
        0
        if unicodedata.combining(letter)
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )

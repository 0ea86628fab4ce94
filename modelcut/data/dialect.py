"""How a CSV is written: what is between cells, the decimal mark, and whether it has a header.

What is not said is recognized in the first lines, by the rows that they make under each delimiter.
What was recognized and may be mistaken is a note for the user.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcut.data.options import DataOptions
from modelcut.data.source import MAX_COLUMNS, MAX_LINE_BYTES, is_nonfinite, is_number, open_bytes
from modelcut.errors import InputError
from modelcut.safety import printable

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE_BYTES = 1 << 18
_SAMPLE_ROWS = 200
_AGREEING = 0.75
"""This part of the first rows must have as many cells as the first."""
_DECIMAL_COMMA = re.compile(r"^\s*[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?\s*$", re.ASCII)
_WHOLE = re.compile(r"^\d{1,9}$", re.ASCII)
_INTEGER = re.compile(r"^[+-]?\d+$", re.ASCII)
_SURE_COUNT = 4
"""So many consecutive numbers from 0 or 1 are names."""

csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))


@dataclass(frozen=True)
class CsvDialect:
    """How one CSV is written.

    Attributes:
        delimiter: character between two cells.
        decimal: decimal separator, "." or ",".
        header: whether the first line holds the names.
        start: bytes before the first row of data.
        first: the cells of the first line, trimmed.
        rows: some of the rows that follow it, trimmed.
        notes: what was recognized and is no matter of course, for the user.
    """

    delimiter: str
    decimal: str
    header: bool
    start: int
    first: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, options: DataOptions) -> CsvDialect:
        """Looks at the first lines.

        Raises:
            InputError: no text, no rows, a line or a table beyond the limits.
        """
        text, mark, whole = _sample(path)
        notes = []
        line = text[: min((n for n in map(text.find, "\r\n") if n >= 0), default=len(text))]
        if line.count(",") >= MAX_COLUMNS:
            raise InputError(f"{path}: has more than {MAX_COLUMNS:,} columns")
        if options.delimiter == "auto":
            delimiter = _delimiter(text)
            if delimiter != ",":
                said = _DELIMITERS[delimiter]
                notes.append(f"{path}: cells are separated by {said}; --delimiter says otherwise")
        else:
            delimiter = options.delimiter
        records = list(_records(text, delimiter, path, _SAMPLE_ROWS))
        if not whole and 2 < len(records) < _SAMPLE_ROWS:
            records.pop()  # it may be cut
        if not records:
            raise InputError(f"{path}: has no rows")
        (begin, end, first), rows = records[0], [row for _, _, row in records[1:]]
        if len(first) > MAX_COLUMNS:
            raise InputError(f"{path}: has more than {MAX_COLUMNS:,} columns")
        decimal = _decimal([first, *rows]) if delimiter != "," else "."
        if decimal == ",":
            notes.append(f"{path}: decimal commas, as in 1,5, are read as decimal points")
        header = options.header
        if header == "auto":
            header, note = _has_header(first, rows, decimal)
            notes += [f"{path}: {note}"] if note else []
        if header and not rows:
            raise InputError(f"{path}: has a header and no rows")
        start = mark + (end if header else begin)
        return cls(delimiter, decimal, bool(header), start, first, rows, tuple(notes))

    def plain(self, cell: str) -> str:
        """A cell with its decimal comma as a point, where the file has decimal commas."""
        return cell.replace(",", ".") if self.decimal == "," and is_comma_number(cell) else cell


def is_comma_number(cell: str) -> bool:
    """Whether a cell is a number with a decimal comma."""
    return bool(_DECIMAL_COMMA.match(cell))


def _sample(path: Path) -> tuple[str, int, bool]:
    """Lines from the beginning of a file, the bytes of its BOM, and whether it has no others.

    Raises:
        InputError: binary data, no UTF-8, a line beyond the limit.
    """
    data, size, whole = b"", _SAMPLE_BYTES, False
    with open_bytes(path) as raw:
        file = io.BufferedReader(raw, 1 << 16) if isinstance(raw, io.RawIOBase) else raw
        while not whole and (not data or len(_ENDS.findall(data)) < 3):
            if len(data) > 2 * MAX_LINE_BYTES:
                raise InputError(f"{path}:1: a line of more than {MAX_LINE_BYTES >> 20} MiB")
            more = file.read(size)
            whole, size = len(more) < size, 2 * size
            data += more
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: is UTF-16 text", "save the CSV as UTF-8")
    mark = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    if not whole:  # the last line may be cut, even inside a character
        data = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
    if b"\0" in data:
        line = 1 + len(_ENDS.findall(data[: data.index(b"\0")]))
        raise InputError(f"{path}:{line}: is binary data, not a CSV")
    try:
        return data[mark:].decode(), mark, whole
    except UnicodeDecodeError as error:
        line = 1 + len(_ENDS.findall(data[mark : mark + error.start]))
        raise InputError(f"{path}:{line}: is not UTF-8 text", "save the CSV as UTF-8") from None


_ENDS = re.compile(rb"\r\n|\r|\n")


def _records(
    text: str, delimiter: str, path: Path | None, most: int
) -> Iterator[tuple[int, int, list[str]]]:
    """Rows with the bytes before and behind them; of text that is no CSV, what precedes that."""
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for line in io.StringIO(text, newline=""):
            taken += len(line.encode())
            yield line

    begin = found = 0
    try:
        for row in csv.reader(lines(), delimiter=delimiter):
            if row:
                yield begin, taken, [cell.strip() for cell in row]
                found += 1
            begin = taken
            if found >= most:
                return
    except csv.Error as error:
        if path is not None and not found:
            raise InputError(f"{path}:1: not valid CSV: {error}") from None


def _delimiter(text: str) -> str:
    """The delimiter that makes a table of the first rows, with the most numbers in it.

    Commas, unless another one does better: text is full of other marks.
    """
    best, chosen = -1.0, ","
    for delimiter in _DELIMITERS:
        rows = [row for _, _, row in _records(text, delimiter, None, 20)]
        width = len(rows[0]) if rows else 0
        alike = [row for row in rows if len(row) == width]
        if width < 2 or len(alike) < _AGREEING * len(rows):
            continue
        cells = [cell for row in alike for cell in row]
        # A decimal comma is no number where the comma is the delimiter: it cuts it in two.
        good = sum(is_number(c) or (delimiter != "," and is_comma_number(c)) for c in cells)
        score = good / len(cells)
        if score > best:
            best, chosen = score, delimiter
    return chosen


def _decimal(rows: Sequence[Sequence[str]]) -> str:
    """The decimal mark: a comma where numbers have one, and none has a point."""
    cells = [cell for row in rows for cell in row]
    commas = any(is_comma_number(cell) for cell in cells)
    points = any("." in cell and is_number(cell) for cell in cells)
    return "," if commas and not points else "."


def _has_header(
    first: Sequence[str], rows: Sequence[Sequence[str]], decimal: str
) -> tuple[bool, str]:
    """Whether the first line holds names, and what the user should know of that."""

    def number(cell: str) -> bool:
        return is_number(cell) or (decimal == "," and is_comma_number(cell))

    if all(number(c) or is_nonfinite(c) or not c for c in first):
        return _numbered(first, rows)
    # A table of text labels has text in every row: then only names make a header.
    if rows and len(rows[0]) == len(first):
        over = zip(first, rows[0], strict=True)
        named = any(not number(a) and (number(b) or not b) for a, b in over)
        return named or not any(number(a) for a in first), ""
    return True, ""


def _numbered(first: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Whether a first line of numbers only holds names: those of a table that has none else."""
    index = len(first) > 2 and not first[0]  # pandas leaves the name of its index empty
    cells = first[1:] if index else first
    same = [row for row in rows if len(row) == len(first)]
    if len(cells) < 2 or not same or not all(_WHOLE.match(cell) for cell in cells):
        return False, ""
    shown = printable(", ".join(first[:3]), 40) + (" …" if len(first) > 3 else "")
    # Of windows over a counter, every row looks like this.
    sure = index or len(cells) >= _SURE_COUNT
    if sure and _counts(cells, (0, 1)) and not _counts(same[0][index:], None):
        return True, f"the first line, {shown}, is read as names; --header false says otherwise"
    # Whole numbers, each another, where all columns but the labels have fractions.
    broken = sum(not any(_INTEGER.match(row[i]) for row in same) for i in range(len(first)))
    unlike = len(set(cells)) == len(cells) and broken >= max(1, len(cells) - 1)
    if unlike:
        note = f"the first line, {shown}, is read as a row; are these names? --header true"
        return False, note
    return False, ""


def _counts(cells: Sequence[str], starts: tuple[int, ...] | None) -> bool:
    """Whether cells are consecutive whole numbers, from one of `starts` if these are given."""
    if not all(_WHOLE.match(cell) for cell in cells):
        return False
    begin = int(cells[0])
    if starts is not None and begin not in starts:
        return False
    return [int(cell) for cell in cells] == list(range(begin, begin + len(cells)))

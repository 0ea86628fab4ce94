"""The cells of a CSV, parsed block by block.

pyarrow reads and parses. Its parser is strict where Python's is lax (0x10, 1_000, digits of other
scripts are no numbers); where it refuses a block, the cells are looked at one by one, to tell
which row is to be dropped, or which cell it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.data.columns import Columns
from modelcut.data.source import MAX_LINE_BYTES, is_nonfinite, is_number, lines, open_bytes
from modelcut.errors import InputError
from modelcut.safety import printable

_BLOCK_BYTES = 8 << 20
MISSING, NONFINITE, UNREADABLE = 1, 2, 3
_NULLS = ("nan", "NaN", "NAN", "-nan")
_HINT = "--clean drop leaves bad rows out"


@dataclass(frozen=True)
class Block:
    """Parsed rows.

    Attributes:
        features: (rows, columns), float64; objects where some columns are text.
        bad: (rows, columns), what is wrong with each cell; 0 where nothing is.
        labels: float64 or objects (rows, label columns); None without labels.
        bad_labels: (rows,), likewise for the labels of a row.
    """

    features: np.ndarray
    bad: np.ndarray
    labels: np.ndarray | None
    bad_labels: np.ndarray


class Blocks:
    """Reads the rows anew each time it is iterated over.

    Raises:
        InputError: a bad cell where `clean` is "fail", or text that is no CSV.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._done = 0

    def __iter__(self) -> Iterator[Block]:
        import pyarrow as pa

        self._done = 0
        # Some blocks are read ahead, and numbers take more room than their text.
        size = min(_BLOCK_BYTES, max(_BLOCK_BYTES >> 3, len(self._columns.names) << 10))
        numeric = True
        while True:
            try:
                yield from self._blocks(size, numeric=numeric)
                return
            except (MemoryError, pa.ArrowCancelled):
                raise
            except pa.ArrowException as error:
                why = " ".join(str(error).split())[:120]
            # Again from the row that is next: a row is longer than a block, or a cell does not
            # parse, and then the careful way.
            if "straddl" in why and size < MAX_LINE_BYTES:
                size = min(MAX_LINE_BYTES, 2 * size)
                continue
            if "straddl" in why:
                why = (
                    f"a row of more than {MAX_LINE_BYTES >> 20} MiB, or a quote that is not closed"
                )
            failing = self._columns.options.clean == "fail"
            what = self._complaint(cells=failing) if failing or not numeric else ""
            if what or failing or not numeric:
                what = what or f"{self._columns.path}: not valid CSV: {why}"
                raise InputError(what, _HINT if failing and numeric else "")
            numeric = False

    def _blocks(self, size: int, *, numeric: bool) -> Iterator[Block]:
        skip = self._done
        for whole in self._read(size, numeric=numeric):
            if skip >= whole.num_rows:
                skip -= whole.num_rows
                continue
            batch, skip = whole.slice(skip), 0
            block = self._parsed(batch) if numeric else self._careful(batch)
            if self._columns.options.clean == "fail" and (
                block.bad.any() or block.bad_labels.any()
            ):
                raise InputError(self._complaint(cells=True) or self._somewhere(block), _HINT)
            self._done += batch.num_rows
            yield block

    def _somewhere(self, block: Block) -> str:
        """Which row is bad, where reading it once more does not tell."""
        worst = block.bad.max(axis=1, initial=0) + block.bad_labels
        row = self._done + 1 + int(np.flatnonzero(worst)[0])
        return f"{self._columns.path}: row {row} of data holds a cell that is not a finite number"

    def _read(self, size: int, *, numeric: bool) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv

        columns = self._columns
        keys = [str(index) for index in range(len(columns.names))]
        numbers = set(columns.numeric()) if numeric else set()
        used = sorted({*columns.labels, *columns.order()})
        with open_bytes(columns.path) as file:
            _skip(file, columns.dialect.start)
            yield from csv.open_csv(
                pa.PythonFile(file, "r"),
                read_options=csv.ReadOptions(
                    column_names=keys,
                    block_size=size,
                    use_threads=True,
                ),
                parse_options=csv.ParseOptions(
                    delimiter=columns.dialect.delimiter, newlines_in_values=True
                ),
                convert_options=csv.ConvertOptions(
                    include_columns=[keys[i] for i in used],
                    column_types={
                        keys[i]: pa.float64() if i in numbers else pa.string() for i in used
                    },
                    null_values=["", *_NULLS],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                    decimal_point=columns.dialect.decimal,
                ),
            )

    def _parsed(self, batch: Any) -> Block:
        columns = self._columns
        order, numeric = columns.order(), set(columns.numeric())
        text = len(numeric) < len(order)
        features = np.empty((batch.num_rows, len(order)), object if text else np.float64)
        bad = np.zeros(features.shape, np.uint8)
        for position, column in enumerate(order):
            values = batch.column(str(column))
            if column in numeric:
                features[:, position] = values.to_numpy(zero_copy_only=False)
                if text:
                    numbers = features[:, position].astype(np.float64)
                    bad[:, position] = _wrong(numbers, columns.limits[column])
            else:
                features[:, position], bad[:, position] = _words(values)
        if not text:
            bad = _wrong(features, [columns.limits[column] for column in order])
        return Block(features, bad, *self._labels_of(batch))

    def _careful(self, batch: Any) -> Block:
        """Cell by cell, for blocks that hold something unreadable."""
        columns = self._columns
        order, numeric = columns.order(), set(columns.numeric())
        text = len(numeric) < len(order)
        features = np.full(
            (batch.num_rows, len(order)), "" if text else 0.0, object if text else float
        )
        bad = np.zeros(features.shape, np.uint8)
        for position, column in enumerate(order):
            values = batch.column(str(column))
            if column not in numeric:
                features[:, position], bad[:, position] = _words(values)
                continue
            for row, cell in enumerate(values.to_pylist()):
                number, bad[row, position] = self._number(cell or "", columns.limits[column])
                features[row, position] = number
        return Block(features, bad, *self._labels_of(batch))

    def _number(self, cell: str, limits: tuple[float, float]) -> tuple[float, int]:
        """The number in a cell, and what is wrong with it."""
        dialect = self._columns.dialect
        if dialect.decimal == "," and "." in cell:
            return 0.0, UNREADABLE
        cell = dialect.plain(cell)
        if is_number(cell):
            low, high = limits
            return float(cell), 0 if low <= float(cell) <= high else NONFINITE
        if not cell.strip():
            return 0.0, MISSING
        return 0.0, NONFINITE if is_nonfinite(cell) else UNREADABLE

    def _labels_of(self, batch: Any) -> tuple[np.ndarray | None, np.ndarray]:
        """Labels as numbers where all of them are, else as text; and what is wrong with them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        bad = np.zeros(batch.num_rows, np.uint8)
        if not self._columns.labels:
            return None, bad
        dialect, parts = self._columns.dialect, []
        for column in self._columns.labels:
            cells = pc.utf8_trim_whitespace(batch.column(str(column)))
            cells = pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)
            plain = cells
            if dialect.decimal == ",":
                plain = [dialect.plain(cell or "") or None for cell in cells.to_pylist()]
            try:
                numbers = pc.cast(pa.array(plain, pa.string()), pa.float64())
            except pa.ArrowInvalid:
                text, wrong = _words(cells)
                parts.append(text)
            else:
                parts.append(numbers.to_numpy(zero_copy_only=False))
                wrong = _wrong(parts[-1], self._columns.limits[column])
            bad = np.maximum(bad, wrong)
        if any(part.dtype == object for part in parts):
            parts = [part.astype(object) for part in parts]
        return np.stack(parts, axis=1), bad

    def _complaint(self, *, cells: bool) -> str:
        """Where and what the first bad row is, or the first bad cell; "" if none is found."""
        # Cells of rows that the fast reader has parsed are good; if it counts otherwise, once more.
        found = self._bad(cells=cells, after=self._done)
        return found or (self._bad(cells=True, after=0) if cells and self._done else "")

    def _bad(self, *, cells: bool, after: int) -> str:
        """What is bad, where the cells of so many rows of data are not looked at."""
        columns = self._columns
        path, names = columns.path, columns.names
        numeric = set(columns.numeric())
        checked = numeric | set(columns.labels)
        rows = lines(path, columns.dialect.delimiter)
        for index, (number, row) in enumerate(rows, start=0 if columns.header else 1):
            if index == 0:
                continue
            if len(row) != len(names):
                return f"{path}:{number}: {len(row)} cells, not {len(names)}"
            looked = cells and index > after
            for column in (*columns.order(), *columns.labels) if looked else ():
                wrong = self._number(row[column], columns.limits[column])[1]
                missing = wrong == MISSING or row[column] in _NULLS
                if missing and column in columns.labels:
                    return f"{path}:{number}: has no label"
                what = f"{path}:{number}: column {printable(names[column], 40)!r}"
                if wrong == MISSING:
                    return f"{what} is empty"
                shown = f"{what} holds {printable(row[column], 40)!r}"
                if wrong == NONFINITE and column in checked and is_number(row[column]):
                    return f"{shown}, beyond the range of {columns.dtype_of(column)}"
                if column in numeric and wrong:
                    return f"{shown}, not a finite number"
                if missing or (wrong == NONFINITE and column in checked):
                    return f"{shown}, which is no value"
        return ""


def _skip(file: Any, count: int) -> None:
    """Reads over some bytes."""
    while count > 0:
        data = file.read(min(count, 1 << 20))
        if not data:
            return
        count -= len(data)


def _wrong(numbers: np.ndarray, limits: Any) -> np.ndarray:
    """What is wrong with parsed numbers, NaN for missing ones, of which each has its limits."""
    low, high = np.moveaxis(np.asarray(limits), -1, 0)
    bad = np.zeros(numbers.shape, np.uint8)
    bad[~((numbers >= low) & (numbers <= high))] = NONFINITE
    bad[np.isnan(numbers)] = MISSING
    return bad


def _words(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cells of text, trimmed, and which of them are missing."""
    import pyarrow.compute as pc

    cells = pc.utf8_trim_whitespace(values).to_pylist()
    words = np.empty(len(cells), object)
    words[:] = [cell or "" for cell in cells]
    return words, np.array([0 if cell else MISSING for cell in cells], np.uint8)

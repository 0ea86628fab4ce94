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
from modelcut.data.source import complaint, is_nonfinite, is_number, open_bytes
from modelcut.errors import InputError

_BLOCK_BYTES = 8 << 20
MISSING, NONFINITE, UNREADABLE = 1, 2, 3


@dataclass(frozen=True)
class Block:
    """Parsed rows: features (rows, columns), what is wrong with each cell, labels."""

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

        columns = self._columns
        self._done = 0
        try:
            for batch in self._read(numeric=True):
                block = self._parsed(batch)
                if block.bad.any() or block.bad_labels.any():
                    self._refuse_if_failing()
                self._done += len(block.features)
                yield block
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            # A cell that does not parse: the careful way, from the start of its block.
            self._refuse_if_failing(structural=str(error))
            skip = self._done
            try:
                for batch in self._read(numeric=False):
                    if skip >= batch.num_rows:
                        skip -= batch.num_rows
                        continue
                    block = self._careful(batch.slice(skip))
                    skip = 0
                    self._done += len(block.features)
                    yield block
            except pa.ArrowInvalid as again:
                raise InputError(_complaint(columns, []) or _not_csv(columns, again)) from None

    def _refuse_if_failing(self, structural: str = "") -> None:
        """Says which cell is bad, where bad cells are an error."""
        columns = self._columns
        if columns.options.clean != "fail":
            return
        what = _complaint(columns, columns.numeric())
        if not what and structural:
            what = _not_csv(columns, structural)
        if what:
            raise InputError(what, "--clean drop leaves bad rows out")

    def _read(self, *, numeric: bool) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv

        columns = self._columns
        keys = [str(index) for index in range(len(columns.names))]
        numbers = set(columns.numeric()) if numeric else set()
        used = sorted({*columns.labels, *columns.order()})
        # Some blocks are read ahead, and numbers take more room than their text.
        size = min(_BLOCK_BYTES, max(_BLOCK_BYTES >> 3, len(keys) << 10))
        with open_bytes(columns.path) as file:
            yield from csv.open_csv(
                pa.PythonFile(file, "r"),
                read_options=csv.ReadOptions(
                    column_names=keys,
                    skip_rows=int(columns.header),
                    block_size=size,
                    use_threads=True,
                ),
                parse_options=csv.ParseOptions(
                    delimiter=columns.options.delimiter, newlines_in_values=False
                ),
                convert_options=csv.ConvertOptions(
                    include_columns=[keys[i] for i in used],
                    column_types={
                        keys[i]: pa.float64() if i in numbers else pa.string() for i in used
                    },
                    null_values=["", "nan", "NaN", "NAN", "-nan"],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )

    def _parsed(self, batch: Any) -> Block:
        numeric = set(self._columns.numeric())
        order = self._columns.order()
        text = len(numeric) < len(order)
        features = np.empty((batch.num_rows, len(order)), object if text else np.float64)
        for position, column in enumerate(order):
            values = batch.column(str(column)).to_numpy(zero_copy_only=False)
            features[:, position] = values
        bad = np.zeros(features.shape, np.uint8)
        if not text:
            bad[~np.isfinite(features)] = NONFINITE
            bad[np.isnan(features)] = MISSING
        labels, bad_labels = self._labels_of(batch)
        return Block(features, bad, labels, bad_labels)

    def _careful(self, batch: Any) -> Block:
        """Cell by cell, for blocks that hold something unreadable."""
        order = self._columns.order()
        numeric = set(self._columns.numeric())
        text = len(numeric) < len(order)
        features = np.full(
            (batch.num_rows, len(order)), "" if text else 0.0, object if text else float
        )
        bad = np.zeros(features.shape, np.uint8)
        for position, column in enumerate(order):
            for row, cell in enumerate(batch.column(str(column)).to_pylist()):
                if column not in numeric:
                    features[row, position] = cell or ""
                elif cell is None:
                    bad[row, position] = MISSING
                elif is_number(cell):
                    features[row, position] = float(cell)
                else:
                    bad[row, position] = NONFINITE if is_nonfinite(cell) else UNREADABLE
        labels, bad_labels = self._labels_of(batch)
        return Block(features, bad, labels, bad_labels)

    def _labels_of(self, batch: Any) -> tuple[np.ndarray | None, np.ndarray]:
        """Labels as numbers where all of them are, else as text; and which are missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        missing = np.zeros(batch.num_rows, bool)
        if not self._columns.labels:
            return None, missing
        parts = []
        for column in self._columns.labels:
            values = batch.column(str(column))
            missing |= values.is_null().to_numpy(zero_copy_only=False)
            try:
                numbers = pc.cast(pc.utf8_trim_whitespace(values), pa.float64())
                parts.append(numbers.to_numpy(zero_copy_only=False).astype(object))
            except pa.ArrowInvalid:
                parts.append(np.array([v or "" for v in values.to_pylist()], dtype=object))
        if missing.any() and self._columns.options.clean == "fail":
            row = int(np.flatnonzero(missing)[0]) + self._done + 1 + self._columns.header
            raise InputError(
                f"{self._columns.path}:{row}: has no label", "--clean drop leaves such rows out"
            )
        table = np.stack(parts, axis=1)
        if not any(isinstance(value, str) for value in table.ravel()):
            return table.astype(np.float64), missing
        return table, missing


def _not_csv(columns: Columns, why: object) -> str:
    return f"{columns.path}: not valid CSV: {' '.join(str(why).split())[:120]}"


def _complaint(columns: Columns, numeric: list[int]) -> str:
    """Where the first bad cell is, of those that must be numbers, or the first bad row."""
    delimiter = columns.options.delimiter
    return complaint(columns.path, delimiter, columns.names, numeric, header=columns.header)

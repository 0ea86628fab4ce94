"""Samples in Parquet: columns as in a CSV, with types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelcut.data.blocks import Block, Blocks
from modelcut.data.columns import Columns
from modelcut.data.csv import Csv
from modelcut.data.dialect import CsvDialect
from modelcut.data.options import DataOptions, InputSpec
from modelcut.data.source import MAX_COLUMNS
from modelcut.errors import InputError, UsageError
from modelcut.safety import check_path, printable

_ROWS = 4096
_HINT = "--clean drop leaves bad rows out"


def open_table(
    path: Path, options: DataOptions, inputs: Sequence[InputSpec], *, labelled: bool = True
) -> Parquet:
    """Looks at the schema and the first rows, and joins columns to inputs; see `Columns.join`.

    Raises:
        InputError: not Parquet, or its columns do not fit the model.
        UsageError: an option names what is not there, or is for text.
    """
    check_path(path)
    for name, plain in (("delimiter", "auto"), ("header", "auto")):
        if getattr(options, name) != plain:
            raise UsageError(f"--{name} is for a CSV, and {path} is Parquet", "leave it out")
    columns = Columns.join(path, options, inputs, labelled=labelled, dialect=_dialect(path))
    _check_types(path, columns)
    return Parquet(columns, warnings=list(columns.notes))


class Parquet(Csv):
    """See `csv.Csv`; only the blocks come from elsewhere."""

    def blocks(self) -> Blocks:
        return _Blocks(self.columns)


class _Blocks(Blocks):
    """See `blocks.Blocks`."""

    def __iter__(self) -> Iterator[Block]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = self._columns
        path = columns.path
        numeric = set(columns.numeric())
        used = sorted({*columns.labels, *columns.order()})
        done = 0
        try:
            with pq.ParquetFile(path) as file:
                names = [columns.names[index] for index in used]
                for batch in file.iter_batches(_ROWS, columns=names):
                    parts = [
                        batch.column(columns.names[index]).cast(
                            pa.float64() if index in numeric else pa.string()
                        )
                        for index in used
                    ]
                    whole = pa.RecordBatch.from_arrays(parts, [str(index) for index in used])
                    block = self._parsed(whole)
                    if columns.options.clean == "fail" and (
                        block.bad.any() or block.bad_labels.any()
                    ):
                        self._done = done
                        raise InputError(self._somewhere(block), _HINT)
                    done += whole.num_rows
                    yield block
        except pa.ArrowException as error:
            why = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: damaged Parquet: {why}") from None


def _dialect(path: Path) -> CsvDialect:
    """The names and some rows, as those of a CSV are told.

    Raises:
        InputError: it is no Parquet file, or has no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if len(names) > MAX_COLUMNS:
                raise InputError(f"{path}: has more than {MAX_COLUMNS:,} columns")
            first = next(file.iter_batches(20), None)
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: cannot be read as Parquet: {why}") from None
    if first is None or not first.num_rows:
        raise InputError(f"{path}: holds no rows")
    rows = [[str(cell) for cell in row.values()] for row in first.to_pylist()]
    return CsvDialect(",", ".", True, 0, names, rows, ())


def _check_types(path: Path, columns: Columns) -> None:
    """Refuses columns of the wrong types before any work.

    Raises:
        InputError: a column for numbers holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: Any = pa.types
    schema = pq.read_schema(path)
    for index in columns.numeric():
        name = columns.names[index]
        kind = schema.field(name).type
        if not (
            kinds.is_integer(kind)
            or kinds.is_floating(kind)
            or kinds.is_boolean(kind)
            or kinds.is_decimal(kind)
        ):
            raise InputError(
                f"{path}: column {printable(name, 40)!r} holds {kind}, not numbers",
                "--label names the label column, --inputs the columns of each input",
            )

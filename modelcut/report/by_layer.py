"""What is in a model, a row for each layer: what `modelcut inspect` shows."""

from __future__ import annotations

from modelcut.report.cells import Table, count, or_dash, percent, size
from modelcut.report.schema import LayerRow, Report, TensorRow
from modelcut.safety import printable


def table(report: Report) -> Table:
    """The layers that have tensors or compute something; others are counted below."""
    shown = [layer for layer in report.layers if layer.tensors or layer.macs_before]
    columns = ["layer", "class", "shape", "parameters", "zeros", "MACs", "bytes", "encoding"]
    rows = [_cells(layer) for layer in shown]
    if not any(layer.macs_before is not None for layer in shown):  # as in a .tflite
        place = columns.index("MACs")
        columns.pop(place)
        rows = [(*row[:place], *row[place + 1 :]) for row in rows]
    others = len(report.layers) - len(shown)
    note = "shape: of the largest tensor; bytes: a plain fixed-length writing of the encoding"
    note += f"; {others} layers without parameters" if others else ""
    return Table(
        "Layers",
        tuple(columns),
        rows,
        left=("class", "encoding"),
        note=note,
        drop=("zeros", "shape", "class"),
    )


def _cells(layer: LayerRow) -> tuple[str, ...]:
    sums = [tensor.after or tensor.before for tensor in layer.tensors]
    values, nonzeros = sum(each.size for each in sums), sum(each.nonzeros for each in sums)
    largest = max(layer.tensors, key=lambda tensor: tensor.before.size, default=None)
    return (
        printable(layer.name, 80),
        printable(layer.class_name, 24),
        ("×".join(map(str, largest.shape)) or "scalar") if largest else "–",
        count(values),
        percent(1 - nonzeros / values) if values else "–",
        or_dash(layer.macs_before, count),
        size(sum(each.bits for each in sums) / 8),
        _encoding(layer.tensors),
    )


def _encoding(tensors: tuple[TensorRow, ...]) -> str:
    """The encodings of the largest tensors first; "dense" only where there is no other."""
    ordered = sorted(tensors, key=lambda tensor: -tensor.before.size)
    names = list(dict.fromkeys(tensor.encoding for tensor in ordered))
    return "; ".join([name for name in names if name != "dense"] or names) or "–"

"""Tables on narrow terminals."""

from __future__ import annotations

import io
import json
import re

import pytest
from toys import MODELS

from modelcut.report import terminal
from modelcut.report.cells import Table
from modelcut.report.fitting import columns_of, fitted, middle

NAMES = ("block_1_expand_and_project_convolution/kernel", "卷积层一/kernel", "[red]x[/red]/bias")
TABLE = Table(
    "Layers",
    ("tensor", "class", "zeros", "encoding"),
    [(name, "DepthwiseConv2D", "50.0 %", "sparse, codebook of 16") for name in NAMES],
    left=("class", "encoding"),
    note="a note",
    drop=("class", "zeros"),
)


def widest(table, width):
    found = fitted(table, width)
    sums = [
        max(columns_of(row[i]) for row in (found.columns, *found.rows))
        for i in range(len(found.columns))
    ]
    return sum(sums) + 3 * (len(sums) - 1), found


@pytest.mark.parametrize("width", [80, 70, 60, 52])
def test_a_table_fits_and_keeps_what_matters(width):
    used, found = widest(TABLE, width)
    assert used <= width
    assert found.columns[0] == "tensor"
    assert found.columns[-1] == "encoding"
    assert all(row[-1] == "sparse, codebook of 16" for row in found.rows)
    assert all(row[0].endswith(("/kernel", "/bias")) for row in found.rows)
    missing = [name for name in TABLE.columns if name not in found.columns]
    assert missing == list(TABLE.drop)[: len(missing)]
    assert ("not shown at this width" in found.note) == bool(missing)


def test_a_wide_terminal_shows_all():
    assert fitted(TABLE, 200) is TABLE


def test_names_are_shortened_in_the_middle():
    assert middle("abcdefghij", 5) == "ab…ij"
    assert middle("abc", 5) == "abc"
    assert columns_of("卷积") == 4
    assert columns_of(middle("卷积层一二三四", 8)) <= 8


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("width", [80, 200])
def test_lines_are_no_wider_than_the_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    terminal.draw([TABLE], stream)
    text = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    lines = text.splitlines()
    assert max(map(columns_of, lines)) <= width
    assert "[red]x[/red]/bias" in text
    for line in lines[3:-3]:  # shortened once, and not cut again
        assert line.count("…") <= 2, line
        assert not line.split()[0].endswith("…") or not line.strip(), line
    assert (NAMES[0] in text) == (width == 200)


def test_inspect_has_a_row_for_each_layer(modelcut):
    path = MODELS / "keras3_cnn.h5"
    report = json.loads(modelcut("inspect", path, "--json").out)
    text = modelcut("inspect", path).out
    rows = text.partition("\nLayers\n")[2].splitlines()
    assert rows[0].split() == [
        "layer", "class", "shape", "parameters", "zeros", "MACs", "bytes", "encoding",
    ]  # fmt: skip
    for layer in report["layers"]:
        if not layer["tensors"]:
            continue
        (row,) = [row.split() for row in rows if row.split()[:1] == [layer["name"]]]
        parameters = sum(tensor["before"]["size"] for tensor in layer["tensors"])
        assert f"{parameters:,}" in row
        if layer["macs_before"] is not None:
            assert f"{layer['macs_before']:,}" in row
    assert "conv2d/kernel" not in text
    assert "conv2d/kernel" in modelcut("inspect", path, "--tensors").out


def test_inspect_of_a_tflite(modelcut):
    text = modelcut("inspect", MODELS.parent / "tflite" / "int8.tflite").out
    table = text.partition("\nLayers\n")[2]
    assert "MACs" not in table  # nothing tells them
    assert table.count("int8") == 4
    assert "CONV_2D" in table

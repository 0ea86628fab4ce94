"""The forms of the report, of one that was made by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from modelcut.report import render, terminal
from modelcut.report.cells import count, number, percent, size
from modelcut.report.schema import LayerError, LayerErrors
from modelcut.report.tables import tables


def table(report, title, **more):
    (found,) = [each for each in tables(report, **more) if each.title == title]
    return [each.strip() for each in found.columns], [tuple(row) for row in found.rows], found


# Tables


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345, "12.3 kB"), (1.23e6, "1.23 MB"),
     (5e12, "5e+03 GB")],
)  # fmt: skip
def test_sizes_are_in_si_units(value, shown):
    assert size(value) == shown


def test_numbers():
    assert count(1234567.4) == "1,234,567"
    assert number(12.3456) == "12.3"
    assert percent(0.12345) == "12.3 %"


def test_the_summary_compares_before_and_after(made):
    columns, rows, _ = table(made, "Summary")
    assert columns == ["", "before", "after", "change"]
    assert rows == [
        ("file", "1 kB", "250 B", "÷ 4.00"),
        ("parameters as bytes", "400 B", "400 B", "="),
        ("… after deflate", "350 B", "120 B", "÷ 2.92"),
        ("parameters", "100", "100", "="),
        ("non-zero", "100", "40", "÷ 2.50"),
        ("bits per weight", "32", "12.8", "÷ 2.50"),
        ("multiply-accumulates", "90", "90", "="),
        ("accuracy", "0.9500", "0.9000", "-0.0500"),
        ("log loss", "0.1000", "0.2500", "+0.1500"),
        ("latency, one row, this host", "2 ms", "1 ms", "÷ 2.00"),
    ]


def test_the_summary_of_a_model_that_was_only_measured_has_one_column(made):
    alone = replace(made, output=None, steps=(), evaluation=None)
    columns, rows, _ = table(alone, "Summary")
    assert columns == ["", "value"]
    assert ("non-zero", "40") in rows


def test_against_another_model_the_columns_are_named(made):
    columns, _, _ = table(replace(made, against=made.input), "Summary")
    assert columns[1:] == ["reference", "model", "change"]


def test_the_ledger_has_a_row_for_each_stage(made):
    _, rows, _ = table(made, "Stage by stage")
    assert rows == [
        ("original", "100", "0.0 %", "32", "400 B", "350 B"),
        ("1 prune: magnitude", "100", "60.0 %", "12.8", "400 B", "120 B"),
    ]
    titles = [each.title for each in tables(replace(made, ledger=made.ledger[:1]))]
    assert "Stage by stage" not in titles


def test_layers_that_were_left_alone_are_listed_in_full_and_else_counted(made):
    one = ("one/kernel", "Dense", "8×10", "75.0 %", "0.250", "12.0", "9", "90 B", "sparse")
    _, rows, short = table(made, "Layers")
    assert rows == [one]
    assert "1 × excluded by 'two'" in short.note
    _, rows, _ = table(made, "Layers", full=True)
    assert rows[0] == one
    assert rows[1] == ("<b>|`two/kernel", "Dense", "10×2", "0.0 %", "–", "–", "32", "80 B", "dense")


def test_classes(made):
    _, rows, _ = table(made, "Classes")
    assert rows == [
        ("cat", "6", "1.0000", "0.7500", "1.0000", "0.7500"),
        ("dog", "4", "1.0000", "1.0000", "0.9000", "0.9000"),
    ]


def test_gates_passed_failed_and_not_measured(made):
    _, rows, _ = table(made, "Gates")
    assert rows == [
        ("max_bytes", "300", "250", "passed"),
        ("max_accuracy_drop", "0.01", "0.05", "FAILED"),
        ("min_r2", "0.5", "not measured", "FAILED"),
    ]
    assert not made.passed
    assert replace(made, gates=made.gates[:1]).passed


# JSON


def test_json_has_the_keys_of_the_schema_in_their_order(made):
    found = json.loads(render(made, "json"))
    assert list(found) == [
        "schema", "modelcut", "notes", "versions", "host", "input", "output", "recipe", "seed",
        "sizes", "ledger", "steps", "layers", "evaluation", "gates", "warnings",
    ]  # fmt: skip
    assert found["schema"] == "modelcut-report/1"
    assert found["sizes"]["before"]["parameters"] == 100
    assert found["sizes"]["after"]["stored_bytes"] == 170
    assert "stored_bytes" not in found["sizes"]["before"]
    assert found["ledger"][1]["stage"] == "1 prune: magnitude"
    assert found["layers"][0]["class"] == "Dense"
    assert found["layers"][0]["tensors"][0]["shape"] == [8, 10]
    assert found["layers"][0]["tensors"][0]["changes"][0]["nonzeros"] == 20
    assert found["gates"][2]["value"] is None


def test_json_says_null_where_json_has_no_number(made):
    gates = ({"name": "min_r2", "limit": 0.5, "value": float("nan"), "held": False},)
    text = render(replace(made, gates=gates, seed=None), "json")
    assert json.loads(text, parse_constant=pytest.fail)["gates"][0]["value"] is None
    assert text.endswith("}\n")


def test_bytes_that_are_no_text_do_not_stop_a_report(made):
    odd = replace(made, input=replace(made.input, path="a\udcff.h5"))
    for form in ("json", "md", "html"):
        render(odd, form).encode("utf-8")


# Markdown, HTML, terminal


def test_markdown(made):
    text = render(made, "md")
    lines = text.splitlines()
    assert lines[0] == "<!-- modelcut-report/1 -->"
    assert lines[1] == "# modelcut: a\\_model.h5, 1.6× smaller — 2 of 3 gates failed"
    assert "1. **prune: magnitude** sparsity: 0.75" in lines
    at = lines.index("## Gates")
    assert lines[at + 2 : at + 7] == [
        "| gate | limit | value |  |",
        "| --- | --: | --: | --: |",
        "| max\\_bytes | 300 | 250 | passed |",
        "| max\\_accuracy\\_drop | 0.01 | 0.05 | FAILED |",
        "| min\\_r2 | 0.5 | not measured | FAILED |",
    ]
    assert "- optimizer state, 9 kB" in lines
    assert "- one/kernel: \\*odd\\*" in lines
    assert f"- output: `out/small.h5`, BLAKE3 `{'cd' * 32}`, SHA-256 `{'ef' * 32}`" in lines
    assert "| &lt;b&gt;\\|\\`two/kernel |" in text
    assert "all gates passed" in render(replace(made, gates=made.gates[:1]), "md")


class Cells(HTMLParser):
    """The texts of all cells; fails on anything that could run."""

    def __init__(self):
        super().__init__()
        self.found, self.inside = [], False

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "img", "link", "b")
        self.inside = tag in ("td", "th")
        if self.inside:
            self.found.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1] += data


def test_html(made):
    cells = Cells()
    cells.feed(render(made, "html"))
    assert "<b>|`two/kernel" in cells.found
    expected = [cell for each in tables(made, full=True) for row in each.rows for cell in row]
    assert set(expected) <= set(cells.found)
    assert "Warnings" in made._repr_html_()
    assert "<html" not in made._repr_html_()


def test_the_terminal_is_aligned_text_in_a_pipe(made):
    out = io.StringIO()
    terminal.show(made, out)
    lines = out.getvalue().splitlines()
    at = lines.index("Gates")
    assert lines[at + 1 : at + 5] == [
        "  gate               limit         value",
        "  max_bytes            300           250  passed",
        "  max_accuracy_drop   0.01          0.05  FAILED",
        "  min_r2               0.5  not measured  FAILED",
    ]
    assert "left out: optimizer state, 9 kB" in lines
    assert "warning: one/kernel: *odd*" in lines


def test_the_terminal_draws_with_rich(made):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    terminal.show(made, screen)
    assert "─" in screen.getvalue()
    assert "FAILED" in screen.getvalue()


def test_a_terminal_counts_what_would_push_all_else_out_of_sight(made):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    layers = tuple(
        replace(made.layers[0], tensors=(replace(made.layers[0].tensors[0], name=f"t{n}/kernel"),))
        for n in range(1000)
    )
    many = replace(made, layers=layers)
    screen, pipe = Screen(), io.StringIO()
    terminal.show(many, screen)
    terminal.show(many, pipe)
    assert "t199/kernel" in screen.getvalue()
    assert "t200/kernel" not in screen.getvalue()
    assert "800 more rows: the page, --json and a pipe have all" in screen.getvalue()
    assert "t999/kernel" in pipe.getvalue()


def with_facts(made, **facts):
    step = replace(made.steps[0], step=1, title="prune: channels", facts=facts)
    return replace(made, steps=(step,))


def test_rounds_of_channels_tell_how_many_are_left(made):
    report = with_facts(
        made,
        rounds=[{"channels": 90, "accuracy": 0.9, "held": True}, {"channels": 80, "held": False}],
        ended="the budget is spent",
        before={"accuracy": 0.95},
        limits={"max_accuracy_drop": 0.01},
    )
    columns, rows, _ = table(report, "Rounds of step 1, prune: channels")
    assert columns == ["round", "channels left", "accuracy", "verdict"]
    assert rows[1:] == [("1", "90", "0.9000", "within budget"), ("2", "80", "–", "exceeded")]


def test_a_search_of_one_number_is_shown_from_the_largest_on(made):
    tried = [{"macs": m, "accuracy": m + 0.3, "held": m > 0.3} for m in (0.5, 0.3, 0.4)]
    found = {"limits": {"max_accuracy_drop": 0.1}, "before": {"accuracy": 0.9}, "tried": tried}
    report = with_facts(made, budget={**found, "found": 0.4})
    columns, rows, _ = table(report, "Search of step 1, prune: channels")
    assert columns == ["macs", "accuracy", "verdict"]
    assert [row[2] for row in rows] == ["", "within budget", "chosen", "exceeded"]
    assert [row[0] for row in rows] == ["1", "0.5", "0.4", "0.3"]


def test_latencies_that_were_measured(made):
    tried = [{"macs": 0.5, "before_ms": 2.0, "after_ms": 1.3, "ratio": 0.65},
             {"macs": 0.25, "before_ms": 2.0, "after_ms": 0.98, "ratio": 0.49}]  # fmt: skip
    report = with_facts(made, latency={"engine": "litert", "tried": tried, "macs": 0.25})
    _, rows, found = table(report, "Latency of step 1, prune: channels")
    assert rows[1] == ("0.2500", "2 ms", "0.98 ms", "0.490", "chosen")
    assert "litert" in found.note


def test_the_worst_layers_of_a_tflite_come_first_on_a_terminal(made):
    rows = [LayerError(f"l{n}", "Dense", 0.5**n, 3.0 + n if n else None) for n in range(10)]
    found = LayerErrors("step 1, equalize: cross_layer", 64, tuple(rows), {"bn": "merged"})
    report = replace(made, layer_errors=found)
    _, short, found = table(report, "Layers of the .tflite")
    assert [row[0] for row in short] == [f"l{n}" for n in range(1, 9)]
    assert short[0] == ("l1", "Dense", "0.5", "4.0")
    assert "after step 1, equalize: cross_layer, on 64 calibration samples" in found.note
    assert "the worst 8 of 10; 1 more layers" in found.note
    _, whole, _ = table(report, "Layers of the .tflite", full=True)
    assert [row[0] for row in whole] == [f"l{n}" for n in range(10)]
    assert whole[0][-1] == "exact"
    assert "| l9 | Dense | 0.00195 | 12.0 |" in render(report, "md")
    assert report.to_dict()["layer_errors"]["layers"][1] == {
        "layer": "l1", "class": "Dense", "mse": 0.5, "sqnr_db": 4.0
    }  # fmt: skip
    assert "layer_errors" not in made.to_dict()

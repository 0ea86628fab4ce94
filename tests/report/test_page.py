"""The page: what its charts say, whose names they hold, and what it is without Matplotlib."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import modelcut as modelcut_package
from modelcut.report import draw, html, render
from modelcut.report.cells import Table
from modelcut.report.charts import Bars, Chart, Lines, Matrix, Points, Ranges, Spread, charts
from modelcut.report.schema import HistogramRow

HOSTILE = (
    "<script>alert(1)</script>",
    "$\\frac{1}{0",
    "层/核<svg onload=alert(1)>",
    "a&b\"'>]]>-->",
    "{{x}}#010203",
)
EMPTY = Table("", ("a", "b"), [("1", "2")])


def full(made):
    """The report with something for every chart."""
    trials = [
        {"bits": 800 * n, "accuracy": 0.8 + n / 100, "held": n > 3, "settings": {"a": n, "b": n}}
        for n in range(1, 7)
    ]
    step = replace(
        made.steps[0],
        facts={
            "layers": {
                "one": {"rank": 3, "singular_values": {"number": [1, 2, 9], "value": [9, 4, 0.1]}}
            },
            "loss": [0.9, 0.5, 0.4],
            "validation": [{"accuracy": 0.8}, {"accuracy": 0.9}, {"accuracy": 0.89}],
            "best_epoch": 2,
            "budget": {
                "limits": {}, "base": {"accuracy": 0.9, "bits": 9999}, "rows": 7,
                "reached": trials[3], "chosen": None, "trials": trials,
            },
        },
    )  # fmt: skip
    tried = [
        {"number": n, "bytes": 100 * n, "accuracy": 0.9 - 1 / (n + 3), "held": n > 2}
        for n in range(6)
    ]
    evaluation = replace(
        made.evaluation,
        before={
            **made.evaluation.before,
            "metrics": {**made.evaluation.before["metrics"], "confusion": [[6, 0], [0, 4]]},
        },
        after={
            **made.evaluation.after,
            "metrics": {
                **made.evaluation.after["metrics"],
                "confusion": [[4, 2], [0, 4]],
                "intervals": {"accuracy": (0.8, 0.97)},
            },
        },
    )
    return replace(
        made,
        steps=(step,),
        histograms=(HistogramRow("one/kernel", -1.0, 1.0, (1, 5, 1), (0, 3, 1), 10),),
        search={
            "trials": 6,
            "chosen": 3,
            "tried": tried,
            "passed_over": [{"number": 2, "expected_drop": 0.0123}, {"number": "2"}],
        },
        evaluation=evaluation,
    )


def test_every_section_has_its_chart_and_each_chart_its_table(made):
    found = list(charts(full(made)))
    assert [chart.section for chart in found] == [
        "Layers", "Layers", "Layers", "Weights that changed most", "Singular values",
        "Classes", "Classes", "Training", "Training", "Search", "Search",
    ]  # fmt: skip
    assert all(chart.table.rows for chart in found)
    text = render(full(made), "html")
    assert text.count("<svg") == len(found) == text.count("<summary>Table</summary>")
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert "default-src 'none'" in text
    for color in draw._COLORS:
        assert color not in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_charts_say_what_the_report_says(made):
    found = {chart.title: chart.figure for chart in charts(full(made))}
    sizes = found["Size by layer"]
    assert list(sizes.labels) == ["one", "<b>|`two"] or list(sizes.labels) == ["one", "two"]
    # What is stored without deflate counts as what it deflates to, as before.
    assert sizes.series == {"before": [240, 60], "after": [90, 60]}
    assert found["Sparsity by layer"].series["after"] == [0.75, 0.0]
    assert found["Bits per weight by layer"].series["after"] == [9.0, 32.0]
    assert found["Confusion"].parts == {"before": [[6, 0], [0, 4]], "after": [[4, 2], [0, 4]]}
    assert found["Recall of the classes that lost most"].labels == ["cat"]
    assert found["one"].mark == (3.0, "rank 3")
    loss = found["Step 1, prune: magnitude: loss"]
    assert loss.series == {"training": [(1, 0.9), (2, 0.5), (3, 0.4)]}
    trials = found["Trials of the search"]
    assert trials.chosen == (300, pytest.approx(0.9 - 1 / 6))
    assert [x for x, _ in trials.front] == [0, 100, 200, 300, 400, 500]
    rows = next(each for each in charts(full(made)) if each.title == "Trials of the search").table
    notes = [row[-1] for row in rows.rows]
    assert notes == ["", "", "passed over: a drop of 0.012 is expected", "chosen", "", ""]


def test_the_front_is_of_those_that_no_other_beats():
    from modelcut.report.charts import _trials

    trials = [(3, 0.9, True, {}), (1, 0.5, True, {}), (2, 0.95, True, {}), (2, 0.7, False, {})]
    (chart,) = _trials("t", trials, "accuracy", None, "bytes")
    assert chart.figure.front == [(1, 0.5), (2, 0.95)]
    (chart,) = _trials("t", trials, "rmse", None, "bytes")
    assert chart.figure.front == [(1, 0.5)]


@pytest.mark.parametrize(
    "figure",
    [
        Bars(HOSTILE, {"before": [1, 2, 3, 4, None]}, HOSTILE[0], "bytes"),
        Lines(
            {HOSTILE[0]: [(1, 2), (2, 1)], HOSTILE[1]: []}, "x", HOSTILE[1], "xy", (1, HOSTILE[2])
        ),
        Points([(1, 2, True), (2, 1, False)], [(1, 2)], (1, 2), "bytes", HOSTILE[0]),
        Matrix(HOSTILE[:2], {HOSTILE[2]: [[1, 0], [2, 3]]}),
        Spread(-1, 1, (1, 2), (0, 0)),
        Ranges(HOSTILE, [1, 2, 3, 4, 5], [None] * 4 + [(4, 6)], HOSTILE[3]),
    ],
    ids=lambda figure: type(figure).__name__,
)
def test_names_are_text_in_every_kind_of_chart(figure):
    import xml.etree.ElementTree as ET

    svg = draw.draw(Chart("", HOSTILE[3], figure, EMPTY), "c1")
    root = ET.fromstring(svg)  # parses as XML: nothing broke out
    tags = {element.tag for element in root.iter()}
    assert tags <= {"svg", "g", "path", "defs", "use", "text", "clipPath", "rect", "style"}
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)
    assert root.attrib["aria-label"] == HOSTILE[3]


def test_names_are_text_everywhere_in_the_page(made):
    report = full(made)
    layers = tuple(replace(layer, name=HOSTILE[0]) for layer in report.layers)
    hostile = replace(
        report,
        layers=layers,
        warnings=HOSTILE,
        notes=HOSTILE,
        input=replace(report.input, path=HOSTILE[2], writer=HOSTILE[3]),
        recipe={"steps": [{"prune": HOSTILE[0]}]},
    )
    text = render(hostile, "html")
    assert "<script" not in text
    assert "onload=alert" not in re.sub(r"&lt;.*?&gt;", "", text)


def test_without_matplotlib_the_page_has_its_tables_and_says_so(made, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = render(full(made), "html")
    assert "<svg" not in text
    assert "pip install &#x27;modelcut[report]&#x27;" in text
    tables = {html.table_of(chart.table) for chart in charts(full(made))}
    assert text.count("<details open>") == len(tables)  # each once


def test_charts_can_be_turned_off(made, monkeypatch):
    monkeypatch.setenv("MODELCUT_CHARTS", "0")
    text = render(full(made), "html")
    assert "<svg" not in text
    assert "MODELCUT_CHARTS is 0" in text
    tables = re.findall("<details open>(.*?)</details>", text, re.DOTALL)
    assert len(tables) == len(set(tables)) > 1


def test_a_matplotlib_that_breaks_does_not_cost_the_page(made, monkeypatch):
    def broken(chart, key):
        raise RuntimeError("no <fonts>")

    monkeypatch.setattr(draw, "draw", broken)
    text = render(full(made), "html")
    assert "Charts are left out: RuntimeError: no &lt;fonts&gt;" in text


def test_the_page_is_the_same_each_time(made):
    assert render(full(made), "html") == render(full(made), "html")


def test_ten_thousand_layers(made):
    layers = tuple(
        replace(made.layers[0], name=f"layer_{n}_" + "x" * (n % 90)) for n in range(10_000)
    )
    began = time.process_time()
    text = render(replace(made, layers=layers), "html")
    assert time.process_time() - began < 10
    assert len(text) < 2_000_000
    assert "9,984 other layers" in text
    assert "more rows are in the JSON report" in text


def test_a_long_name_is_shortened_in_the_middle():
    assert draw.short("a" * 20 + "b" * 20, 11) == "aaaaa…bbbbb"
    assert draw.short("short", 11) == "short"


def test_a_table_says_what_it_leaves_out():
    table = Table("t", ("a",), [(str(n),) for n in range(html._MOST_ROWS + 3)])
    assert "3 more rows are in the JSON report" in html.table_of(table)


def test_nothing_is_said_where_matplotlib_has_no_place_for_its_cache(made, tmp_path):
    """And a matplotlibrc in the working folder has no say."""
    (tmp_path / "matplotlibrc").write_text("svg.fonttype: path\nnonsense: 1\n")
    saved = tmp_path / "o.report.json"
    saved.write_text(render(made, "json"))
    call = [sys.executable, "-m", "modelcut", "report", "show", "o.report.json", "--html"]
    here = str(Path(modelcut_package.__file__).parents[1])
    env = {**os.environ, "MPLCONFIGDIR": "/proc/none", "HOME": "/proc/none", "PYTHONPATH": here}
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.count("<svg") == 4
    assert ">one</text>" in done.stdout

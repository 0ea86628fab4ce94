"""A sensitivity profile, each layer alone under each setting: as tables, and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelcut.report import html
from modelcut.report.cells import Table, count
from modelcut.report.charts import Chart, Lines
from modelcut.report.tables import headline
from modelcut.safety import printable


def tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """One table a method: a layer a row, a setting a column."""
    for part in report["profiles"]:
        what, base = headline(part["base"])
        columns = tuple(f"{setting:g}" for setting in part["settings"])
        rows = [
            (
                printable(layer["name"], 40),
                printable(layer["class"], 24),
                *(headline(trial)[1] if trial["changed"] else "=" for trial in layer["trials"]),
            )
            for layer in part["layers"]
        ]
        title = f"{part['title']}: {what} with one layer alone at each {part['field']}"
        note = f"{base} with all layers as they are, on {count(report['data']['rows'])} rows"
        if any(not trial["changed"] for layer in part["layers"] for trial in layer["trials"]):
            note += "; =: that setting does nothing to the layer"
        yield Table(title, ("layer", "class", *columns), rows, left=("class",), note=note)


def recommendations(report: Mapping[str, Any]) -> Iterator[str]:
    """A sentence a method: which layers carry the loss, and what to do about them."""
    for part in report["profiles"]:
        ranking = part["ranking"]
        if ranking is None:
            continue
        what, field = _MEASURES[ranking["measure"]], part["field"]
        at = f"{part['title']}, every layer alone at {field} {ranking['setting']:g}"
        if not ranking["carrying"]:
            yield f"{at}: all layers lose about alike; no layer needs a setting of its own"
            continue
        names = ", ".join(printable(name, 40) for name in ranking["carrying"])
        count_of = len(ranking["carrying"])
        plural = "layers carry" if count_of > 1 else "layer carries"
        yield (
            f"{at}: {count_of} of {len(ranking['losses'])} {plural} "
            f"{ranking['fraction']:.0%} of {what}: {names}"
        )
        own = {name: value for name, value in ranking["overrides"].items() if value is not None}
        if own:
            fields = ", ".join(
                f"{printable(name, 40)}: {{{field}: {value:g}}}" for name, value in own.items()
            )
            yield f"  overrides: {{{fields}}}"
        left = [name for name, value in ranking["overrides"].items() if value is None]
        if left:
            yield f"  exclude: [{', '.join(printable(name, 40) for name in left)}]"


_MEASURES = {
    "log_loss": "the increase of the log loss",
    "rmse": "the increase of the RMSE",
    "shift": "the change of the outputs",
}


def page(report: Mapping[str, Any]) -> str:
    """The profile as one HTML file: a curve a layer, the tables, and what to do."""
    title = f"Sensitivity of {report['input']['path']}"
    listed = list(tables(report))
    said = "".join(f"<p>{html.text_of(line)}</p>" for line in recommendations(report))
    body = (
        f"<h1>{html.text_of(title)}</h1>"
        + html.section("Recommendation", said)
        + html.figures(charts(report))
        + "".join(html.section(table.title, html.table_of(table)) for table in listed)
    )
    return html.page(f"modelcut: {title}", body, str(report["schema"]))


def charts(report: Mapping[str, Any]) -> Iterator[Chart]:
    """A chart a method: the metric of the whole network over the setting of one layer."""
    for part, table in zip(report["profiles"], tables(report), strict=True):
        what = next((name for name in _METRICS if part["base"].get(name) is not None), "shift")
        series = {
            printable(layer["name"], 40): [
                (float(setting), float(trial[what]))
                for setting, trial in zip(part["settings"], layer["trials"], strict=True)
                if trial.get(what) is not None
            ]
            for layer in part["layers"][:_MOST_CURVES]
        }
        figure = Lines(series, part["field"], what)
        yield Chart("Layers", part["title"], figure, table)


_METRICS = ("accuracy", "r2", "rmse", "log_loss")
_MOST_CURVES = 12

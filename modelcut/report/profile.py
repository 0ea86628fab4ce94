"""The tables of a sensitivity profile: each layer alone under each setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modelcut.report.cells import Table, count
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

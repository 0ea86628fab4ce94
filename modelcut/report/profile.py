"""Tables of what a search tried: sensitivity profiles, and the trials of a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelcut.report.tables import Table, number, size
from modelcut.safety import printable

_HEADLINES = {"accuracy": "accuracy", "r2": "R²", "rmse": "RMSE"}


def headline(measured: Mapping[str, Any]) -> tuple[str, str]:
    """The one number that a trial is judged by at a glance: its name and its value."""
    for key, name in _HEADLINES.items():
        if isinstance(measured.get(key), (int, float)):
            return name, f"{measured[key]:.4f}"
    return "", "–"


def sensitivity(profile: Mapping[str, Any]) -> Iterator[Table]:
    """One table a step: a layer a row, a setting a column."""
    for part in profile["profiles"]:
        what, base = headline(part["base"])
        columns = tuple(f"{setting:g}" for setting in part["settings"])
        rows = []
        for layer in part["layers"]:
            found = [headline(trial)[1] for trial in layer["trials"]]
            rows.append((printable(layer["name"], 40), printable(layer["class"], 24), *found))
        title = f"{part['title']}: {what} with each layer alone at {part['field']} …"
        note = f"{base} as it is, on {profile['data']['rows']:,} rows"
        yield Table(title, ("layer", "class", *columns), rows, left=("class",), note=note)


def trials(step: Mapping[str, Any]) -> Table | None:
    """What the search of one step's budget tried on whole models, and what it chose."""
    found = step["facts"].get("budget")
    if not found:
        return None
    whole = [trial for trial in found["trials"] if len(trial["settings"]) > 1]
    alone = len(found["trials"]) - len(whole)
    what, base = headline(found["base"])
    rows = [("as it was", base, size(found["base"]["bits"] / 8), "", "")]
    for trial in whole:
        verdict = "held" if trial["held"] else "too much"
        bytes_ = size(trial["bits"] / 8)
        rows.append(
            (_settings(trial["settings"]), headline(trial)[1], bytes_, verdict, _mark(trial, found))
        )
    limits = ", ".join(f"{name} {limit:g}" for name, limit in found["limits"].items())
    note = f"{limits}; {alone} trials of single layers are in the JSON report"
    columns = ("settings", what or "value", "bytes, plain", "verdict", "")
    return Table(f"Search of step {step['step']}, {step['title']}", columns, rows, note=note)


def _mark(trial: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    keys = ("accuracy", "bits", "shift")
    reached = found["reached"]
    same = trial["held"] and all(trial.get(key) == reached.get(key) for key in keys)
    return "chosen" if same else ""


def _settings(settings: Mapping[str, float]) -> str:
    names: Sequence[str] = list(settings)
    shown = ", ".join(f"{name} {number(settings[name])}" for name in names[:6])
    return printable(shown + (" …" if len(names) > 6 else ""), 100)

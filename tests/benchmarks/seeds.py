"""Rows of tables over several seeds: each as it is measured, and their medians as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """What one network lost in one way, with one seed.

    Attributes:
        network, what: the network and what was done to it.
        accuracy: percent of the test samples.
        lost: points of accuracy beside floats; None for the floats themselves.
        seconds: CPU seconds; None where nothing was run for this row.
        decibels: signal-to-noise ratio of the outputs; None where it was not measured.
    """

    network: str
    what: str
    accuracy: float
    lost: float | None = None
    seconds: float | None = None
    decibels: float | None = None


def shown(rows: Iterable[tuple[int, Row]]) -> list[tuple[int, Row]]:
    """The rows, each printed with its seed as soon as it is there."""
    found = []
    for seed, row in rows:
        print(seed, *row, flush=True)
        found.append((seed, row))
    return found


def medians(rows: Iterable[tuple[int, Row]]) -> str:
    """A table of the medians; points lost with the lowest and the highest of all seeds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for _, row in rows:
        groups.setdefault((row.network, row.what), []).append(row)
    lines = [
        "| network | | % | points lost | of each seed | dB | CPU s |",
        "|---|---|--:|--:|---|--:|--:|",
    ]
    before = ""
    for (network, what), group in groups.items():
        lost = [row.lost for row in group if row.lost is not None]
        numbers = [
            f"{statistics.median(row.accuracy for row in group):.2f}",
            f"{statistics.median(lost):+.2f}" if lost else "",
            ", ".join(f"{one:+.2f}" for one in lost),
            _median([row.decibels for row in group], 1),
            _median([row.seconds for row in group], 0),
        ]
        cells = ["" if network == before else network, what]
        cells += [number.replace("-", "\N{MINUS SIGN}") for number in numbers]
        before = network
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines) + "\n"


def _median(values: Iterable[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.{digits}f}" if known else ""

"""Draws charts as SVG that stands in a page: its colours are the page's, light or dark."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from modelcut.report.axes import (
    AFTER,
    BAD,
    BEFORE,
    FONT,
    GOOD,
    INK,
    LETTER,
    LINE,
    Axes,
    Scale,
    breadth,
)  # fmt: skip
from modelcut.report.cells import number, size
from modelcut.report.charts import Bars, Chart, Lines, Matrix, Points, Ranges, Spread

_WIDTH = 400.0
_RIGHT = _WIDTH - 16
_LONGEST = 26


def missing() -> str:
    """Why no chart is to be drawn, in words; "" where they are."""
    if os.environ.get("MODELCUT_CHARTS") == "0":
        return "Charts are left out: MODELCUT_CHARTS is 0."
    return ""


def draw(chart: Chart) -> str:
    """A chart as an `<svg>` element."""
    return _DRAW[type(chart.figure)](chart.figure).svg(chart.title)


def short(text: str, longest: int = _LONGEST) -> str:
    """A name with its middle left out."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def _units(unit: str) -> Callable[[float], str]:
    if unit == "bytes":
        return lambda value: size(value) if value >= 0 else ""
    if unit == "percent":
        return lambda value: f"{100 * value:.3g} %"
    return number


def _left(labels: Sequence[str]) -> float:
    """Room for labels at the left."""
    return min(14 + LETTER * max(map(breadth, labels), default=4), 190)


def _bars(found: Bars) -> Axes:
    labels = [short(label) for label in found.labels]
    many = len(found.series)
    left, top = _left(labels), 24 if many > 1 else 12
    row = 13 if many == 1 else 21
    axes = Axes(_WIDTH, top + row * len(labels) + 42)
    bottom = axes.height - 34
    values = [value for series in found.series.values() for value in series if value is not None]
    ends = (
        (0.0, 1.0)
        if found.unit == "percent"
        else (0.0 if min(values, default=0) >= 0 else None, None)
    )
    x = Scale([0.0, *values], left, _RIGHT, ends=ends)
    axes.frame(x, None, (left, top, _RIGHT, bottom), (_units(found.unit), number), grid="x")
    thick = 0.7 * row / many
    colors = {"before": BEFORE}
    for at, label in enumerate(labels):
        axes.text(left - 6, top + row * (at + 0.5) + 4, label, anchor="end")
        for place, (name, series) in enumerate(found.series.items()):
            value = series[at]
            if value is not None:
                one, other = sorted((x(0.0), x(min(value, x.high))))
                begin = top + row * (at + 0.15) + place * thick
                axes.rect(one, begin, other - one, 0.92 * thick, colors.get(name, AFTER))
    axes.text((left + _RIGHT) / 2, axes.height - 4, found.axis, anchor="middle")
    if many > 1:
        axes.legend([(name, colors.get(name, AFTER)) for name in found.series], _RIGHT)
    return axes


def _lines(found: Lines) -> Axes:
    left, top, bottom = 62.0, 24.0, 186.0
    axes = Axes(_WIDTH, 220)
    points = [point for series in found.series.values() for point in series]
    across, up = [x for x, _ in points], [y for _, y in points]
    marks = [found.mark[0]] if found.mark else []
    x_log = "x" in found.logarithmic and all(x > 0 for x in (*across, *marks))
    y_log = "y" in found.logarithmic and all(y > 0 for y in up)
    x = Scale([*across, *marks], left, _RIGHT, log=x_log, most=6, whole=True)
    y = Scale(up, bottom, top, log=y_log, most=5)
    axes.frame(x, y, (left, top, _RIGHT, bottom), (_plain, _plain))
    colors = itertools.cycle((AFTER, BEFORE, BAD, GOOD))
    named = []
    for name, series in found.series.items():
        color = next(colors)
        named.append((short(name), color))
        axes.line([(x(a), y(b)) for a, b in series], color, 1.6)
        for a, b in series if len(series) <= 60 else ():
            axes.dot(x(a), y(b), 1.6, color)
    if found.mark is not None:
        at, words = found.mark
        axes.line([(x(at), top), (x(at), bottom)], BAD, 1, dashes="4 2")
        right = x(at) < (left + _RIGHT) / 2  # the words stand on the side where there is room
        place = x(at) + (4 if right else -4)
        axes.text(place, top + 10, words, anchor="start" if right else "end", color=BAD)
    axes.text((left + _RIGHT) / 2, 216, found.x, anchor="middle")
    axes.text(12, (top + bottom) / 2, short(found.y), anchor="middle", turned=True)
    if len(named) > 1:
        axes.legend(named, _RIGHT)
    return axes


def _plain(value: float) -> str:
    return f"{value:.6g}"


def _points(found: Points) -> Axes:
    left, top, bottom = 62.0, 24.0, 216.0
    axes = Axes(_WIDTH, 250)
    chosen = [found.chosen] if found.chosen else []
    places = [*((a, b) for a, b, _ in found.points), *found.front, *chosen]
    x = Scale([a for a, _ in places], left, _RIGHT)
    y = Scale([b for _, b in places], bottom, top, most=5)
    axes.frame(x, y, (left, top, _RIGHT, bottom), (_units("bytes"), _plain))
    named = []
    for held, color, name in ((False, BAD, "beyond limits"), (True, AFTER, "within limits")):
        mine = [(a, b) for a, b, ok in found.points if ok is held]
        for a, b in mine:
            axes.dot(x(a), y(b), 1.9, color)
        named += [(name, color)] if mine else []
    steps: list[tuple[float, float]] = []
    for a, b in found.front:
        steps += [(x(a), steps[-1][1])] if steps else []
        steps.append((x(a), y(b)))
    axes.line(steps, INK, 1)
    named += [("Pareto front", INK)] if steps else []
    for a, b in chosen:
        axes.dot(x(a), y(b), 4.4, INK, ring=1.4)
    axes.text((left + _RIGHT) / 2, 246, found.x, anchor="middle")
    axes.text(12, (top + bottom) / 2, found.y, anchor="middle", turned=True)
    for (a, b, _), name in zip(found.points, found.names, strict=bool(found.names)):
        right = x(a) < (left + _RIGHT) / 2  # names stand on the side where there is room
        words = short(name, 20)
        axes.text(x(a) + (6 if right else -6), y(b) + 4, words, anchor="start" if right else "end")
    if not found.names:
        axes.legend(named, _RIGHT - 60 * bool(chosen))
        if chosen:
            axes.dot(_RIGHT - 48, 10, 3.6, INK, ring=1.2)
            axes.text(_RIGHT, 14, "chosen", anchor="end")
    return axes


def _matrix(found: Matrix) -> Axes:
    classes, many = max(1, len(found.labels)), max(1, len(found.parts))
    labels = [short(label, 10) for label in found.labels]
    left = 14 + LETTER * max(map(breadth, labels), default=2)
    side = (_RIGHT - left - 12 * (many - 1)) / many
    turned = max(map(breadth, labels), default=0) > 2
    axes = Axes(
        _WIDTH, side + 28 + (LETTER * max(map(breadth, labels), default=1) if turned else 16)
    )
    cell, top = side / classes, 22.0
    small = max(5.5, min(FONT, 0.8 * cell))
    for place, (name, counts) in enumerate(found.parts.items()):
        start = left + place * (side + 12)
        for row, line in enumerate(counts):
            total = max(1, sum(line))
            for column, each in enumerate(line):
                if each:
                    color = AFTER if row == column else BAD
                    where = (start + column * cell, top + row * cell, cell, cell)
                    axes.rect(*where, color, 0.12 + 0.88 * each / total)
        corners = [
            (start, top),
            (start + side, top),
            (start + side, top + side),
            (start, top + side),
        ]
        axes.line([*corners, corners[0]], LINE, 0.8)
        for index, label in enumerate(labels):
            middle = (index + 0.5) * cell
            if not place:
                axes.text(start - 4, top + middle + 0.36 * small, label, anchor="end", size=small)
            if turned:
                at = (start + middle + 0.36 * small, top + side + 4)
                axes.text(*at, label, anchor="end", size=small, turned=True)
            else:
                at = (start + middle, top + side + 4 + small)
                axes.text(*at, label, anchor="middle", size=small)
        axes.text(start + side / 2, 14, name, anchor="middle")
    return axes


def _spread(found: Spread) -> Axes:
    left, top, bottom = 52.0, 24.0, 136.0
    axes = Axes(_WIDTH, 170)
    bins = len(found.before)
    edges = [
        found.low + (found.high - found.low) * index / max(1, bins) for index in range(bins + 1)
    ]
    x = Scale(edges, left, _RIGHT)
    y = Scale([0, *found.before, *found.after], bottom, top, ends=(0.0, None))
    axes.frame(x, y, (left, top, _RIGHT, bottom), (number, number), grid="y")
    for counts, fill, color, width in (
        (found.before, BEFORE, "none", 0.0),
        (found.after, "none", AFTER, 1.4),
    ):
        outline = [(x(edges[0]), y(0))] if edges else []
        for index, each in enumerate(counts):
            outline += [(x(edges[index]), y(each)), (x(edges[index + 1]), y(each))]
        outline += [(x(edges[-1]), y(0))] if edges else []
        axes.line(outline, color, width, fill=fill, opacity=0.55)
    axes.text((left + _RIGHT) / 2, 166, "value", anchor="middle")
    axes.legend([("before", BEFORE), ("after", AFTER)], _RIGHT)
    return axes


def _ranges(found: Ranges) -> Axes:
    labels = [short(label) for label in found.labels]
    left, top = _left(labels), 8
    axes = Axes(_WIDTH, top + 20 * len(labels) + 42)
    ends = [end for pair in found.ends if pair is not None for end in pair]
    x = Scale([*found.values, *ends], left, _RIGHT)
    bottom = axes.height - 34
    axes.frame(x, None, (left, top, _RIGHT, bottom), (_plain, number), grid="x")
    for at, (value, pair) in enumerate(zip(found.values, found.ends, strict=True)):
        middle = top + 20 * (at + 0.5)
        axes.text(left - 6, middle + 4, labels[at], anchor="end")
        if pair is not None:
            axes.line([(x(pair[0]), middle), (x(pair[1]), middle)], AFTER, 2)
        axes.dot(x(value), middle, 3.4, AFTER)
    axes.text((left + _RIGHT) / 2, axes.height - 4, found.axis, anchor="middle")
    return axes


_DRAW: dict[type, Callable[[Any], Axes]] = {
    Bars: _bars,
    Lines: _lines,
    Points: _points,
    Ranges: _ranges,
    Matrix: _matrix,
    Spread: _spread,
}

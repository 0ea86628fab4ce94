"""Draws charts as SVG that stands in a page: its colours are the page's, light or dark.

The only file that imports Matplotlib, and only when a page is written. Text stays text (`fonttype`
none), nothing in it is taken for a formula, and all of it is escaped by Matplotlib's writer.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import itertools
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelcut.report.cells import number, size
from modelcut.report.charts import Bars, Chart, Lines, Matrix, Points, Ranges, Spread

_COLORS = {
    "#010203": "var(--ink)",
    "#040506": "var(--line)",
    "#070809": "var(--before)",
    "#0a0b0c": "var(--after)",
    "#0d0e0f": "var(--bad)",
    "#101112": "var(--good)",
}
"""Colours that no chart has by chance, and the page's own that they stand for."""
_INK, _LINE, _BEFORE, _AFTER, _BAD, _GOOD = _COLORS
_WIDTH = 400.0
_FONT = 11.0
_LONGEST = 26
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "modelcut",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": _FONT,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "path.simplify": True,
    "legend.frameon": False,
}


def missing() -> str:
    """Why no chart can be drawn, in words; "" where they can."""
    if os.environ.get("MODELCUT_CHARTS") == "0":
        return "Charts are left out: MODELCUT_CHARTS is 0."
    try:
        found = importlib.util.find_spec("matplotlib") is not None
    except (ImportError, ValueError):
        found = False
    why = "Charts are left out: Matplotlib is not installed (pip install 'modelcut[report]')."
    return "" if found else why


def draw(chart: Chart, key: str) -> str:
    """A chart as an `<svg>` element.

    Args:
        chart: the chart.
        key: tells the identifiers in it from those of other charts on the page.
    """
    with _silent():
        _make_room()
        import matplotlib as mpl

        with mpl.rc_context():
            # A matplotlibrc that lies here has no say. To ask for the backend would import all of
            # pyplot.
            plain: dict[Any, Any] = {
                key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"
            }
            mpl.rcParams.update(plain)
            mpl.rcParams.update(_RC)
            figure = _DRAW[type(chart.figure)](chart.figure)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
    return _inline(text.getvalue(), key, chart.title)


def _make_room() -> None:
    """Gives Matplotlib a folder for its cache where its own cannot be written to.

    It would take one by itself, and complain at the end if that is gone, as our scratch files are.
    """
    if "matplotlib" in sys.modules:
        return
    home = Path(os.environ.get("HOME", "/"))
    given = os.environ.get("MPLCONFIGDIR")
    if given:
        folders = [Path(given)]
    elif sys.platform == "darwin":
        folders = [home / ".matplotlib"]
    else:
        kinds = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
        folders = [Path(os.environ.get(k) or home / name) / "matplotlib" for k, name in kinds]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        if all(os.access(folder, os.W_OK) for folder in folders):
            return
    except OSError:
        pass
    made = tempfile.mkdtemp(prefix="modelcut-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = made


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what Matplotlib tells of its cache, of a matplotlibrc, and of letters it has not."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _inline(text: str, key: str, title: str) -> str:
    """The element alone, its colours those of the page, its identifiers its own."""
    from html import escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    shape = re.search(r'viewBox="([^"]*)"', text)
    assert shape is not None
    label = escape(title, quote=True)
    start = f'<svg viewBox="{shape[1]}" role="img" aria-label="{label}">'
    body = text[text.index(">") + 1 :]
    # Inside tags only: what stands between them is text from the file.
    parts = re.split(r"(<[^>]*>)", body)
    return start + "".join(_tag(p, key) if p.startswith("<") else p for p in parts).strip()


def _tag(tag: str, key: str) -> str:
    for color, own in _COLORS.items():
        tag = tag.replace(color, own)
    tag = re.sub(r'\bid="([^"]*)"', rf'id="{key}-\1"', tag)
    tag = re.sub(r"url\(#([^)]*)\)", rf"url(#{key}-\1)", tag)
    tag = re.sub(r'xlink:href="#([^"]*)"', rf'href="#{key}-\1"', tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"font-family: [^;\"]*;?", "", tag)
    return "" if tag.startswith("<!--") else tag


def _figure(height: float, left: float, bottom: float = 34, top: float = 8) -> tuple[Any, Any]:
    """A figure of the page's width and one pair of axes in it; all in points."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    place = (
        left / _WIDTH,
        bottom / height,
        1 - (left + 16) / _WIDTH,
        1 - (bottom + top) / height,
    )
    axes = figure.add_axes(place)
    axes.tick_params(length=3, width=0.6)
    return figure, axes


def short(text: str, longest: int = _LONGEST) -> str:
    """A name with its middle left out."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def _units(unit: str) -> Callable[[float, Any], str]:
    if unit == "bytes":
        return lambda value, _: size(value) if value >= 0 else ""
    if unit == "percent":
        return lambda value, _: f"{100 * value:.3g} %"
    return lambda value, _: number(value)


def _bars(found: Bars) -> Any:
    labels = [short(label) for label in found.labels]
    many = len(found.series)
    height = 12.0 + (13 if many == 1 else 21) * len(labels) + 46 + (16 if many > 1 else 0)
    left = 14 + 5.9 * max((_width(label) for label in labels), default=4)
    figure, axes = _figure(height, min(left, 190), top=24 if many > 1 else 8)
    thick = 0.7 / many
    colors = {"before": _BEFORE}
    for number_, (name, values) in enumerate(found.series.items()):
        at = [i + (number_ - (many - 1) / 2) * thick for i in range(len(labels))]
        widths = [0.0 if value is None else value for value in values]
        axes.barh(at, widths, thick * 0.92, color=colors.get(name, _AFTER), label=name)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_locator(_locator())
    axes.xaxis.set_major_formatter(_units(found.unit))
    if found.unit == "percent":
        axes.set_xlim(0, 1)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(found.axis)
    _legend(axes, many)
    return figure


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _width(label: str) -> float:
    """How many Latin letters a text is as wide as; those of East Asia count double."""
    import unicodedata

    return sum(1.8 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in label)


def _legend(axes: Any, many: int) -> None:
    if many > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=many, borderaxespad=0.1,
                    handlelength=1, columnspacing=1)  # fmt: skip


def _lines(found: Lines) -> Any:
    figure, axes = _figure(220, 62, top=24)
    colors = itertools.cycle((_AFTER, _BEFORE, _BAD, _GOOD))
    for name, points in found.series.items():
        color = next(colors)
        axes.plot([x for x, _ in points], [y for _, y in points], color=color, linewidth=1.6,
                  marker="o" if len(points) <= 60 else "", markersize=2.5, label=name)  # fmt: skip
    if "x" in found.logarithmic:
        axes.set_xscale("log")
        _plain_logarithms(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(_whole())
    if "y" in found.logarithmic and all(y > 0 for p in found.series.values() for _, y in p):
        axes.set_yscale("log")
        _plain_logarithms(axes.yaxis)
    if found.mark is not None:
        at, words = found.mark
        axes.axvline(at, color=_BAD, linewidth=1, linestyle="--")
        axes.annotate(words, (at, 1), xycoords=("data", "axes fraction"), color=_BAD,
                      ha="center", va="bottom")  # fmt: skip
    axes.grid()
    axes.set_xlabel(found.x)
    axes.set_ylabel(short(found.y))
    _legend(axes, len(found.series))
    return figure


def _plain_logarithms(axis: Any) -> None:
    """Ticks of a logarithmic axis as numbers: powers would be formulas, which are off."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _whole() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6, integer=True)


def _points(found: Points) -> Any:
    figure, axes = _figure(250, 62, top=24)
    for held, color, name in ((False, _BAD, "beyond limits"), (True, _AFTER, "within limits")):
        mine = [(x, y) for x, y, ok in found.points if ok is held]
        if mine:
            axes.scatter([x for x, _ in mine], [y for _, y in mine], s=12, color=color, label=name)
    if found.front:
        axes.step([x for x, _ in found.front], [y for _, y in found.front], where="post",
                  color=_INK, linewidth=1, label="Pareto front")  # fmt: skip
    if found.chosen is not None:
        axes.scatter(*([part] for part in found.chosen), s=60, facecolor="none", edgecolor=_INK,
                     linewidth=1.4, label="chosen")  # fmt: skip
    axes.xaxis.set_major_locator(_locator())
    axes.xaxis.set_major_formatter(_units("bytes"))
    axes.grid()
    axes.set_axisbelow(True)
    axes.set_xlabel(found.x)
    axes.set_ylabel(found.y)
    if found.names:
        _named(axes, found)
        return figure
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.1,
                handlelength=1, columnspacing=0.8, handletextpad=0.3, fontsize=9)  # fmt: skip
    return figure


def _named(axes: Any, found: Points) -> None:
    """Names beside the points, on the side where there is room."""
    low, high = axes.get_xlim()
    for (x, y, _), name in zip(found.points, found.names, strict=True):
        right = x - low < (high - low) / 2
        axes.annotate(short(name, 20), (x, y), xytext=(5 if right else -5, 0), va="center",
                      ha="left" if right else "right", textcoords="offset points")  # fmt: skip


def _matrix(found: Matrix) -> Any:
    from matplotlib.patches import Rectangle

    classes, many = len(found.labels), len(found.parts)
    labels = [short(label, 10) for label in found.labels]
    left = 14 + 5.9 * max((_width(label) for label in labels), default=2)
    side = (_WIDTH - left - 16 - 12 * (many - 1)) / many
    figure, first = _figure(side + 70, left, bottom=46, top=24)
    first.remove()
    height = side + 70
    for number_, (name, counts) in enumerate(found.parts.items()):
        start = left + number_ * (side + 12)
        axes = figure.add_axes((start / _WIDTH, 46 / height, side / _WIDTH, side / height))
        for row, line in enumerate(counts):
            total = max(1, sum(line))
            for column, many_ in enumerate(line):
                if many_:
                    color = _AFTER if row == column else _BAD
                    alpha = 0.12 + 0.88 * many_ / total
                    axes.add_patch(Rectangle((column, row), 1, 1, color=color, alpha=alpha, lw=0))
        axes.set_xlim(0, classes)
        axes.set_ylim(classes, 0)
        axes.tick_params(length=0)
        ticks = [index + 0.5 for index in range(classes)]
        small = max(5.5, min(_FONT, 0.8 * side / classes))
        turned = 90 if max(map(_width, labels), default=0) > 2 else 0
        axes.set_xticks(ticks, labels, rotation=turned, fontsize=small)
        axes.set_yticks(ticks, [] if number_ else labels, fontsize=small)
        if number_:
            axes.set_yticks([])
        axes.set_title(name, fontsize=_FONT)
        for spine in axes.spines.values():
            spine.set_visible(True)
    return figure


def _spread(found: Spread) -> Any:
    figure, axes = _figure(170, 52, top=24)
    bins = len(found.before)
    edges = [found.low + (found.high - found.low) * index / bins for index in range(bins + 1)]
    axes.stairs(found.before, edges, fill=True, color=_BEFORE, label="before", alpha=0.55)
    axes.stairs(found.after, edges, color=_AFTER, linewidth=1.4, label="after")
    axes.set_ylim(0)
    axes.xaxis.set_major_locator(_locator())
    axes.yaxis.set_major_locator(_locator())
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel("value")
    _legend(axes, 2)
    return figure


def _ranges(found: Ranges) -> Any:
    labels = [short(label) for label in found.labels]
    left = 14 + 5.9 * max((_width(label) for label in labels), default=4)
    figure, axes = _figure(58.0 + 20 * len(labels), min(left, 190))
    for at, (value, ends) in enumerate(zip(found.values, found.ends, strict=True)):
        if ends is not None:
            axes.plot(ends, (at, at), color=_AFTER, linewidth=2)
        axes.plot([value], [at], marker="o", color=_AFTER, markersize=6)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_locator(_locator())
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(found.axis)
    return figure


_DRAW: dict[type, Callable[[Any], Any]] = {
    Bars: _bars,
    Lines: _lines,
    Points: _points,
    Ranges: _ranges,
    Matrix: _matrix,
    Spread: _spread,
}

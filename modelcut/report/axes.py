"""One pair of axes as SVG: scales, ticks, marks, a legend; lengths in pixels, colours the page's.

Written by hand and not by a library for plots: to import one takes longer than a small job.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from html import escape

INK, LINE = "var(--ink)", "var(--line)"
BEFORE, AFTER = "var(--before)", "var(--after)"
BAD, GOOD = "var(--bad)", "var(--good)"
FONT = 11.0
"""Size of letters."""
LETTER = 6.4
"""Width of a Latin one, on average."""
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Scale:
    """Where the values of one axis stand.

    Attributes:
        low, high: the least and the largest value.
        ticks: the values that are written.
    """

    def __init__(
        self, values: Iterable[float], start: float, end: float, *, log: bool = False,
        ends: tuple[float | None, float | None] = (None, None), most: int = 4, whole: bool = False,
    ) -> None:  # fmt: skip
        """Takes the range from the values.

        Args:
            values: those that must find a place; what is not finite finds none.
            start: pixel of the least value.
            end: pixel of the largest one.
            log: whether it is logarithmic; all values are above 0.
            ends: least and largest value where these are fixed; else there is a margin.
            most: how many steps there are between ticks, about.
            whole: ticks are whole numbers.
        """
        self._start, self._end, self._log = start, end, log
        found = [self._to(v) for v in values if math.isfinite(v) and (v > 0 or not log)]
        low, high = min(found, default=0.0), max(found, default=1.0)
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            room = 0.3 if log else 0.05 * abs(low) or 0.5
            low, high = low - room, high + room
        margin = 0.05 * (high - low)
        self._low = low - margin if ends[0] is None else self._to(ends[0])
        self._high = high + margin if ends[1] is None else self._to(ends[1])
        if self._high <= self._low:
            self._high = self._low + 1
        self.low, self.high = self._from(self._low), self._from(self._high)
        found = _powers(self.low, self.high) if log else _steps(self.low, self.high, most, whole)
        self.ticks = tuple(tick for tick in found if self.low <= tick <= self.high)

    def _to(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def _from(self, value: float) -> float:
        return 10.0 ** min(max(value, -300), 300) if self._log else value

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        if self._log and value <= 0:
            return self._start
        part = (self._to(value) - self._low) / (self._high - self._low)
        return self._start + part * (self._end - self._start)


def _steps(low: float, high: float, most: int, whole: bool) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size * power for size in _STEPS if size * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [
        round(number * step, 12 - math.floor(math.log10(step))) for number in range(first, last + 1)
    ]


def _powers(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten, or only the powers, a few of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    if sum(low <= tick <= high for tick in found) <= 8:
        return found
    return [10.0**power for power in powers[:: -(-len(powers) // 7)]]


class Axes:
    """A drawing with one pair of axes or more.

    Attributes:
        width, height: of the drawing.
        x, y: the scales.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def add(self, part: str) -> None:
        self._parts.append(part)

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", color: str = INK,
        size: float = FONT, turned: bool = False,
    ) -> None:  # fmt: skip
        """Words whose line stands at `y`."""
        turn = f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
        self.add(
            f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{turn} '
            f'style="fill:{color};font-size:{_n(size)}px">{plain(words)}</text>'
        )

    def rect(
        self, x: float, y: float, width: float, height: float, color: str, opacity: float = 1.0
    ) -> None:
        """A filled box."""
        if not all(map(math.isfinite, (x, y, width, height))):
            return
        see = f";fill-opacity:{opacity:.3g}" if opacity < 1 else ""
        self.add(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(0.0, width))}" '
            f'height="{_n(max(0.0, height))}" style="fill:{color}{see}"/>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], color: str, width: float, *, dashes: str = "",
        fill: str = "none", opacity: float = 1.0,
    ) -> None:  # fmt: skip
        """A line through pixels; with `fill`, an area."""
        points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        if not points:
            return
        path = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        more = f";stroke-dasharray:{dashes}" if dashes else ""
        more += f";fill-opacity:{opacity:.3g}" if fill != "none" else ""
        self.add(
            f'<path d="{path}" style="fill:{fill};stroke:{color};stroke-width:{_n(width)}{more}"/>'
        )

    def dot(self, x: float, y: float, radius: float, color: str, *, ring: float = 0) -> None:
        """A disc, or a ring of a width."""
        if math.isfinite(x) and math.isfinite(y):
            look = f"fill:none;stroke:{color};stroke-width:{_n(ring)}" if ring else f"fill:{color}"
            self.add(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" style="{look}"/>')

    def frame(
        self, x: Scale | None, y: Scale | None, box: tuple[float, float, float, float],
        written: tuple[Callable[[float], str], Callable[[float], str]], *, grid: str = "xy",
    ) -> None:  # fmt: skip
        """Axes on the left and below with their ticks.

        Args:
            x: the scale below; None: no ticks.
            y: the scale on the left.
            box: left, top, right and bottom pixel.
            written: how the ticks of each are written.
            grid: which have lines at their ticks.
        """
        left, top, right, bottom = box
        for tick in x.ticks if x else ():
            at = x(tick) if x else 0
            if "x" in grid:
                self.line([(at, top), (at, bottom)], LINE, 0.6)
            self.line([(at, bottom), (at, bottom + 3)], LINE, 0.6)
            self.text(at, bottom + 14, written[0](tick), anchor="middle")
        for tick in y.ticks if y else ():
            at = y(tick) if y else 0
            if "y" in grid:
                self.line([(left, at), (right, at)], LINE, 0.6)
            self.line([(left - 3, at), (left, at)], LINE, 0.6)
            self.text(left - 6, at + 4, written[1](tick), anchor="end")
        self.line([(left, top), (left, bottom), (right, bottom)], LINE, 0.8)

    def legend(self, names: Sequence[tuple[str, str]], right: float) -> None:
        """Names with their colours, above the axes on the right.

        Args:
            names: name and colour of each.
            right: pixel at which it ends.
        """
        for name, color in reversed(names):
            right -= LETTER * breadth(name)
            self.text(right, 14, name)
            self.rect(right - 14, 7, 10, 6, color)
            right -= 24

    def svg(self, title: str) -> str:
        """All of it as an element."""
        label = plain(title, quote=True)
        shape = f"0 0 {_n(self.width)} {_n(self.height)}"
        return (
            f'<svg viewBox="{shape}" role="img" aria-label="{label}">{"".join(self._parts)}</svg>'
        )


def plain(words: str, *, quote: bool = False) -> str:
    """Words as text of XML, whatever they hold."""
    return escape(_NO_XML.sub("\ufffd", words), quote=quote)


def breadth(words: str) -> float:
    """How many Latin letters a text is as wide as; those of East Asia count double."""
    return sum(1.8 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in words)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")

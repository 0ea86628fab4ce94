"""Tables of short texts, and numbers as such texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelcut.report.schema import Totals


@dataclass(frozen=True)
class Table:
    """Columns of text; the first is left-aligned, the others right-aligned unless named in `left`.

    Attributes:
        title: title of the table.
        columns: headings of the columns.
        rows: cells as text, as many as columns.
        left: further columns that are aligned left.
        note: a line below the table; may be empty.
        text: lines below all that, as they are; may be empty.
        drop: columns that a narrow terminal leaves out, the least important first.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: tuple[str, ...] = ()
    note: str = ""
    text: str = ""
    drop: tuple[str, ...] = ()


def sized(totals: Totals) -> Callable[[Any], str]:
    """How the deflated size of these is shown: an estimate says that it is one."""
    return (lambda value: f"≈ {size(value)}") if totals.deflated_estimated else size


def size(value: float) -> str:
    """Bytes in SI units: 999 B, 12.3 kB, 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def count(value: float) -> str:
    """A whole number with thin thousands: 1,234,567."""
    return f"{value:,.0f}"


def number(value: float) -> str:
    """A number of about three digits."""
    return f"{value:.3g}"


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.1f} %"


def factor(old: float, new: float) -> str:
    """How many times smaller or larger, in words: ÷ 4.00, × 1.20, =."""
    if old <= 0 or new <= 0 or old == new:
        return "" if old != new else "="
    return f"÷ {old / new:.2f}" if new < old else f"× {new / old:.2f}"


def or_dash(value: Any, show: Callable[[Any], str]) -> str:
    """A number as text, or a dash where there is none."""
    return show(value) if is_number(value) else "–"


def is_number(value: Any) -> bool:
    """Whether a value of the report is a number, and not NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value

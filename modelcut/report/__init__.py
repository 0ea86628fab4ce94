"""Reports: `build` makes plain data of facts and measures, the other modules show them.

One module a form: `json`, `md` (Markdown), `html`, `terminal`. Each has `render(report) -> str`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelcut.safety import without_surrogates

if TYPE_CHECKING:
    from modelcut.report.schema import Part


def render(report: Part | Mapping[str, Any], form: str) -> str:
    """The report as text that UTF-8 can hold, in one of the forms "json", "md" and "html"."""
    text = str(import_module(f"modelcut.report.{form}").render(report))
    return without_surrogates(text)

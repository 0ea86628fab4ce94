"""Reports: `build` makes plain data of facts and measures, the other modules show them.

One module a form: `json`, `md` (Markdown), `terminal`. Each has `render(report) -> str`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def render(report: Mapping[str, Any], form: str) -> str:
    """The report as text, in one of the forms "json" and "md"."""
    return str(import_module(f"modelcut.report.{form}").render(report))

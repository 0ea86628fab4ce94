"""The report as JSON: sorted by meaning, not by name; numbers that JSON lacks become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from modelcut.report.schema import Part
from modelcut.safety import json_text


def render(report: Part | Mapping[str, Any]) -> str:
    """JSON text with a newline at its end."""
    data = report.to_dict() if isinstance(report, Part) else report
    return json_text(json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

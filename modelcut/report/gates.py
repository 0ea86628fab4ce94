"""A gate's verdict in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def told(gate: Mapping[str, Any]) -> str:
    """Such as "max_bytes: 2248, limit 1000"."""
    name = gate["name"] + (f" of {gate['output']}" if gate.get("output") else "")
    value = "not measured" if gate["value"] is None else f"{gate['value']:.6g}"
    return f"{name}: {value}, limit {gate['limit']:.6g}"

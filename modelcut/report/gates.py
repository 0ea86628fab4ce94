"""A gate's verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Gate = Mapping[str, Any]


def told(gate: Gate) -> str:
    """Such as "max_bytes: 2248, limit 1000"."""
    name = gate["name"] + (f" of {gate['output']}" if gate.get("output") else "")
    value = "not measured" if gate["value"] is None else f"{gate['value']:.6g}"
    if why := unchecked(gate):
        value = f"not checked ({why})"
    return f"{name}: {value}, limit {gate['limit']:.6g}"


def unchecked(gate: Gate) -> str:
    """Why a gate was not checked; "" where it was."""
    return "" if gate.get("checked", True) else str(gate["reason"])


def verdict(gates: Sequence[Gate]) -> str:
    """Such as "1 of 3 gates failed", "2 gates passed, 1 not checked"; "" without gates."""
    if not gates:
        return ""
    checked = sum(not unchecked(gate) for gate in gates)
    failed = sum(not gate["held"] for gate in gates)
    words = f"{failed} of {checked} gate{'s' * (checked != 1)} failed" if failed else ""
    if not checked:
        reasons = dict.fromkeys(map(unchecked, gates))
        return f"gates not checked: {', '.join(reasons)}"
    if checked == len(gates):
        return words or "all gates passed"
    words = words or f"{checked} gate{'s' * (checked != 1)} passed"
    return f"{words}, {len(gates) - checked} not checked"

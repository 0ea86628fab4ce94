"""Encodings of tensors as plain JSON data, for the formats that keep them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


def jsonable(value: Any) -> Any:
    """A record with its arrays as text."""
    if isinstance(value, np.ndarray):
        packed = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"dtype": value.dtype.str, "shape": list(value.shape), "base64": packed}
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    return value


def arrays(value: Any) -> Any:
    """The inverse of `jsonable`."""
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "base64"}:
        raw = base64.b64decode(value["base64"])
        return np.frombuffer(raw, np.dtype(value["dtype"])).reshape(value["shape"])
    if isinstance(value, dict):
        return {key: arrays(item) for key, item in value.items()}
    return value

"""Encodings of tensors as plain JSON data, for the formats that keep them, and whether they fit."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from modelcut.model.encoding import Encoding


def fits(encoding: Encoding, shape: tuple[int, ...]) -> bool:
    """Whether the parameters of an encoding go with a tensor of this shape."""
    inner = getattr(encoding, "inner", encoding)
    for name in ("scale", "zero_point", "centres"):
        array = getattr(inner, name, None)
        if array is None:
            continue
        if not isinstance(array, np.ndarray) or not np.isfinite(array).all() or array.size == 0:
            return False
        if name == "centres":
            if array.ndim != 1 or np.any(np.diff(array) <= 0):
                return False
            continue
        own = array.shape[1:] if inner.kind == "binary" else array.shape
        grouped = getattr(inner, "group", 0)
        if len(own) not in (0, len(shape)):
            return False
        for axis, (mine, size) in enumerate(zip(own, shape, strict=False)):
            cut = grouped and axis == getattr(inner, "group_axis", 0)
            groups = -(-size // grouped) if cut else size
            if mine not in (1, groups):
                return False
    return True


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

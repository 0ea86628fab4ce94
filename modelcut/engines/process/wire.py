"""Messages between this process and one that runs networks: JSON, then raw arrays, by a pipe.

A message is the length of its JSON (uint32), the JSON, and the arrays that its `arrays` announce.
Nothing is unpickled on either side, and numbers are not copied on their way into the pipe.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import IO, Any

import ml_dtypes
import numpy as np

_LENGTHS = np.dtype("<i8")


def send(out: IO[bytes], message: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Writes a message.

    Args:
        out: binary stream that is written to.
        message: plain JSON data.
        arrays: arrays of numbers, or of text (objects: `str` or `bytes`).
    """
    entries: list[dict[str, Any]] = []
    blocks: list[Any] = []
    for array in arrays:
        entry: dict[str, Any] = {"shape": array.shape, "dtype": array.dtype.name}
        if array.dtype.kind in "OSU":
            items = [i.encode() if isinstance(i, str) else bytes(i) for i in array.ravel().tolist()]
            entry |= {"dtype": "text", "bytes": sum(map(len, items))}
            blocks += [np.array([len(item) for item in items], _LENGTHS), b"".join(items)]
        else:
            # As bytes: a type such as bfloat16 has no memory view of its own.
            blocks.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        entries.append(entry)
    head = json.dumps({**message, "arrays": entries}).encode()
    out.write(struct.pack("<I", len(head)) + head)
    for block in blocks:
        out.write(block)
    out.flush()


def receive(source: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Reads a message; text comes as objects, each of `bytes`.

    Raises:
        EOFError: the other side has ended.
    """
    (length,) = struct.unpack("<I", _read(source, 4).tobytes())
    message: dict[str, Any] = json.loads(_read(source, length).tobytes())
    return message, [_array(source, entry) for entry in message.pop("arrays")]


def _array(source: IO[bytes], entry: Mapping[str, Any]) -> np.ndarray:
    shape, name = tuple(entry["shape"]), entry["dtype"]
    if name != "text":
        kind = np.dtype(getattr(ml_dtypes, name, name))
        return _read(source, math.prod(shape) * kind.itemsize).view(kind).reshape(shape)
    lengths = _read(source, math.prod(shape) * _LENGTHS.itemsize).view(_LENGTHS)
    text = _read(source, entry["bytes"]).tobytes()
    ends = np.cumsum(lengths).tolist()
    array = np.empty(len(ends), object)
    array[:] = [text[end - size : end] for end, size in zip(ends, lengths.tolist(), strict=True)]
    return array.reshape(shape)


def _read(source: IO[bytes], count: int) -> np.ndarray:
    data = np.empty(count, np.uint8)
    rest = memoryview(data)  # type: ignore[arg-type]
    while rest:
        got: int = source.readinto(rest)  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        rest = rest[got:]
    return data

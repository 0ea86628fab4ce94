"""The record of an encoding in the head, and its arrays at the beginning of a payload."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from modelcut.formats.mcut.coding import CodingError, raw
from modelcut.formats.mcut.coding.bits import ByteReader, varint
from modelcut.model.encoding import Encoding, from_record

_ARRAY = 1
"""Code of the msgpack extension that stands for an array of the payload, by number."""

_DTYPES = (*"bool int8 uint8 int16 uint16 int32 uint32 int64 uint64".split(),)
_DTYPES += ("float16", "float32", "float64")


def apart(encoding: Encoding) -> tuple[Any, list[np.ndarray]]:
    """An encoding's record with numbers in place of its arrays, and the arrays."""
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return msgpack.ExtType(_ARRAY, bytes([len(arrays) - 1]))
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value.item() if isinstance(value, np.generic) else value

    return (plain(encoding.record()) if encoding.kinds != ("dense",) else None), arrays


def array_bytes(array: np.ndarray) -> bytes:
    """An array as it stands at the beginning of a payload."""
    head = bytes([_DTYPES.index(array.dtype.name)]) + varint(array.ndim)
    return head + b"".join(map(varint, array.shape)) + raw.encode(array)


def _read_array(reader: ByteReader, most: int) -> np.ndarray:
    number, rank = reader.byte(), reader.varint(32)
    shape = tuple(reader.varint(most) for _ in range(rank))
    if number >= len(_DTYPES) or math.prod(shape) > most:
        raise CodingError("an array of the encoding is out of range")
    return raw.decode(reader, math.prod(shape), np.dtype(_DTYPES[number])).reshape(shape)


def encoding_of(record: Any, reader: ByteReader, size: int) -> Encoding:
    """Takes an encoding's arrays from the beginning of a payload.

    Args:
        record: what `pack` gave.
        reader: of what it wrote; left behind the arrays.
        size: number of values.

    Raises:
        CodingError: it was not `pack` that wrote this.
    """
    if record is None:
        return from_record({"kind": "dense"})
    count = sum(isinstance(value, msgpack.ExtType) for value in _values(record))
    arrays = [_read_array(reader, max(size, 1 << 16)) for _ in range(count)]

    def whole(value: Any) -> Any:
        if isinstance(value, msgpack.ExtType):
            return arrays[value.data[0]]
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        return value

    try:
        return from_record(whole(record))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CodingError(f"its encoding is inconsistent ({error})") from None


def _values(record: Any) -> Iterator[Any]:
    if isinstance(record, dict):
        for value in record.values():
            yield from _values(value)
    else:
        yield record

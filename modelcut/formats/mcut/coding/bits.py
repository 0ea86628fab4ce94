"""Bytes with numbers of any size in them: varints (LEB128) and fields of a fixed width."""

from __future__ import annotations

import numpy as np

from modelcut.formats.mcut.coding import CodingError


def varint(value: int) -> bytes:
    """A number from 0 up in 7-bit groups, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(data: bytes) -> bytes:
    """Bytes behind their own length."""
    return varint(len(data)) + data


def pack(values: np.ndarray, width: int) -> bytes:
    """Numbers below 2^width, `width` bits each, the highest bit first."""
    if width == 0 or values.size == 0:
        return b""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint64)
    bits = (values.astype(np.uint64)[:, None] >> shifts) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def width_of(values: np.ndarray) -> int:
    """Bits that the largest of the values takes."""
    return int(values.max()).bit_length() if values.size else 0


class ByteReader:
    """Takes apart what `varint`, `block` and `pack` put together.

    Every method raises `CodingError` where the bytes end too soon.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read yet."""
        return len(self.data) - self.at

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if count > self.left:
            raise CodingError("a stream ends too soon")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self, limit: int) -> int:
        """A number from 0 to `limit`."""
        value = shift = 0
        while True:
            part = self.byte()
            value |= (part & 0x7F) << shift
            if not part & 0x80:
                break
            shift += 7
            if shift > 63:
                raise CodingError("a number is out of range")
        if value > limit:
            raise CodingError("a number is out of range")
        return value

    def block(self) -> memoryview:
        """Bytes behind their own length."""
        return self.take(self.varint(self.left))

    def fields(self, count: int, width: int) -> np.ndarray:
        """The inverse of `pack`: int64, shape (count,)."""
        if width > 48:
            raise CodingError("a number is out of range")
        raw = np.frombuffer(self.take((count * width + 7) // 8), np.uint8)
        bits = np.unpackbits(raw)[: count * width].reshape(count, width)
        weights = np.left_shift(np.int64(1), np.arange(width - 1, -1, -1, dtype=np.int64))
        return bits.astype(np.int64) @ weights if width else np.zeros(count, np.int64)

    def rest(self) -> memoryview:
        """All that is left."""
        return self.take(self.left)

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise CodingError("a stream continues after its end")

"""Sorted tables of keys and values: the `.index` file of a TensorFlow checkpoint.

The layout is LevelDB's: blocks of entries whose keys share prefixes, each block followed by a type
and a checksum; an index block; a footer with a magic number (tensorflow/core/lib/io/format.cc,
block_builder.cc, table_builder.cc). TensorFlow writes these tables uncompressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import google_crc32c

from modelcut.formats.saved_model.proto import ProtoError, read_varint, varint

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5
_BLOCK_BYTES = 256 << 10
_RESTART = 16
_MAX_KEY = 64 << 10
_MAX_KEYS = 256 << 20
"""Bytes of all keys: prefixes are shared, so that a small file can declare endless ones."""


def masked_crc(data: bytes, more: bytes = b"") -> int:
    """CRC-32C as TensorFlow stores it."""
    return mask(google_crc32c.extend(google_crc32c.value(data), more))


def mask(crc: int) -> int:
    """A checksum of data that holds checksums, made unlike them."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read(data: bytes) -> list[tuple[bytes, bytes]]:
    """The entries of a table, in order.

    Raises:
        ProtoError: it is cut short, damaged, or compressed.
    """
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ProtoError("not a table, or cut short")
    footer = data[-_FOOTER:]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    found: list[tuple[bytes, bytes]] = []
    spent = 0
    for _, place in _entries(_block(data, index)):
        for key, value in _entries(_block(data, _handle(place, 0)[0])):
            if found and key <= found[-1][0]:
                raise ProtoError("its keys are not in order")
            spent += len(key)
            if spent > _MAX_KEYS:
                raise ProtoError("its keys are longer than any model's")
            found.append((key, value))
    return found


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _block(data: bytes, place: tuple[int, int]) -> bytes:
    offset, size = place
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise ProtoError("a block lies outside the file")
    block, kind = data[offset:end], data[end : end + 1]
    if masked_crc(block, kind) != struct.unpack("<I", data[end + 1 : end + _TRAILER])[0]:
        raise ProtoError("a block does not match its checksum")
    if kind != b"\0":
        raise ProtoError("a block is compressed, as TensorFlow's are not")
    return block


def _entries(block: bytes) -> Iterable[tuple[bytes, bytes]]:
    if len(block) < 4:
        raise ProtoError("a block is cut short")
    end = len(block) - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    if end < 0:
        raise ProtoError("a block is cut short")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or shared + fresh > _MAX_KEY or at + fresh + length > end:
            raise ProtoError("a block is damaged")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def write(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A table of entries, which come in the order of their keys; as TensorFlow would write it."""
    out = bytearray()
    index = _Block(1)
    block, last, waiting = _Block(_RESTART), b"", None

    def flush() -> tuple[int, int]:
        nonlocal block
        place = _append(out, block)
        block = _Block(_RESTART)
        return place

    for key, value in entries:
        if block.count and len(key) + len(value) >= 2 * _BLOCK_BYTES:
            waiting = flush()
        if waiting is not None:
            index.add(_separator(last, key), _packed(waiting))
            waiting = None
        block.add(key, value)
        last = key
        if block.size >= _BLOCK_BYTES:
            waiting = flush()
    if block.count:
        waiting = flush()
    meta = _append(out, _Block(_RESTART))
    if waiting is not None:
        index.add(_successor(last), _packed(waiting))
    footer = _packed(meta) + _packed(_append(out, index))
    return bytes(out + footer.ljust(_FOOTER - 8, b"\0") + struct.pack("<Q", _MAGIC))


class _Block:
    """A block under way."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._data = bytearray()
        self._restarts = [0]
        self._since = 0
        self._last = b""
        self.count = 0

    @property
    def size(self) -> int:
        return len(self._data) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._since < self._interval:
            limit = min(len(key), len(self._last))
            while shared < limit and key[shared] == self._last[shared]:
                shared += 1
        else:
            self._restarts.append(len(self._data))
            self._since = 0
        self._data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        self._data += key[shared:] + value
        self._last = key
        self._since += 1
        self.count += 1

    def finish(self) -> bytes:
        ends = [*self._restarts, len(self._restarts)]
        return bytes(self._data) + struct.pack(f"<{len(ends)}I", *ends)


def _append(out: bytearray, block: _Block) -> tuple[int, int]:
    data, offset = block.finish(), len(out)
    out += data + b"\0" + struct.pack("<I", masked_crc(data, b"\0"))
    return offset, len(data)


def _packed(place: tuple[int, int]) -> bytes:
    return varint(place[0]) + varint(place[1])


def _separator(start: bytes, limit: bytes) -> bytes:
    """A short key from `start` on, below `limit`."""
    at = 0
    while at < min(len(start), len(limit)) and start[at] == limit[at]:
        at += 1
    if at < min(len(start), len(limit)) and start[at] < 0xFF and start[at] + 1 < limit[at]:
        return start[:at] + bytes([start[at] + 1])
    return start


def _successor(key: bytes) -> bytes:
    """A short key that is not below `key`."""
    for at, byte in enumerate(key):
        if byte != 0xFF:
            return key[:at] + bytes([byte + 1])
    return key

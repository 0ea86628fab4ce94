"""`fingerprint.pb`: hashes of a SavedModel's parts, of which an edit changes the checkpoint's.

TensorFlow hashes the checkpoint's index with FarmHash's Fingerprint64
(tensorflow/cc/saved_model/fingerprinting.cc), whose definition is in google/farmhash.
"""

from __future__ import annotations

from modelcut.formats.saved_model.proto import put_blob, put_integer, read_varint

_BITS = 0xFFFFFFFFFFFFFFFF
_K0, _K1, _K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
_CHECKPOINT, _UUID = 5, 7


def updated(fingerprint: bytes, index: bytes) -> bytes:
    """A fingerprint with the hash of another checkpoint index.

    Args:
        fingerprint: content of the file.
        index: content of `variables.index`.

    Raises:
        ProtoError: it is no message.
    """
    return _with(fingerprint, _CHECKPOINT, put_integer(_CHECKPOINT, hash64(index)))


def renamed(fingerprint: bytes) -> bytes:
    """A fingerprint whose random name gives way to one made of the hashes beside it.

    Args:
        fingerprint: content of the file.

    Raises:
        ProtoError: it is no message.
    """
    rest = _with(fingerprint, _UUID, b"")
    return rest + put_blob(_UUID, str(hash64(rest)).encode())


def _with(fingerprint: bytes, number: int, field: bytes) -> bytes:
    """The message with a field replaced, or appended."""
    result, at, placed = b"", 0, False
    while at < len(fingerprint):
        start = at
        tag, at = read_varint(fingerprint, at)
        if tag & 7 == 2:
            length, at = read_varint(fingerprint, at)
            at += length
        else:
            _, at = read_varint(fingerprint, at)
        if tag >> 3 != number:
            result += fingerprint[start:at]
        elif not placed:
            result += field
            placed = True
    return result if placed else result + field


def hash64(data: bytes) -> int:
    """FarmHash's Fingerprint64."""
    length = len(data)
    if length <= 16:
        return _up_to_16(data, length)
    mul = (_K2 + 2 * length) & _BITS
    if length <= 32:
        return _up_to_32(data, mul)
    return _up_to_64(data, mul) if length <= 64 else _long(data)


def _at(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def _rotate(value: int, bits: int) -> int:
    value &= _BITS
    return (value >> bits | value << (64 - bits)) & _BITS


def _shift_mix(value: int) -> int:
    value &= _BITS
    return value ^ value >> 47


def _mix(u: int, v: int, mul: int) -> int:
    a = _shift_mix((u ^ v) * mul)
    return _shift_mix((v ^ a) * mul) * mul & _BITS


def _up_to_16(data: bytes, length: int) -> int:
    mul = (_K2 + 2 * length) & _BITS
    if length >= 8:
        a, b = _at(data, 0) + _K2, _at(data, length - 8)
        return _mix((_rotate(b, 37) * mul + a) & _BITS, (_rotate(a, 25) + b) * mul & _BITS, mul)
    if length >= 4:
        first = int.from_bytes(data[:4], "little")
        return _mix(length + (first << 3), int.from_bytes(data[-4:], "little"), mul)
    if length:
        y, z = data[0] + (data[length >> 1] << 8), length + (data[-1] << 2)
        return _shift_mix(y * _K2 ^ z * _K0) * _K2 & _BITS
    return _K2


def _up_to_32(data: bytes, mul: int) -> int:
    a, b = _at(data, 0) * _K1, _at(data, 8)
    c, d = _at(data, len(data) - 8) * mul, _at(data, len(data) - 16) * _K2
    u = _rotate(a + b, 43) + _rotate(c, 30) + d
    return _mix(u & _BITS, a + _rotate(b + _K2, 18) + c & _BITS, mul)


def _up_to_64(data: bytes, mul: int) -> int:
    length = len(data)
    a, b = _at(data, 0) * _K2, _at(data, 8)
    c, d = _at(data, length - 8) * mul, _at(data, length - 16) * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d & _BITS
    z = _mix(y, a + _rotate(b + _K2, 18) + c & _BITS, mul)
    e, f = _at(data, 16) * mul, _at(data, 24)
    g, h = (y + _at(data, length - 32)) * mul, (z + _at(data, length - 24)) * mul
    u = _rotate(e + f, 43) + _rotate(g, 30) + h
    return _mix(u & _BITS, e + _rotate(f + a, 18) + g & _BITS, mul)


def _weak(data: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = (_at(data, at + 8 * i) for i in range(4))
    a = a + w & _BITS
    b = _rotate(b + a + z, 21)
    c = a
    a = a + x + y
    b += _rotate(a, 44)
    return a + z & _BITS, b + c & _BITS


def _long(data: bytes) -> int:
    length = len(data)
    x, y = 81, 81 * _K1 + 113 & _BITS
    z = _shift_mix(y * _K2 + 113) * _K2 & _BITS
    v = w = (0, 0)
    x = x * _K2 + _at(data, 0) & _BITS
    end = (length - 1) // 64 * 64
    for at in range(0, end, 64):
        x, y, z, v, w = _round(data, at, (x, y, z, v, w), _K1, 1)
    mul = _K1 + ((z & 0xFF) << 1)
    rest = length - 1 & 63
    first = w[0] + rest
    v = (v[0] + first & _BITS, v[1])
    w = (first + v[0] & _BITS, w[1])
    x, y, z, v, w = _round(data, end + rest - 63, (x, y, z, v, w), mul, 9)
    u = _mix(v[0], w[0], mul) + _shift_mix(y) * _K0 + z
    return _mix(u & _BITS, _mix(v[1], w[1], mul) + x & _BITS, mul)


_State = tuple[int, int, int, "tuple[int, int]", "tuple[int, int]"]


def _round(data: bytes, at: int, state: _State, mul: int, weight: int) -> _State:
    x, y, z, v, w = state
    x = _rotate(x + y + v[0] + _at(data, at + 8), 37) * mul & _BITS
    y = _rotate(y + v[1] + _at(data, at + 48), 42) * mul & _BITS
    x ^= w[1] * weight & _BITS
    y = y + v[0] * weight + _at(data, at + 40) & _BITS
    z = _rotate(z + w[0], 33) * mul & _BITS
    v = _weak(data, at, v[1] * mul, x + w[0])
    w = _weak(data, at + 32, z + w[1], y + _at(data, at + 16))
    return z, y, x, v, w

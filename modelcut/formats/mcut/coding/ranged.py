"""A range coder under a distribution that is stored with the stream.

The coder is `constriction`'s asymmetric numeral system (Duda 2013): within a few bytes of the
entropy. Probabilities are written with as many bits as pay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from modelcut.formats.mcut.coding import CodingError
from modelcut.formats.mcut.coding.bits import ByteReader, pack, varint, width_of

_PRECISIONS = (4, 5, 6, 7, 8, 10, 12, 14, 16)
"""Bits of the probabilities that are tried."""


def bits_of(counts: np.ndarray) -> int:
    """Bits of a stream with these counts, its table in."""
    table, frequencies = _choose(counts)
    return 8 * len(table) + 64 + math.ceil(_cross_entropy(counts, frequencies))


def encode(parts: Iterable[np.ndarray], counts: np.ndarray) -> bytes:
    """Codes a stream.

    Args:
        parts: of the symbols, int32, each of shape (n,), the last part first.
        counts: how often each symbol occurs; at least two do.
    """
    table, frequencies = _choose(counts)
    coder, odds = stack().AnsCoder(), model(frequencies)
    for part in parts:
        coder.encode_reverse(part, odds)
    return table + written(coder)


def decode(reader: ByteReader, size: int, alphabet: int) -> np.ndarray:
    """The inverse of `encode`; reads to the end of the stream.

    Returns:
        int32, shape (size,).

    Raises:
        CodingError: no encoder wrote this.
    """
    frequencies = _read_table(reader, alphabet)
    if not reader.left:
        raise CodingError("a stream is truncated")
    coder = started(reader)
    found = coder.decode(model(frequencies), size)
    ended(coder)
    return found


def written(coder: Any) -> bytes:
    """What a coder holds, without the zeros at its end."""
    return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def started(reader: ByteReader) -> Any:
    """A coder that holds all that is left."""
    raw = bytes(reader.rest())
    words = np.frombuffer(raw + b"\0" * (-len(raw) % 4), "<u4").astype(np.uint32)
    if words.size and not words[-1]:
        raise CodingError("a stream is truncated")
    return stack().AnsCoder(words) if words.size else stack().AnsCoder()


def ended(coder: Any) -> None:
    """Nothing may be left in a coder."""
    if not coder.is_empty():
        raise CodingError("a stream does not end where it should")


def _choose(counts: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The table for which table and stream are smallest, and its frequencies."""
    return _chosen(counts.astype(np.int64, copy=False).tobytes())


@lru_cache(maxsize=8)
def _chosen(raw: bytes) -> tuple[bytes, np.ndarray]:
    """The same, found once for the look at what a stream would take and for its writing."""
    counts = np.frombuffer(raw, np.int64)
    best: tuple[float, bytes, np.ndarray] | None = None
    for bits in _PRECISIONS:
        frequencies = _quantized(counts, bits)
        if frequencies is None:
            continue
        table = _table(frequencies, bits)
        cost = 8 * len(table) + _cross_entropy(counts, frequencies)
        if best is None or cost < best[0]:
            best = cost, table, frequencies
    assert best is not None
    best[2].flags.writeable = False
    return best[1], best[2]


def _cross_entropy(counts: np.ndarray, frequencies: np.ndarray) -> float:
    used = counts > 0
    total = math.log2(int(frequencies.sum()))
    return float((counts[used] * (total - np.log2(frequencies[used]))).sum())


def _quantized(counts: np.ndarray, bits: int) -> np.ndarray | None:
    """Frequencies out of 2^bits, at least 1 for each symbol that occurs; None if too many."""
    used = counts > 0
    whole = 1 << bits
    if 2 * int(used.sum()) > whole:
        return None
    frequencies = np.where(used, np.maximum(1, np.rint(counts * (whole / counts.sum()))), 0)
    frequencies = frequencies.astype(np.int64)
    excess = int(frequencies.sum()) - whole
    if excess < 0:
        frequencies[frequencies.argmax()] -= excess
    for _ in range(excess):
        frequencies[frequencies.argmax()] -= 1
    return frequencies


def _table(frequencies: np.ndarray, bits: int) -> bytes:
    """All frequencies but the largest, which follows from their sum."""
    most = int(frequencies.argmax())
    rest = np.delete(frequencies, most)
    width = width_of(rest)
    return bytes([bits, width]) + varint(most) + pack(rest, width)


def _read_table(reader: ByteReader, alphabet: int) -> np.ndarray:
    bits, width = reader.byte(), reader.byte()
    if bits > _PRECISIONS[-1] or width > bits:
        raise CodingError("probabilities are out of range")
    most = reader.varint(alphabet - 1)
    rest = reader.fields(alphabet - 1, width)
    left = (1 << bits) - int(rest.sum())
    if left <= 0:
        raise CodingError("probabilities are out of range")
    return np.insert(rest, most, left)


def model(frequencies: np.ndarray) -> Any:
    """Of one distribution for all symbols; the frequencies are whole numbers."""
    return _models().Categorical(frequencies / float(frequencies.sum()), perfect=False)


def family() -> Any:
    """Of a distribution for each symbol, given as float64 rows that add up to a power of 2."""
    return _models().Categorical(perfect=False)


def stack() -> Any:
    """The module of the coder; it takes and gives back symbols in opposite orders."""
    import constriction  # its parts are no modules: they cannot be imported by name

    return constriction.stream.stack


def _models() -> Any:
    import constriction

    return constriction.stream.model

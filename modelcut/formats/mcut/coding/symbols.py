"""Arrays of small integers, most of them often alike, coded as independent blocks.

Where one symbol makes up more than half of a block (the zero of a pruned tensor), Huffman codes go
to the runs between the others and, in a stream of their own, to the others themselves; the range
coder spends a fraction of a bit on the common symbol and needs no runs. Where a block is a matrix,
the range coder can follow its rows, columns and neighbours (`context`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from modelcut.arrays import floats
from modelcut.formats.base import Coder
from modelcut.formats.mcut.coding import CodingError, context, huffman, ranged
from modelcut.formats.mcut.coding.bits import ByteReader, block, pack, varint

MOST_SYMBOLS = huffman.MOST_SYMBOLS
"""Largest alphabet."""

MOST_SIZE = 1 << 40

_CONSTANT, _PLAIN, _RUNS, _RANGE, _CONTEXT = range(5)
NAMES = ("constant", "huffman", "huffman", "range", "context")

_SMALL = 1 << 16
"""Of smaller blocks every form is tried."""
_WORTH = 0.003
"""Of the bits of a larger block: what contexts must promise, for they take their time."""

_PART = 1 << 18
"""Symbols handed to the range coder at a time: as int32, a megabyte."""

_ESCAPE = 255
_GEOMETRIC, _LISTED = range(2)


class Symbols:
    """A block of symbols, as all of them or as the positions of those that are not the common one.

    Attributes:
        size: how many symbols.
        alphabet: symbols are below it.
        whole: all symbols, shape (size,), where they are at hand; None where `places` were given.
        width: symbols a row, where they are a matrix; 0: they are none.
    """

    def __init__(
        self,
        size: int,
        alphabet: int,
        common: int = 0,
        places: np.ndarray | None = None,
        values: np.ndarray | None = None,
        whole: np.ndarray | None = None,
        width: int = 0,
    ) -> None:
        """Either `whole`, or the others.

        Args:
            size: how many symbols.
            alphabet: symbols are below it.
            common: the symbol everywhere but at the positions.
            places: int64, ascending.
            values: unsigned, at the positions; none is `common`.
            whole: all symbols.
            width: of a row.
        """
        self.size = size
        self.width = width
        self.alphabet = alphabet
        self.whole = whole
        if whole is None:
            assert places is not None
            assert values is not None
            self.common, self.places, self.values = common, places, values

    @classmethod
    def of(cls, symbols: np.ndarray, alphabet: int) -> Symbols:
        """From an array of symbols, any shape."""
        flat = symbols.reshape(-1)
        return cls(flat.size, alphabet, whole=flat, width=width_of(symbols.shape))

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each symbol occurs."""
        if self.whole is not None:
            return floats.histogram(self.whole, self.alphabet)
        counts = floats.histogram(self.values, self.alphabet)
        counts[self.common] += self.size - self.values.size
        return counts

    @cached_property
    def common(self) -> int:
        """The most frequent symbol, or the one that was given as such."""
        return int(self.counts.argmax())

    @cached_property
    def places(self) -> np.ndarray:
        """Where the other symbols are: int64, ascending."""
        return np.flatnonzero(self.whole != self.common)

    @cached_property
    def values(self) -> np.ndarray:
        """The symbols at the positions."""
        assert self.whole is not None
        return self.whole[self.places]

    def dense(self, dtype: type[np.number]) -> np.ndarray:
        """All symbols, shape (size,)."""
        if self.whole is not None:
            return self.whole.astype(dtype, copy=False)
        full = np.full(self.size, self.common, dtype)
        full[self.places] = self.values
        return full

    def backwards(self) -> Iterator[np.ndarray]:
        """All symbols as int32, in parts that fit the cache, the last one first.

        Each part is overwritten by the next.
        """
        starts = range(0, self.size, _PART)
        whole = np.empty(min(_PART, self.size), np.int32)
        ends = np.searchsorted(self.places, [*starts, self.size]) if self.whole is None else ()
        for number, start in reversed(list(enumerate(starts))):
            part = whole[: self.size - start]
            if self.whole is not None:
                part[:] = self.whole[start : start + _PART]
            else:
                mine = slice(ends[number], ends[number + 1])
                part.fill(self.common)
                part[self.places[mine] - start] = self.values[mine]
            yield part


def encode(symbols: Symbols, coder: Coder) -> bytes:
    """Codes a block; its size and alphabet are for the decoder to know.

    Args:
        symbols: the block.
        coder: huffman, range (on its own or in contexts), or the one that comes out smaller.
    """
    counts = symbols.counts
    if np.count_nonzero(counts) <= 1:
        return bytes([_CONSTANT]) + varint(int(counts.argmax()))
    if counts[symbols.common] < counts.max():
        shape = (-1, symbols.width) if symbols.width else (-1,)
        symbols = Symbols.of(symbols.dense(np.uint16).reshape(shape), symbols.alphabet)
    runs = 2 * int(counts.max()) > symbols.size
    other = _Runs(symbols) if runs else _Plain(symbols)
    if coder == "huffman":
        return other.written()
    small = symbols.size <= _SMALL
    bits = ranged.bits_of(counts)
    parts = []
    if runs and symbols.width and (small or _promising(symbols, bits)):
        found = context.encode(
            symbols.dense(np.uint16), symbols.width, symbols.alphabet, symbols.common
        )
        if found is not None:
            parts.append(bytes([_CONTEXT]) + found)
    if small or not parts or 8 * len(parts[0]) > bits:
        parts.append(_range(symbols))
    best = min(parts, key=len)
    # How long the stream would be is told much faster than it is written.
    if coder == "best" and other.bits < 8 * len(best) and other.size < len(best):
        return other.written()
    return best


def _promising(symbols: Symbols, bits: int) -> bool:
    return context.promises(symbols.places, symbols.size, symbols.width) > _WORTH * bits


def width_of(shape: tuple[int, ...]) -> int:
    """Symbols a row of an array of this shape; 0 where it has no rows."""
    return shape[-1] if len(shape) > 1 else 0


def name_of(data: bytes | memoryview) -> str:
    """Which coder wrote a block."""
    return NAMES[data[0]] if len(data) and data[0] < len(NAMES) else "?"


def decode(data: bytes | memoryview, size: int, alphabet: int, width: int = 0) -> Symbols:
    """The inverse of `encode`.

    Args:
        data: what it made.
        size: how many symbols.
        alphabet: symbols are below it.
        width: of a row; 0: they are no matrix.

    Raises:
        CodingError: no encoder wrote this.
    """
    reader = ByteReader(data)
    kind = reader.byte()
    if kind == _CONSTANT:
        common = reader.varint(alphabet - 1)
        reader.end()
        return Symbols(size, alphabet, common, np.zeros(0, np.int64), np.zeros(0, np.uint16))
    if kind == _RUNS:
        return _read_runs(reader, size, alphabet)
    if kind == _PLAIN:
        lengths = _read_lengths(reader, alphabet)
        return Symbols.of(huffman.decode(reader, size, lengths), alphabet)
    if kind == _RANGE:
        return Symbols.of(ranged.decode(reader, size, alphabet), alphabet)
    if kind == _CONTEXT:
        return Symbols.of(context.decode(reader, size, width, alphabet), alphabet)
    raise CodingError("a stream is of an unknown kind")


def _range(symbols: Symbols) -> bytes:
    return bytes([_RANGE]) + ranged.encode(symbols.backwards(), symbols.counts)


class _Plain:
    """Huffman codes of all symbols."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._lengths = huffman.code_lengths(symbols.counts)
        self._head = bytes([_PLAIN]) + _listed(self._lengths)

    @property
    def bits(self) -> int:
        """What it takes without lanes: never more than with them."""
        return 8 * len(self._head) + huffman.bits_of(self._symbols.counts, self._lengths)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        dense = self._symbols.dense(np.uint16)
        return len(self._head) + huffman.size_of(dense, self._lengths)

    def written(self) -> bytes:
        """The block."""
        return self._head + huffman.encode(self._symbols.dense(np.uint16), self._lengths)


class _Runs:
    """Huffman codes of the runs between symbols that are not the common one, and of those."""

    def __init__(self, symbols: Symbols) -> None:
        self._values = symbols.values
        self._symbols = symbols

    @cached_property
    def _gaps(self) -> tuple[np.ndarray, np.ndarray, int]:
        return _gaps(self._symbols)

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.bincount(self._gaps[0], minlength=_ESCAPE + 1)

    @cached_property
    def _used(self) -> tuple[np.ndarray, np.ndarray]:
        counts = np.bincount(self._values, minlength=self._symbols.alphabet)
        return counts, huffman.code_lengths(counts)

    @cached_property
    def _table(self) -> tuple[bytes, np.ndarray]:
        """How the code lengths of the runs are told, and those."""
        high, counts = self._gaps[0], self._counts
        listed = huffman.code_lengths(counts)
        mean = max(1, round(8 * float(high.sum(dtype=np.int64)) / high.size))
        choices = [
            (bytes([_LISTED]) + _listed(listed), listed),
            (bytes([_GEOMETRIC]) + varint(mean), _geometric(mean)),
        ]
        return min(choices, key=lambda c: 8 * len(c[0]) + huffman.bits_of(counts, c[1]))

    @property
    def bits(self) -> int:
        """What it takes without lanes and tables: never more than with them."""
        _, low, shift = self._gaps
        gaps = huffman.bits_of(self._counts, huffman.code_lengths(self._counts))
        return huffman.bits_of(*self._used) + gaps + shift * low.size

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        high, low, shift = self._gaps
        runs = huffman.size_of(high, self._table[1])
        values = huffman.size_of(self._values, self._used[1])
        tables = len(self._head) + len(_listed(self._used[1]))
        return tables + len(varint(runs)) + runs + (low.size * shift + 7) // 8 + values

    @property
    def _head(self) -> bytes:
        high, _, shift = self._gaps
        count = self._values.size
        numbers = varint(self._symbols.common) + varint(count) + varint(high.size - count)
        return bytes([_RUNS]) + numbers + bytes([shift]) + self._table[0]

    def written(self) -> bytes:
        """The block."""
        high, low, shift = self._gaps
        own = self._used[1]
        runs = block(huffman.encode(high, self._table[1]))
        values = _listed(own) + huffman.encode(self._values, own)
        return self._head + runs + pack(low, shift) + values


def _gaps(symbols: Symbols) -> tuple[np.ndarray, np.ndarray, int]:
    """Runs of the common symbol: high parts (uint8, runs of 255 first), low bits, their width."""
    gaps = np.diff(symbols.places, prepend=-1) - 1
    mean = (symbols.size - gaps.size) // max(1, gaps.size)
    shift = max(0, mean.bit_length() - 5)
    low = gaps & ((1 << shift) - 1)
    high = gaps >> shift
    if high.size == 0 or int(high.max()) < _ESCAPE:
        return high.astype(np.uint8), low, shift
    escapes = high // _ESCAPE
    ends = np.cumsum(escapes + 1) - 1
    found = np.full(int(ends[-1]) + 1, _ESCAPE, np.uint8)
    found[ends] = high % _ESCAPE
    return found, low, shift


def _read_runs(reader: ByteReader, size: int, alphabet: int) -> Symbols:
    common = reader.varint(alphabet - 1)
    count = reader.varint(size)
    escapes = reader.varint(size // _ESCAPE + 1)
    shift = reader.byte()
    if shift > 40 or count == 0:
        raise CodingError("runs are out of range")
    if reader.byte() == _GEOMETRIC:
        lengths = _geometric(reader.varint(1 << 20))
    else:
        lengths = _read_lengths(reader, _ESCAPE + 1)
    high = huffman.decode(ByteReader(reader.block()), count + escapes, lengths)
    low = reader.fields(count, shift)
    own = _read_lengths(reader, alphabet)
    values = huffman.decode(reader, count, own)
    ends = np.flatnonzero(high != _ESCAPE)
    if ends.size != count or ends[-1] != high.size - 1:
        raise CodingError("runs do not match their symbols")
    places = np.cumsum(high, dtype=np.int64)
    if escapes:
        places = places[ends]
    places <<= shift
    if shift:
        places += np.cumsum(low)
    places += np.arange(count)
    if places[-1] >= size:
        raise CodingError("runs extend beyond the tensor")
    return Symbols(size, alphabet, common, places, values)


def _geometric(mean: int) -> np.ndarray:
    """Code lengths for runs of a geometric distribution; integers only, the same everywhere.

    Args:
        mean: eight times the mean run.
    """
    keep = (mean << 16) // (mean + 8)
    weight = 1 << 48
    weights = []
    for _ in range(_ESCAPE):
        weights.append(max(1, weight))
        weight = weight * keep >> 16
    weights.append(max(1, weight * mean // 8))
    return huffman.code_lengths(np.asarray(weights, np.int64))


def _listed(lengths: np.ndarray) -> bytes:
    """Code lengths, half a byte each, up to the last that is used."""
    last = int(np.flatnonzero(lengths)[-1]) + 1 if lengths.any() else 0
    return varint(last) + pack(lengths[:last], 4)


def _read_lengths(reader: ByteReader, alphabet: int) -> np.ndarray:
    last = reader.varint(alphabet)
    lengths = np.zeros(alphabet, np.uint8)
    lengths[:last] = reader.fields(last, 4)
    return lengths

"""One tensor of a packed file as bytes, and back, bit for bit.

Which way it is written is settled by trying: codes of the tensor's encoding only where they give
back every bit; else a palette, where few different values occur; else the non-zero values and
where they are; else all values. A way that a NaN or a −0.0 breaks is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from modelcut.arrays.blocks import ALL, in_threads
from modelcut.arrays.clock import working
from modelcut.formats.base import Coder
from modelcut.formats.mcut.coding import CodingError, raw, symbols
from modelcut.formats.mcut.coding.bits import ByteReader, block, varint
from modelcut.formats.mcut.coding.symbols import Symbols
from modelcut.model.encoding import Encoding, from_record

BLOCK_VALUES = 1 << 22
"""Values that are coded together; part of the format."""

_RAW, _KEPT, _PALETTE, _CODES = range(4)
_ARRAY = 1
"""Code of the msgpack extension that stands for an array of the payload, by number."""

_DTYPES = (*"bool int8 uint8 int16 uint16 int32 uint32 int64 uint64".split(),)
_DTYPES += ("float16", "float32", "float64")
_MOST_PALETTE = 256
_SAMPLE = 1 << 16
_TAKEN = 1 << 16
"""Values taken from a table at a time: NumPy makes indices of eight bytes first."""
_SMALL_BYTES = 1 << 20
"""Of tensors below it all ways are tried; of larger ones the first that fits is taken."""


class _Unfit(Exception):  # noqa: N818 - another way is taken
    """This way does not give the values back."""


@dataclass(frozen=True)
class Packed:
    """A tensor as bytes.

    Attributes:
        record: the part in the head: the encoding's record, its arrays replaced by numbers;
            None for plain dense.
        payload: the rest.
        coder: in a word, who wrote most of it.
    """

    record: Any
    payload: bytes
    coder: str


def pack(values: np.ndarray, encoding: Encoding, coder: Coder) -> Packed:
    """Packs one tensor, block by block on all cores.

    Args:
        values: any dtype of at most 8 bytes, any shape; C-contiguous.
        encoding: what they are restricted to, as far as it holds.
        coder: of codes and positions.
    """
    record, arrays = _apart(encoding)
    values = values if values.flags.c_contiguous else np.ascontiguousarray(values)
    ways: list[Callable[[], bytes]] = []
    alphabet = encoding.symbols
    if values.ndim and alphabet is not None and alphabet <= symbols.MOST_SYMBOLS:
        ways.append(lambda: bytes([_CODES]) + _blocks(values, _coding(values, encoding, coder)))
    ways.append(lambda: _with_palette(values, coder))
    if 10 * np.count_nonzero(_sample(values)) <= 9 * min(values.size, _SAMPLE):
        ways.append(lambda: bytes([_KEPT]) + _blocks(values, _keeping(values, coder)))
    ways.append(
        lambda: bytes([_RAW]) + _blocks(values, lambda rows: raw.encode(_part(values, rows)))
    )
    found: list[bytes] = []
    for way in ways:
        try:
            found.append(way())
        except _Unfit:
            continue
        if values.nbytes > _SMALL_BYTES:
            break
    best = min(found, key=len)
    return Packed(record, b"".join(map(_array, arrays)) + best, _coder(best, values.dtype.itemsize))


def unpack(
    record: Any, payload: bytes, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[np.ndarray, Encoding]:
    """The inverse of `pack`.

    Raises:
        CodingError: it was not `pack` that wrote this.
    """
    reader = ByteReader(payload)
    encoding = _encoding(record, reader, _size(shape))
    way = reader.byte()
    palette = _read_palette(reader, dtype) if way == _PALETTE else None
    values = np.empty(shape, dtype)
    width = symbols.width_of(shape)
    parts = [(rows, reader.block()) for rows in row_blocks(shape)]
    if any(reader.rest()):  # zeros may follow, see `mcut`
        raise CodingError("a payload continues after its end")

    def place(part: tuple[slice, memoryview]) -> None:
        rows, data = part
        target = _part(values, rows)
        if way == _RAW:
            own = ByteReader(data)
            target.reshape(-1)[:] = raw.decode(own, target.size, dtype)
            own.end()
        elif way == _KEPT:
            own = ByteReader(data)
            found = symbols.decode(own.block(), target.size, 2, width)
            where = np.flatnonzero(found.dense(np.uint8)) if found.common else found.places
            flat = target.reshape(-1)
            _bits(flat)[:] = 0
            flat[where] = raw.decode(own, where.size, dtype)
            own.end()
        elif way == _PALETTE:
            assert palette is not None
            found = symbols.decode(data, target.size, palette.size, width)
            _place(target, found, palette)
        elif way == _CODES:
            found = symbols.decode(data, target.size, _alphabet(encoding), width)
            _decode(target, found, encoding, rows)
        else:
            raise CodingError("values are written in an unknown way")

    for _ in in_threads(place, parts):
        pass
    return values, encoding


def encoding_of(record: Any, payload: bytes, size: int) -> Encoding:
    """The encoding only.

    Raises:
        CodingError: it was not `pack` that wrote this.
    """
    return _encoding(record, ByteReader(payload), size)


def row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Rows of axis 0 that are coded together; part of the format."""
    if not shape:
        return [ALL]
    row = max(1, _size(shape[1:]))
    step = max(1, BLOCK_VALUES // row)
    return [slice(at, min(at + step, shape[0])) for at in range(0, shape[0], step)]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _blocks(values: np.ndarray, function: Callable[[slice], bytes]) -> bytes:
    def one(rows: slice) -> bytes:
        with working("code"):
            return function(rows)

    return b"".join(block(data) for data in in_threads(one, row_blocks(values.shape)))


def _part(values: np.ndarray, rows: slice) -> np.ndarray:
    return values[rows] if values.ndim else values


def _bits(values: np.ndarray) -> np.ndarray:
    """The values' bits as unsigned integers, flat."""
    return values.reshape(-1).view(f"u{values.dtype.itemsize}")


def _places(values: np.ndarray) -> np.ndarray:
    """Where the values are whose bits are not all 0: int64, ascending."""
    # The comparison first: NumPy finds what is true much faster than what is not zero.
    return np.flatnonzero(_bits(values) != 0)


def _sample(values: np.ndarray) -> np.ndarray:
    flat = _bits(values)
    return flat[:: max(1, flat.size // _SAMPLE)][:_SAMPLE]


def _coding(values: np.ndarray, encoding: Encoding, coder: Coder) -> Callable[[slice], bytes]:
    """Codes of the encoding; checked by decoding them."""
    alphabet = _alphabet(encoding)
    inner = encoding.unmasked if _gathers(encoding) else None

    def one(rows: slice) -> bytes:
        part = _part(values, rows)
        with np.errstate(all="ignore"):
            if inner is None:
                codes = encoding.codes(part, rows)
                same = _same(encoding.decode(codes, part.dtype, rows), part)
                found = Symbols.of(codes, alphabet) if same else None
            else:
                places = _places(part)
                kept = part.reshape(-1)[places].reshape(-1, *[1] * max(0, part.ndim - 1))
                codes = inner.codes(kept)
                same = _same(inner.decode(codes, part.dtype), kept)
                codes = codes.reshape(-1).astype(np.min_scalar_type(alphabet), copy=False)
                codes += np.ones((), codes.dtype)
                width = symbols.width_of(part.shape)
                found = Symbols(part.size, alphabet, 0, places, codes, width=width)
                found = found if same else None
        if found is None:
            raise _Unfit
        return symbols.encode(found, coder)

    return one


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and np.array_equal(_bits(one), _bits(two))


def _gathers(encoding: Encoding) -> bool:
    """Whether the kept values can be coded without the zeros between them."""
    return encoding.unmasked is not encoding and encoding.unmasked.uniform


def _decode(target: np.ndarray, found: Symbols, encoding: Encoding, rows: slice) -> None:
    if _gathers(encoding):
        known = np.arange(found.alphabet - 1, dtype=np.uint16)
        inner = encoding.unmasked.decode(known.reshape(-1, *[1] * (target.ndim - 1)), target.dtype)
        _place(target, found, np.append(np.zeros(1, target.dtype), inner.reshape(-1)))
        return
    codes = found.dense(np.uint16).reshape(target.shape)
    target[...] = encoding.decode(codes, target.dtype, rows)


def _place(target: np.ndarray, found: Symbols, table: np.ndarray) -> None:
    """Replaces each symbol by its value."""
    flat = target.reshape(-1)
    if found.whole is not None:
        for start in range(0, flat.size, _TAKEN):
            part = slice(start, start + _TAKEN)
            np.take(table, found.whole[part], out=flat[part], mode="clip")
        return
    flat[:] = table[found.common]
    flat[found.places] = table[found.values]


def _alphabet(encoding: Encoding) -> int:
    alphabet = encoding.symbols
    if alphabet is None or not 1 <= alphabet <= symbols.MOST_SYMBOLS:
        raise CodingError("an encoding has no codes")
    return alphabet


def _palette(values: np.ndarray) -> np.ndarray | None:
    """The different bit patterns, 0 the first; None where they are too many to pay."""
    sample = _sample(values)
    known = np.unique(np.append(sample, np.zeros(1, sample.dtype)))
    if known.size > _MOST_PALETTE or 2 * known.size > values.size:
        return None
    for rows in row_blocks(values.shape):
        part = _bits(_part(values, rows))
        part = part[part != 0]
        index = np.searchsorted(known, part)
        strange = part[known[np.minimum(index, known.size - 1)] != part]
        if strange.size:
            known = np.unique(np.concatenate([known, strange]))
        if known.size > _MOST_PALETTE:
            return None
    return known.astype(f"u{values.dtype.itemsize}")


def _with_palette(values: np.ndarray, coder: Coder) -> bytes:
    palette = _palette(values)
    if palette is None:
        raise _Unfit

    width = symbols.width_of(values.shape)

    def one(rows: slice) -> bytes:
        part = _bits(_part(values, rows))
        places = _places(part)
        index = np.searchsorted(palette, part[places]).astype(np.uint16)
        found = Symbols(part.size, palette.size, 0, places, index, width=width)
        return symbols.encode(found, coder)

    head = bytes([_PALETTE]) + varint(palette.size) + raw.encode(palette)
    return head + _blocks(values, one)


def _read_palette(reader: ByteReader, dtype: np.dtype) -> np.ndarray:
    size = reader.varint(_MOST_PALETTE)
    return raw.decode(reader, size, np.dtype(f"u{dtype.itemsize}")).view(dtype)


def _keeping(values: np.ndarray, coder: Coder) -> Callable[[slice], bytes]:
    """Where the values are whose bits are not all 0, and those values."""
    width = symbols.width_of(values.shape)

    def one(rows: slice) -> bytes:
        part = _part(values, rows).reshape(-1)
        places = _places(part)
        ones = np.ones(places.size, np.uint16)
        found = Symbols(part.size, 2, 0, places, ones, width=width)
        return block(symbols.encode(found, coder)) + raw.encode(part[places])

    return one


def _coder(data: bytes, itemsize: int) -> str:
    """The coder of the first block, which stands for all."""
    if data[0] == _RAW or len(data) < 3:
        return "zstd"
    reader = ByteReader(data)
    way = reader.byte()
    if way == _PALETTE:
        size = reader.varint(_MOST_PALETTE)
        raw.skip(reader, size, itemsize)
    first = reader.block()
    if way != _KEPT:
        return symbols.name_of(first)
    places = symbols.name_of(ByteReader(first).block())
    return places if places == "constant" else "zstd"


def _apart(encoding: Encoding) -> tuple[Any, list[np.ndarray]]:
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


def _array(array: np.ndarray) -> bytes:
    head = bytes([_DTYPES.index(array.dtype.name)]) + varint(array.ndim)
    return head + b"".join(map(varint, array.shape)) + raw.encode(array)


def _read_array(reader: ByteReader, most: int) -> np.ndarray:
    number, rank = reader.byte(), reader.varint(32)
    shape = tuple(reader.varint(most) for _ in range(rank))
    if number >= len(_DTYPES) or _size(shape) > most:
        raise CodingError("an array of the encoding is out of range")
    return raw.decode(reader, _size(shape), np.dtype(_DTYPES[number])).reshape(shape)


def _encoding(record: Any, reader: ByteReader, size: int) -> Encoding:
    """Takes an encoding's arrays from the beginning of a payload."""
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

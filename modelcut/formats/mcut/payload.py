"""One tensor of a packed file as bytes, and back, bit for bit.

Which way it is written is settled by trying: codes of the tensor's encoding only where they give
back every bit; else a palette, where few different values occur; else the non-zero values and
where they are; else all values. A way that a NaN or a −0.0 breaks is not taken.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.arrays.blocks import ALL, in_threads
from modelcut.arrays.clock import working
from modelcut.formats.base import Coder
from modelcut.formats.mcut.coding import CodingError, raw, symbols
from modelcut.formats.mcut.coding.bits import ByteReader, block, varint
from modelcut.formats.mcut.coding.symbols import Symbols
from modelcut.formats.mcut.parameters import apart, array_bytes, encoding_of
from modelcut.formats.mcut.sink import Sink
from modelcut.formats.mcut.values import (
    MOST_DIFFERENT,
    Values,
    bits,
    look,
    part,
    pieces,
    places,
    taken,
)
from modelcut.model.encoding import Encoding

BLOCK_VALUES = 1 << 22
"""Values that are coded together; part of the format."""

_RAW, _KEPT, _PALETTE, _CODES = range(4)
_TAKEN = 1 << 16
"""Values taken from a table at a time: NumPy makes indices of eight bytes first."""
_SMALL_BYTES = 1 << 20
"""Of tensors below it all ways are tried; of larger ones the first that fits is taken."""


class _Unfit(Exception):  # noqa: N818 - another way is taken
    """This way does not give the values back."""


@dataclass(frozen=True)
class Packed:
    """What is known of a tensor that was written.

    Attributes:
        record: the part in the head: the encoding's record, its arrays replaced by numbers;
            None for plain dense.
        coder: in a word, who wrote most of it.
    """

    record: Any
    coder: str


def pack(values: Values, encoding: Encoding, coder: Coder, out: Sink) -> Packed:
    """Packs one tensor, block by block on all cores, each written as it is done.

    Args:
        values: any dtype of at most 8 bytes, any shape.
        encoding: what they are restricted to, as far as it holds.
        coder: of codes and positions.
        out: where the payload goes.
    """
    record, arrays = apart(encoding)
    if isinstance(values, np.ndarray):
        values = values if values.flags.c_contiguous else np.ascontiguousarray(values)
    for array in arrays:
        out.write(array_bytes(array))
    ways = _ways(values, encoding, coder)
    if values.nbytes <= _SMALL_BYTES:
        found = []
        for way in ways:
            with contextlib.suppress(_Unfit):
                found.append(b"".join(way))
        first = min(found, key=len)
        out.write(first)
    else:
        mark = out.mark()
        for way in ways:
            begun: list[bytes] = []
            with contextlib.suppress(_Unfit):
                for piece in way:
                    out.write(piece)
                    if len(begun) < 2:
                        begun.append(piece)
                break
            out.back(mark)
        first = b"".join(begun)
    return Packed(record, _coder(first, values.dtype.itemsize))


def _ways(values: Values, encoding: Encoding, coder: Coder) -> Iterator[Iterator[bytes]]:
    """The ways that may fit, each as the pieces of its bytes; those raise `_Unfit`."""
    alphabet = encoding.symbols
    if values.shape and alphabet is not None and alphabet <= symbols.MOST_SYMBOLS:
        yield _blocks(bytes([_CODES]), values, _coding(values, encoding, coder))
    seen = look(values)
    yield _with_palette(values, seen.different, coder)
    if seen.sparse:
        yield _blocks(bytes([_KEPT]), values, _keeping(values, coder))
    yield _blocks(bytes([_RAW]), values, _all_of(values))


def unpack(
    record: Any, reader: ByteReader, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[np.ndarray, Encoding]:
    """The inverse of `pack`.

    Args:
        record: what `pack` gave.
        reader: of what it wrote; read once, in order.
        shape: of the values.
        dtype: of the values.

    Raises:
        CodingError: it was not `pack` that wrote this.
    """
    encoding = encoding_of(record, reader, math.prod(shape))
    way = reader.byte()
    palette = _read_palette(reader, dtype) if way == _PALETTE else None
    values = np.empty(shape, dtype)

    def place(found: tuple[slice, memoryview]) -> None:
        rows, data = found
        target = part(values, rows)
        if way == _CODES:
            _decode(target, data, encoding, rows)
        else:
            _fill(target, data, way, palette)

    for _ in in_threads(place, ((rows, reader.block()) for rows in row_blocks(shape))):
        pass
    while reader.left:  # zeros may follow, see `container`
        if any(reader.take(min(reader.left, _SMALL_BYTES))):
            raise CodingError("a payload continues after its end")
    return values, encoding


def _fill(target: np.ndarray, data: memoryview, way: int, palette: np.ndarray | None) -> None:
    """Decodes a block that was not written by codes of the encoding."""
    width = symbols.width_of(target.shape)
    if way == _RAW:
        own = ByteReader(data)
        target.reshape(-1)[:] = raw.decode(own, target.size, target.dtype)
        own.end()
    elif way == _KEPT:
        own = ByteReader(data)
        found = symbols.decode(own.block(), target.size, 2, width)
        where = np.flatnonzero(found.dense(np.uint8)) if found.common else found.places
        flat = target.reshape(-1)
        bits(flat)[:] = 0
        flat[where] = raw.decode(own, where.size, target.dtype)
        own.end()
    elif way == _PALETTE:
        assert palette is not None
        found = symbols.decode(data, target.size, palette.size, width)
        _place(target, found, palette)
    else:
        raise CodingError("values are written in an unknown way")


def row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Rows of axis 0 that are coded together; part of the format."""
    if not shape:
        return [ALL]
    row = max(1, math.prod(shape[1:]))
    step = max(1, BLOCK_VALUES // row)
    return [slice(at, min(at + step, shape[0])) for at in range(0, shape[0], step)]


def _blocks(head: bytes, values: Values, function: Callable[[slice], bytes]) -> Iterator[bytes]:
    yield head
    for data in in_threads(function, row_blocks(values.shape)):
        yield block(data)


def _all_of(values: Values) -> Callable[[slice], bytes]:
    def one(rows: slice) -> bytes:
        own = taken(values, rows)
        with working("code"):
            return raw.encode(own)

    return one


def _coding(values: Values, encoding: Encoding, coder: Coder) -> Callable[[slice], bytes]:
    """Codes of the encoding; checked by decoding them."""
    alphabet = _alphabet(encoding)
    kind = np.min_scalar_type(alphabet - 1)

    def one(rows: slice) -> bytes:
        codes = np.empty((rows.stop - rows.start, *values.shape[1:]), kind)
        for some, piece, known in pieces(values, rows):
            with working("code"), np.errstate(all="ignore"):
                own = codes[some.start - rows.start : some.stop - rows.start]
                if known is None and _gathers(encoding):
                    same = _gather(piece, encoding.unmasked, own)
                else:
                    found = encoding.codes(piece, some) if known is None else known
                    same = _same(encoding.decode(found, piece.dtype, some), piece)
                    own[...] = found
            if not same:
                raise _Unfit
        with working("code"):
            return symbols.encode(Symbols.of(codes, alphabet), coder)

    return one


def _gather(values: np.ndarray, inner: Encoding, codes: np.ndarray) -> bool:
    """Writes the codes under a mask: those of the values between the zeros, plus one.

    Returns:
        Whether they give the values back.
    """
    found = places(values)
    kept = values.reshape(-1)[found].reshape(-1, *[1] * max(0, values.ndim - 1))
    own = inner.codes(kept)
    codes[...] = 0
    codes.reshape(-1)[found] = own.reshape(-1).astype(codes.dtype, copy=False) + 1
    return _same(inner.decode(own, values.dtype), kept)


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and np.array_equal(bits(one), bits(two))


def _gathers(encoding: Encoding) -> bool:
    """Whether the kept values can be coded without the zeros between them."""
    return encoding.unmasked is not encoding and encoding.unmasked.uniform


def _decode(target: np.ndarray, data: memoryview, encoding: Encoding, rows: slice) -> None:
    """Decodes a block that was written by codes of the encoding."""
    found = symbols.decode(data, target.size, _alphabet(encoding), symbols.width_of(target.shape))
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


def _palette(values: Values, known: np.ndarray | None) -> np.ndarray | None:
    """The different bit patterns, 0 the first; None where they are too many to pay.

    Args:
        values: the values.
        known: those of a sample.
    """
    if known is None or 2 * known.size > values.size:
        return None
    for rows in row_blocks(values.shape):
        own = bits(part(values, rows))
        own = own[own != 0]
        index = np.searchsorted(known, own)
        strange = own[known[np.minimum(index, known.size - 1)] != own]
        if strange.size:
            known = np.unique(np.concatenate([known, strange]))
        if known.size > MOST_DIFFERENT:
            return None
    return known


def _with_palette(values: Values, sample: np.ndarray | None, coder: Coder) -> Iterator[bytes]:
    palette = _palette(values, sample)
    if palette is None:
        raise _Unfit
    width = symbols.width_of(values.shape)

    def one(rows: slice) -> bytes:
        own = bits(taken(values, rows))
        with working("code"):
            found = places(own)
            index = np.searchsorted(palette, own[found]).astype(np.uint16)
            coded = Symbols(own.size, palette.size, 0, found, index, width=width)
            return symbols.encode(coded, coder)

    head = bytes([_PALETTE]) + varint(palette.size) + raw.encode(palette)
    yield from _blocks(head, values, one)


def _read_palette(reader: ByteReader, dtype: np.dtype) -> np.ndarray:
    size = reader.varint(MOST_DIFFERENT)
    return raw.decode(reader, size, np.dtype(f"u{dtype.itemsize}")).view(dtype)


def _keeping(values: Values, coder: Coder) -> Callable[[slice], bytes]:
    """Where the values are whose bits are not all 0, and those values."""
    width = symbols.width_of(values.shape)

    def one(rows: slice) -> bytes:
        own = taken(values, rows).reshape(-1)
        with working("code"):
            found = places(own)
            ones = np.ones(found.size, np.uint16)
            coded = Symbols(own.size, 2, 0, found, ones, width=width)
            return block(symbols.encode(coded, coder)) + raw.encode(own[found])

    return one


def _coder(data: bytes, itemsize: int) -> str:
    """The coder of the first block, which stands for all."""
    if data[0] == _RAW or len(data) < 3:
        return "zstd"
    reader = ByteReader(data)
    way = reader.byte()
    if way == _PALETTE:
        size = reader.varint(MOST_DIFFERENT)
        raw.skip(reader, size, itemsize)
    first = reader.block()
    if way != _KEPT:
        return symbols.name_of(first)
    places = symbols.name_of(ByteReader(first).block())
    return places if places == "constant" else "zstd"

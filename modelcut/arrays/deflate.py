"""Deflate, as HDF5 files carry it: of the values as they are, or of their bytes shuffled.

Shuffled, all first bytes of a chunk come first, then all second ones: floats on a grid, and plain
ones, then deflate to less and in less time; where zeros are many, or few values are shared, deflate
finds more in the values as they are. A few pieces of the tensor tell which it is.

Each of these planes has blocks of its own, and so codes that fit it: a tenth less than where a
block spans two of them.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from isal import isal_zlib

from modelcut.arrays.blocks import in_threads

Effort = Literal["fast", "best"]

_PIECE = 1 << 15
"""Values a piece: four times deflate's window, if they are floats of four bytes."""

_PATIENCE = 1.04
"""How much more shuffled bytes may come to where speed counts: they take two thirds as long."""
_NOISE = 0.985
"""From this share on, a plane of bytes is not worth the time, where speed counts."""
_FULL = 0.9
"""Of the bytes of a plane of noise, those that are not zero: fewer, and this chunk is no noise."""


@dataclass(frozen=True)
class Deflater:
    """How one tensor is deflated.

    Attributes:
        effort: fast (ISA-L at level 1) or best (zlib at level 9).
        shuffle: shuffle the bytes of each chunk first, as HDF5's filter of that name does.
        noise: numbers of the planes of shuffled bytes that are kept as they are, but in chunks that
            hold many zeros: nothing is to be gained there.
        share: compressed size of the pieces that were tried, as a fraction of their size; 1 where
            there were none.
    """

    effort: Effort
    shuffle: bool = False
    noise: frozenset[int] = frozenset()
    share: float = 1.0

    def pack(self, part: np.ndarray) -> bytes:
        """One zlib stream of an array's bytes; a copy is made only if it is not contiguous."""
        flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        if not self.shuffle:
            return _WHOLE[self.effort](flat.data)
        planes = _shuffled(flat, part.dtype.itemsize)
        total = isal_zlib.adler32(planes.reshape(-1).data)
        return b"".join([_HEADER, *self.blocks(planes), _LAST_BLOCK, total.to_bytes(4, "big")])

    def blocks(self, planes: np.ndarray) -> list[bytes]:
        """Each plane as blocks of deflate, none of them the last; they end on a whole byte."""
        return [
            _stored(plane)
            if number in self.noise and np.count_nonzero(plane) > _FULL * plane.size
            else _BLOCKS[self.effort](plane)
            for number, plane in enumerate(planes)
        ]


def _fast(plane: np.ndarray) -> bytes:
    coder = isal_zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return coder.compress(plane.data) + coder.flush(isal_zlib.Z_SYNC_FLUSH)


def _best(plane: np.ndarray) -> bytes:
    """The smaller: with repetitions sought, or bytes coded one by one.

    Where bytes are few and come at random, what looks like a repetition costs more than it saves.
    """
    ways = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)
    return min((_zlib(plane, 9, way) for way in ways), key=len)


def _stored(plane: np.ndarray) -> bytes:
    return _zlib(plane, 0)


def _zlib(plane: np.ndarray, level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    coder = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return coder.compress(plane.data) + coder.flush(zlib.Z_SYNC_FLUSH)


_HEADER = b"\x78\x01"
_LAST_BLOCK = b"\x03\x00"
"""An empty one."""

_WHOLE: dict[Effort, Callable[[Any], bytes]] = {
    "fast": lambda data: isal_zlib.compress(data, 1),
    "best": lambda data: zlib.compress(data, 9),
}
_BLOCKS: dict[Effort, Callable[[np.ndarray], bytes]] = {"fast": _fast, "best": _best}


def choose(values: Any, effort: Effort = "fast", looks: int = 4) -> Deflater:
    """Looks at pieces spread over a tensor for the way that makes them smallest.

    Args:
        values: the tensor, a C-contiguous array; or what has its `size` and `dtype`, and gives the
            values from one place to another in flat order by `flat(start, stop)`.
        effort: "fast" or "best", as of `Deflater`.
        looks: number of pieces of 32,768 values that are tried.
    """
    if values.size == 0:
        return Deflater(effort)
    size = values.size
    starts = range(0, size, max(_PIECE, size // looks))[:looks]
    if isinstance(values, np.ndarray):
        flat = values.reshape(-1)
        pieces = [flat[start : start + _PIECE] for start in starts]
    else:
        pieces = [values.flat(start, min(start + _PIECE, size)) for start in starts]
    nbytes, itemsize = sum(piece.nbytes for piece in pieces), values.dtype.itemsize
    plain = Deflater(effort)
    share = sum(map(len, in_threads(plain.pack, pieces))) / nbytes
    if itemsize == 1:
        return replace(plain, share=share)

    def look(piece: np.ndarray) -> list[int]:
        planes = _shuffled(piece.view(np.uint8), itemsize)
        return [len(blocks) for blocks in Deflater(effort, shuffle=True).blocks(planes)]

    each = np.sum(list(in_threads(look, pieces)), axis=0) * itemsize / nbytes
    hurried = effort == "fast"
    noise = np.flatnonzero((each > _NOISE) & hurried)
    each[noise] = 1
    shuffled = float(each.mean())
    if shuffled > share * (_PATIENCE if hurried else 1):
        return replace(plain, share=share)
    return Deflater(effort, shuffle=True, noise=frozenset(map(int, noise)), share=shuffled)


def inflate(data: bytes, nbytes: int, itemsize: int, *, shuffled: bool) -> np.ndarray:
    """The bytes of a chunk again, as uint8.

    Args:
        data: a stream, perhaps a stranger's.
        nbytes: how many bytes it must hold.
        itemsize: bytes of one value.
        shuffled: whether the bytes of the values are shuffled.

    Raises:
        ValueError: it holds another number of bytes.
        isal_zlib.error: it is damaged.
    """
    found = isal_zlib.decompressobj().decompress(data, nbytes + 1)
    return restored(found, nbytes, itemsize, shuffled=shuffled)


def restored(data: bytes, nbytes: int, itemsize: int, *, shuffled: bool) -> np.ndarray:
    """The same of bytes that are not deflated."""
    if len(data) != nbytes:
        raise ValueError("a chunk does not hold what it declares")
    flat = np.frombuffer(data, np.uint8)
    if not shuffled or itemsize == 1:
        return flat
    planes = flat.reshape(itemsize, -1)
    if itemsize not in (2, 4, 8) or sys.byteorder != "little":
        return np.ascontiguousarray(planes.T).reshape(-1)
    # Shifting whole planes together is five times as fast as turning the array round.
    kind = np.dtype(f"u{itemsize}").type
    whole = planes[-1].astype(kind)
    for plane in planes[-2::-1]:
        whole <<= kind(8)
        whole |= plane
    return whole.view(np.uint8)


def _shuffled(flat: np.ndarray, itemsize: int) -> np.ndarray:
    """Bytes of values in their order as planes, shape (itemsize, n)."""
    if itemsize not in (2, 4) or sys.byteorder != "little":
        return np.ascontiguousarray(flat.reshape(-1, itemsize).T)
    # Shifting is a third faster than turning the array round.
    kind = np.dtype(f"u{itemsize}").type
    whole = flat.view(kind)
    planes = np.empty((itemsize, whole.size), np.uint8)
    for number, plane in enumerate(planes):
        np.right_shift(whole, kind(8 * number), out=plane, casting="unsafe")
    return planes

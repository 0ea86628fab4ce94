"""Deflate, as HDF5 files carry it: of the values as they are, or of their bytes shuffled.

Shuffled, all first bytes of a chunk come first, then all second ones: floats on a grid, and plain
ones, then deflate to less and in less time; where zeros are many, or few values are shared, deflate
finds more in the values as they are. A few pieces of the tensor tell which it is.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from isal import isal_zlib

from modelcut.blocks import in_threads

Effort = Literal["fast", "best"]

_PIECES = 4
_PIECE = 1 << 16
"""Values a piece: eight times deflate's window, if they are floats of four bytes."""


@dataclass(frozen=True)
class Deflater:
    """How one tensor is deflated.

    Attributes:
        effort: fast (ISA-L at level 1) or best (zlib at level 9).
        shuffle: shuffle the bytes of each chunk first, as HDF5's filter of that name does.
        share: of the bytes, what is left of the pieces that were tried; 1 where there were none.
    """

    effort: Effort
    shuffle: bool = False
    share: float = 1.0

    def pack(self, part: np.ndarray) -> bytes:
        """One stream of an array's bytes; a copy is made only if it is not contiguous."""
        flat = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        data = _shuffled(flat, part.dtype.itemsize) if self.shuffle else flat
        return _CODERS[self.effort](data.reshape(-1).data)


_CODERS: dict[Effort, Callable[[Any], bytes]] = {
    "fast": lambda data: isal_zlib.compress(data, 1),
    "best": lambda data: zlib.compress(data, 9),
}


def choose(values: np.ndarray, effort: Effort = "fast") -> Deflater:
    """Looks at pieces spread over a tensor for the way that makes them smallest."""
    if values.size == 0:
        return Deflater(effort)
    flat = values.reshape(-1)
    step = max(_PIECE, flat.size // _PIECES)
    pieces = [flat[start : start + _PIECE] for start in range(0, flat.size, step)][:_PIECES]
    nbytes = sum(piece.nbytes for piece in pieces)
    found = []
    for shuffle in (False, True)[: values.dtype.itemsize]:
        way = Deflater(effort, shuffle)
        packed = sum(map(len, in_threads(way.pack, pieces)))
        found.append(Deflater(effort, shuffle, packed / nbytes))
    return min(found, key=lambda way: way.share)


def inflate(data: bytes, nbytes: int, itemsize: int, *, shuffled: bool) -> np.ndarray:
    """The bytes of a chunk again, as uint8.

    Args:
        data: a stream, perhaps a stranger's.
        nbytes: how many bytes it must hold.
        itemsize: of the values.
        shuffled: whether their bytes are.

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
    return np.ascontiguousarray(flat.reshape(-1, itemsize).T)

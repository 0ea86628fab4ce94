"""The one hash by which files, texts and tensors are known again: BLAKE3, 256 bits.

It runs at the speed of memory on any processor of these days; SHA-256 takes as long as all other
work together where the processor has no instructions for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a process that has run out of memory must not need more to say so
    import numpy as np


def hasher() -> Any:
    """A BLAKE3 in progress: `update(bytes)`, `digest()`, `hexdigest()`; releases the lock."""
    from blake3 import blake3  # where nothing is hashed, nothing is loaded

    return blake3()


def of_bytes(data: Any) -> str:
    """The BLAKE3 of bytes, in hexadecimal (64 digits).

    Args:
        data: anything with a buffer of bytes.
    """
    found = hasher()
    found.update(data)
    return str(found.hexdigest())


def of_text(text: str) -> str:
    """The BLAKE3 of a text in UTF-8, in hexadecimal."""
    return of_bytes(text.encode())


def of_values(values: np.ndarray) -> str:
    """The BLAKE3 of an array's bytes in C order, little-endian, in hexadecimal.

    Neither dtype nor shape is part of it.

    Args:
        values: any shape, any dtype of a fixed size, `bfloat16` too; copied only if it is not
            contiguous or of another byte order.
    """
    import numpy as np

    if values.dtype.byteorder == ">" or (values.dtype.byteorder == "=" and sys.byteorder == "big"):
        values = values.astype(values.dtype.newbyteorder("<"))
    return of_bytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def checksum(values: np.ndarray, rows: int = 0) -> str:
    """What damage to values is told by.

    Args:
        values: any shape, any dtype of a fixed size.
        rows: so many rows of axis 0 are hashed by themselves, and the checksum is "ROWS:" and half
            of the BLAKE3 of their hashes; 0, or as many as there are: half of their own BLAKE3, in
            hexadecimal.
    """
    if not rows or rows >= len(values):
        return of_values(values)[:32]
    parts = [of_values(values[at : at + rows]) for at in range(0, len(values), rows)]
    return joined(rows, parts)


def joined(rows: int, parts: Sequence[str]) -> str:
    """The checksum of values whose blocks of rows have these hashes; see `checksum`."""
    return f"{rows}:{of_text(''.join(parts))[:32]}"


def matches(values: np.ndarray, wanted: str) -> bool:
    """Whether values have a checksum."""
    count, mark, _ = wanted.partition(":")
    if mark and not (count.isascii() and count.isdigit() and int(count) > 0 and values.ndim):
        return False
    return checksum(values, int(count) if mark else 0) == wanted

"""The one hash by which files, texts and tensors are known again: BLAKE3, 256 bits.

It runs at the speed of memory on any processor of these days; SHA-256 takes as long as all other
work together where the processor has no instructions for it.
"""

from __future__ import annotations

from typing import Any

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
    if values.dtype.byteorder == ">" or (values.dtype.byteorder == "=" and not _LITTLE):
        values = values.astype(values.dtype.newbyteorder("<"))
    return of_bytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


_LITTLE = np.little_endian

"""The bytes of any array, without loss: split into planes, each as small as zstd makes it.

The highest bytes of floats (sign and exponent) are alike and pack well, the lowest are noise; one
plane a byte keeps them apart. A plane that is one byte throughout costs two bytes.
"""

from __future__ import annotations

import numpy as np
import zstandard

from modelcut.coding import CodingError
from modelcut.coding.bits import Reader, block

_SAME, _STORED, _ZSTD = range(3)
_LARGE = 1 << 18


def encode(values: np.ndarray) -> bytes:
    """Codes the bytes of an array; its dtype and size are for the decoder to know."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    planes = flat.reshape(-1, values.dtype.itemsize).T
    return b"".join(_plane(np.ascontiguousarray(plane)) for plane in planes)


def _plane(plane: np.ndarray) -> bytes:
    if plane.size and plane[0] == plane[-1] and (plane == plane[0]).all():
        return bytes([_SAME, plane[0]])
    data = plane.tobytes()
    level = 19 if len(data) <= _LARGE else 3
    packer = zstandard.ZstdCompressor(
        level=level, write_content_size=False, write_checksum=False, write_dict_id=False
    )
    packed = packer.compress(data)
    if len(packed) < len(data):
        return bytes([_ZSTD]) + block(packed)
    return bytes([_STORED]) + data


def decode(reader: Reader, size: int, dtype: np.dtype) -> np.ndarray:
    """The inverse of `encode`; what follows stays in the reader.

    Returns:
        Of the dtype, shape (size,).

    Raises:
        CodingError: no encoder wrote this.
    """
    result = np.empty(size, dtype)
    planes = result.view(np.uint8).reshape(size, dtype.itemsize)
    for index in range(dtype.itemsize):
        kind = reader.byte()
        if kind == _SAME:
            planes[:, index] = reader.byte()
        elif kind == _STORED:
            planes[:, index] = np.frombuffer(reader.take(size), np.uint8)
        elif kind == _ZSTD:
            planes[:, index] = np.frombuffer(inflate(bytes(reader.block()), size), np.uint8)
        else:
            raise CodingError("a plane is of an unknown kind")
    return result


def skip(reader: Reader, size: int, itemsize: int) -> None:
    """Goes past what `encode` wrote."""
    for _ in range(itemsize):
        kind = reader.byte()
        if kind == _ZSTD:
            reader.block()
        else:
            reader.take(1 if kind == _SAME else size)


def inflate(data: bytes, size: int, dictionary: bytes = b"") -> bytes:
    """What zstd packed, which must be of this size.

    Raises:
        CodingError: it is not, or is damaged.
    """
    found = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    try:
        unpacker = zstandard.ZstdDecompressor(dict_data=found if dictionary else None)
        with unpacker.stream_reader(data) as stream:
            result = stream.read(size + 1)
    except zstandard.ZstdError as error:
        raise CodingError(f"damaged: {error}") from None
    if len(result) != size:
        raise CodingError("a plane is of another size than it should be")
    return result


def deflate(data: bytes, dictionary: bytes = b"") -> bytes:
    """Packs bytes with zstd at its best."""
    found = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packer = zstandard.ZstdCompressor(
        level=19,
        dict_data=found if dictionary else None,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return packer.compress(data)

"""The bytes of any array, without loss: split into planes, each as small as zstd makes it.

The highest bytes of floats (sign and exponent) are alike and pack well, the lowest are noise; one
plane a byte keeps them apart. A plane that is one byte throughout costs two bytes. Planes are
packed by zstd without its magic number; files of version 1 have it.
"""

from __future__ import annotations

import numpy as np
import zstandard

from modelcut.formats.mcut.coding import CodingError
from modelcut.formats.mcut.coding.bits import ByteReader, block

_SAME, _STORED, _ZSTD, _BARE_ZSTD = range(4)
_LARGE = 1 << 18
_BARE = zstandard.FORMAT_ZSTD1_MAGICLESS


def encode(values: np.ndarray) -> bytes:
    """Codes the bytes of an array; its dtype and size are for the decoder to know."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    planes = flat.reshape(-1, values.dtype.itemsize).T
    return b"".join(_plane(np.ascontiguousarray(plane)) for plane in planes)


def _plane(plane: np.ndarray) -> bytes:
    if plane.size and plane[0] == plane[-1] and (plane == plane[0]).all():
        return bytes([_SAME, plane[0]])
    data = plane.data
    level = 19 if len(data) <= _LARGE else 3
    packed = deflate(data, bare=True, level=level)
    if len(packed) < len(data):
        return bytes([_BARE_ZSTD]) + block(packed)
    return bytes([_STORED]) + data


def decode(reader: ByteReader, size: int, dtype: np.dtype) -> np.ndarray:
    """The inverse of `encode`; what follows is left in the reader.

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
        elif kind in (_ZSTD, _BARE_ZSTD):
            plane = inflate(bytes(reader.block()), size, bare=kind == _BARE_ZSTD)
            planes[:, index] = np.frombuffer(plane, np.uint8)
        else:
            raise CodingError("a plane is of an unknown kind")
    return result


def skip(reader: ByteReader, size: int, itemsize: int) -> None:
    """Skips what `encode` wrote."""
    for _ in range(itemsize):
        kind = reader.byte()
        if kind in (_ZSTD, _BARE_ZSTD):
            reader.block()
        else:
            reader.take(1 if kind == _SAME else size)


def inflate(data: bytes, size: int, dictionary: bytes = b"", *, bare: bool = False) -> bytes:
    """What zstd packed, which must be of this size.

    Raises:
        CodingError: it is not, or is damaged.
    """
    try:
        unpacker = zstandard.ZstdDecompressor(
            dict_data=_content(dictionary), format=_BARE if bare else zstandard.FORMAT_ZSTD1
        )
        with unpacker.stream_reader(data) as stream:
            result = stream.read(size + 1)
    except zstandard.ZstdError as error:
        raise CodingError(f"damaged: {error}") from None
    if len(result) != size:
        raise CodingError("a plane has the wrong size")
    return result


def deflate(
    data: bytes | memoryview, dictionary: bytes = b"", *, bare: bool = False, level: int = 19
) -> bytes:
    """Packs bytes with zstd, at its best unless told otherwise.

    Args:
        data: the bytes.
        dictionary: what it may refer to.
        bare: without the frame's magic number.
        level: of zstd.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(dictionary),
        format=_BARE if bare else zstandard.FORMAT_ZSTD1,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    packer = zstandard.ZstdCompressor(dict_data=_content(dictionary), compression_params=parameters)
    return packer.compress(data)


def _content(dictionary: bytes) -> zstandard.ZstdCompressionDict | None:
    if not dictionary:
        return None
    return zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

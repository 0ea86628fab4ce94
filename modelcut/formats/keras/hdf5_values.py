"""The values of HDF5 datasets, read and written on all cores.

HDF5's own filters work on one. So chunks are inflated and deflated here (`deflate`), and read and
handed over as they are in the file, which carries the numbers of HDF5's filters and opens anywhere.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil  # its lock: chunks are read and written without it, and the GIL
from isal import isal_zlib

from modelcut.arrays import buffers
from modelcut.arrays.blocks import BLOCK_BYTES, in_threads, row_blocks
from modelcut.arrays.clock import working
from modelcut.arrays.deflate import choose, inflate, restored
from modelcut.errors import InputError
from modelcut.model.model import Source
from modelcut.model.stream import Stream, streams

_CHUNK_BYTES = 1 << 20
_SMALL_BYTES = 4096
_LARGE_BYTES = 8 << 20
_INDEX_BYTES = 4096
"""About what HDF5 spends on the index of a chunked dataset: smaller savings are skipped."""


def is_bfloat16(dtype: np.dtype) -> bool:
    """Whether HDF5 lacks this type: two bytes that stand for nothing, and an attribute names it."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def dtype_of(found: h5py.Dataset) -> np.dtype:
    """The dtype of a weight.

    Raises:
        TypeError: values that are no numbers; its message names them.
    """
    try:
        dtype = found.dtype
    except (TypeError, ValueError, KeyError) as error:
        raise TypeError(f"values of an unknown type ({error})") from None
    if dtype.kind == "V" and dtype.itemsize == 2 and found.attrs.get("dtype") == "bfloat16":
        import ml_dtypes  # which takes its time, and is rarely needed

        return np.dtype(ml_dtypes.bfloat16)
    if dtype.kind in "iub" or (dtype.kind == "f" and dtype.itemsize in (2, 4, 8)):
        return dtype.newbyteorder("=")
    raise TypeError(f"{dtype} values")


def source(found: h5py.Dataset, where: str) -> Source:
    """Reads a dataset when asked to."""
    dtype = dtype_of(found)

    def read() -> np.ndarray:
        try:
            values = _read(found, dtype)
        except (  # type: ignore[misc]
            OSError,
            RuntimeError,
            ValueError,
            zlib.error,
            isal_zlib.error,
        ) as error:
            raise InputError(f"{where}: {found.name}: cannot be read: {error}") from None
        return values

    def sample(count: int) -> np.ndarray:
        if found.ndim == 0 or found.chunks is not None or is_bfloat16(dtype):
            flat = read().ravel()
            return flat[:: max(1, flat.size // count)]
        row = max(1, found.size // found.shape[0])
        step = max(1, found.shape[0] // max(1, -(-count // row)))
        values: np.ndarray = found[::step]
        return values.ravel()

    fill = _plain(found)

    def flat(start: int, stop: int) -> np.ndarray:
        assert fill is not None
        values = np.empty(stop - start, dtype)
        try:
            fill(values.view(np.uint8).data, start * dtype.itemsize)
        except OSError as error:
            raise InputError(f"{where}: {found.name}: cannot be read: {error}") from None
        return values

    return Source(read, sample, flat if fill else None)


def _read(found: h5py.Dataset, dtype: np.dtype) -> np.ndarray:
    values = buffers.empty(found.shape, dtype)
    if values.size == 0:
        return values
    if is_bfloat16(dtype):
        values[...] = np.asarray(found[()]).view(dtype)
        return values
    filters = _filters(found)
    if filters is not None:
        _inflate(found, values, filters)
    elif not _read_side_by_side(found, values):
        found.read_direct(values)
    return values


def _read_side_by_side(found: h5py.Dataset, values: np.ndarray) -> bool:
    """Reads a large contiguous dataset on all cores, past HDF5 and its lock, if it can be."""
    fill = _plain(found)
    if fill is None or not values.flags.c_contiguous:
        return False
    target = values.reshape(-1).view(np.uint8).data

    def place(start: int) -> None:
        fill(target[start : start + BLOCK_BYTES], start)

    for _ in in_threads(place, range(0, values.nbytes, BLOCK_BYTES)):
        pass
    return True


def _plain(found: h5py.Dataset) -> Callable[[memoryview, int], None] | None:
    """Reads bytes of a dataset past HDF5 and its lock, from any thread.

    Returns:
        A function that fills a buffer with the bytes of the values from an offset on, and raises
        OSError where it cannot; None where they are few, or do not lie in the file as in memory.
    """
    if is_bfloat16(dtype_of(found)) or found.chunks is not None:
        return None
    if found.nbytes < _LARGE_BYTES or found.file.driver != "sec2":
        return None
    first = found.id.get_offset()
    if first is None or not found.dtype.isnative or not hasattr(os, "preadv"):  # macOS before 11
        return None
    handle = found.file.id.get_vfd_handle()

    def fill(target: memoryview, start: int) -> None:
        if not found:  # the number may be another file's by now
            raise OSError("the file is closed")
        while target:
            count = os.preadv(handle, [target], first + start)
            if not count:
                raise OSError("the file ends too early")
            target, start = target[count:], start + count

    return fill


_INFLATED = ((h5py.h5z.FILTER_DEFLATE,), (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE))


def _filters(found: h5py.Dataset) -> tuple[int, ...] | None:
    """The filters of a dataset that can be inflated on all cores; None for any other."""
    if found.chunks is None or not found.dtype.isnative:
        return None
    pipeline = found.id.get_create_plist()
    filters = tuple(pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters()))
    full = found.id.get_num_chunks() == np.prod(
        [-(-n // c) for n, c in zip(found.shape, found.chunks, strict=True)]
    )
    return filters if full and filters in _INFLATED else None


def _inflate(found: h5py.Dataset, values: np.ndarray, filters: tuple[int, ...]) -> None:
    """Inflates chunks on all cores; HDF5's own filters do it on one."""
    chunk = found.chunks
    itemsize = values.dtype.itemsize
    nbytes = int(np.prod(chunk)) * itemsize
    shuffled = len(filters) > 1

    # HDF5 reads one chunk at a time; only the inflating runs side by side.
    def place(index: int) -> None:
        with phil:
            info = found.id.get_chunk_info(index)
            mask, raw = found.id.read_direct_chunk(info.chunk_offset)
        # A bit of the mask is a filter that this chunk was spared.
        undo = restored if mask >> (len(filters) - 1) & 1 else inflate
        data = undo(raw, nbytes, itemsize, shuffled=shuffled and not mask & 1)
        block = data.view(values.dtype).reshape(chunk)
        target = tuple(
            slice(start, min(start + length, size))
            for start, length, size in zip(info.chunk_offset, chunk, found.shape, strict=True)
        )
        values[target] = block[tuple(slice(0, s.stop - s.start) for s in target)]

    for _ in in_threads(place, range(found.id.get_num_chunks())):
        pass


def write(
    group: h5py.Group,
    name: str,
    values: np.ndarray | Stream,
    compression: str,
    attributes: Mapping[str, Any],
    room: Callable[[int], None] = lambda _: None,
) -> tuple[int, bool]:
    """Writes one tensor.

    Args:
        group: to write into.
        name: in it.
        values: any shape; an array is C-contiguous.
        compression: none, fast or best; tensors that are small or do not shrink are not compressed.
        attributes: of the dataset.
        room: is told how many bytes come next.

    Returns:
        Bytes that the values take in the file, and whether they are what `fast` makes of them.
    """
    bfloat16 = is_bfloat16(values.dtype)
    raw = values.view("V2") if isinstance(values, np.ndarray) and bfloat16 else values
    made = None
    if compression != "none" and raw.nbytes >= _SMALL_BYTES:
        made = _write_deflated(group, name, raw, compression, room)
    if made is None:
        room(raw.nbytes)
        plain = group.create_dataset(name, raw.shape, raw.dtype, track_times=False)
        if isinstance(raw, Stream):
            blocks = row_blocks(raw.shape, raw.dtype.itemsize)
            for rows, block in zip(blocks, in_threads(raw.take, blocks), strict=True):
                plain.write_direct(block, dest_sel=np.s_[rows])
        elif raw.size:
            plain.write_direct(np.ascontiguousarray(raw)) if raw.ndim else plain.__setitem__(
                (), raw
            )
        made = plain
    for key, value in attributes.items():
        made.attrs[key] = value
    if bfloat16:
        made.attrs["dtype"] = "bfloat16"
    return int(made.id.get_storage_size()), compression == "fast" and made.chunks is not None


def rows_written(made: h5py.Dataset) -> int:
    """Rows of axis 0 that are written at a time, where a tensor can be written by rows; else 0."""
    if made.chunks is not None:
        return int(made.chunks[0]) if made.chunks[1:] == made.shape[1:] else 0
    if not streams(made.shape, made.dtype):
        return 0
    first = row_blocks(made.shape, made.dtype.itemsize)
    return int(first[0].stop) if first else 0


def chunk_shape(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """A chunk of at most about 1 MiB: whole trailing axes, the leading ones cut evenly."""
    chunk = list(shape)
    for axis in range(len(chunk)):
        rest = itemsize * int(np.prod(chunk[axis + 1 :], dtype=np.int64))
        most = max(1, _CHUNK_BYTES // max(1, rest))
        pieces = max(1, -(-chunk[axis] // most))
        chunk[axis] = max(1, -(-chunk[axis] // pieces))
        if rest <= _CHUNK_BYTES:
            break
    return tuple(chunk)


def _write_deflated(
    group: h5py.Group,
    name: str,
    values: np.ndarray | Stream,
    compression: str,
    room: Callable[[int], None],
) -> h5py.Dataset | None:
    """A chunked dataset with HDF5's own filters; None where that would not pay."""
    chunk = chunk_shape(values.shape, values.dtype.itemsize)
    starts = list(
        itertools.product(*(range(0, n, c) for n, c in zip(values.shape, chunk, strict=True)))
    )
    way = choose(values, "best" if compression == "best" else "fast")
    if way.share > 0.95 or (1 - way.share) * values.nbytes < _INDEX_BYTES:
        return None

    def pack(start: tuple[int, ...]) -> bytes:
        if isinstance(values, Stream):  # its chunks are whole rows
            part = values.take(slice(start[0], min(start[0] + chunk[0], values.shape[0])))
        else:
            part = values[tuple(slice(s, s + c) for s, c in zip(start, chunk, strict=True))]
        if part.shape != chunk:  # HDF5 stores whole chunks
            part = np.pad(part, [(0, c - n) for c, n in zip(chunk, part.shape, strict=True)])
        with working("code"):
            return way.pack(part)

    made = group.create_dataset(
        name,
        values.shape,
        values.dtype,
        chunks=chunk,
        shuffle=way.shuffle,
        compression="gzip",
        compression_opts=9 if compression == "best" else 4,
        track_times=False,
    )
    for start, packed in zip(starts, in_threads(pack, starts), strict=True):
        room(len(packed))
        with phil:
            made.id.write_direct_chunk(start, packed)
    return made

"""HDF5 as it comes from strangers: what both Keras formats need to read and write it.

Reading follows hard links only, and looks at every declared size before anything is allocated.
Writing compresses chunks on all cores with ISA-L and hands them to HDF5 as they are
(`write_direct_chunk`); the file carries HDF5's own deflate filter and opens anywhere.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import h5py
import ml_dtypes
import numpy as np
from isal import isal_zlib

from modelcut.blocks import BLOCK_BYTES, in_threads
from modelcut.deflate import choose, inflate, restored
from modelcut.encoding import Dense, Encoding, from_record
from modelcut.errors import InputError, UnsafeError
from modelcut.formats import WriteOptions
from modelcut.formats._records import arrays, jsonable
from modelcut.model import Source, Tensor
from modelcut.safety import load_json, printable

ATTRIBUTE_LIMIT = 64512
"""Bytes of an attribute that fit the object header; Keras splits longer lists so."""

_CHUNK_BYTES = 1 << 20
_SMALL_BYTES = 4096
_LARGE_BYTES = 2 * BLOCK_BYTES
_INDEX_BYTES = 4096
"""About what HDF5 spends on the index of a chunked dataset: less is not worth saving."""
_BOMB_BYTES = 1 << 30
_BOMB_RATIO = 500
_ENCODINGS = "modelcut/encodings"
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def open_file(file: Any, where: str) -> h5py.File:
    """Opens HDF5 for reading.

    Raises:
        InputError: it is cut short, or no HDF5 at all.
    """
    try:
        return h5py.File(file, "r")
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = "cut short or damaged" if "truncated" in str(error) else "not a sound HDF5 file"
        raise InputError(f"{where}: {reason}", "copy it again from where it came") from None


def child(parent: h5py.Group, path: str, where: str) -> h5py.Group | h5py.Dataset:
    """The object at a relative path, through hard links only.

    Raises:
        InputError: it is not there, or the path climbs out of its group.
        UnsafeError: the path leads outside the file.
    """
    current: Any = parent
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise InputError(f"{where}: the name {printable(path)!r} is not a plain path")
        link = current.get(part, getlink=True) if isinstance(current, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            raise UnsafeError(
                f"{where}: {printable(path)!r} is a link to another file", "copy the data into it"
            )
        if isinstance(link, h5py.SoftLink):
            raise InputError(f"{where}: {printable(path)!r} is a soft link", "Keras writes none")
        if link is None:
            raise InputError(f"{where}: {printable(path)!r} is not there")
        try:
            current = current[part]
        except (KeyError, OSError, RuntimeError) as error:
            raise InputError(f"{where}: {printable(path)!r} cannot be read: {error}") from None
    return current


def dataset(parent: h5py.Group, path: str, where: str) -> h5py.Dataset:
    """A dataset of a sound type and an honest size; see `child`.

    Raises:
        InputError: not a dataset, of a type that is no weight's, or far larger than what is stored.
        UnsafeError: its values lie in another file.
    """
    found = child(parent, path, where)
    name = printable(path)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{where}: {name!r} is a group, not a weight")
    if found.external or found.is_virtual:
        raise UnsafeError(f"{where}: the values of {name!r} lie in another file")
    try:
        dtype_of(found)
    except TypeError as error:
        raise InputError(f"{where}: {name!r} holds {error}, no weights") from None
    if found.file.driver == "core":  # made by `_tree`: its values are elsewhere
        return found
    declared, stored = found.nbytes, found.id.get_storage_size()
    hollow = declared > 1 << 20 and stored == 0
    if hollow or (declared > _BOMB_BYTES and declared > _BOMB_RATIO * stored):
        raise InputError(
            f"{where}: {name!r} declares {declared:.3g} bytes but the file stores {stored}"
        )
    if found.chunks is None and 0 < stored < declared:
        raise InputError(f"{where}: {name!r} is cut short")
    return found


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
        return _BFLOAT16
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
        if found.ndim == 0 or found.chunks is not None or dtype == _BFLOAT16:
            flat = read().ravel()
            return flat[:: max(1, flat.size // count)]
        row = max(1, found.size // found.shape[0])
        step = max(1, found.shape[0] // max(1, -(-count // row)))
        values: np.ndarray = found[::step]
        return values.ravel()

    return Source(read, sample)


def _read(found: h5py.Dataset, dtype: np.dtype) -> np.ndarray:
    values = np.empty(found.shape, dtype)
    if values.size == 0:
        return values
    if dtype == _BFLOAT16:
        values[...] = np.asarray(found[()]).view(_BFLOAT16)
        return values
    filters = _filters(found)
    if filters is not None:
        _inflate(found, values, filters)
    elif not _read_side_by_side(found, values):
        found.read_direct(values)
    return values


def _read_side_by_side(found: h5py.Dataset, values: np.ndarray) -> bool:
    """Reads a large contiguous dataset on all cores, past HDF5 and its lock, if it can be."""
    offset = found.id.get_offset() if found.chunks is None else None
    plain = found.file.driver == "sec2" and found.dtype.isnative and values.flags.c_contiguous
    if offset is None or not plain or values.nbytes < _LARGE_BYTES:
        return False
    handle = found.file.id.get_vfd_handle()
    target = values.reshape(-1).view(np.uint8).data

    def place(start: int) -> None:
        end = min(start + BLOCK_BYTES, values.nbytes)
        while start < end:
            count = os.preadv(handle, [target[start:end]], offset + start)
            if not count:
                raise OSError("the file ends too early")
            start += count

    for _ in in_threads(place, range(0, values.nbytes, BLOCK_BYTES)):
        pass
    return True


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
    lock = Lock()

    def place(index: int) -> None:
        with lock:
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


def text_list(group: h5py.Group, name: str, where: str) -> list[str] | None:
    """A list of names in an attribute, split over several where it was long; None if not there.

    Raises:
        InputError: the attribute is there and is no list of names.
    """
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        parts = []
        while f"{name}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{name}{len(parts)}"])
        if not parts:
            return None
    values = [value for part in parts for value in np.atleast_1d(np.asarray(part)).tolist()]
    if not all(isinstance(value, (bytes, str)) for value in values):
        raise InputError(f"{where}: the attribute {name} of {group.name} is no list of names")
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]


def put_text_list(group: h5py.Group, name: str, values: Sequence[str]) -> None:
    """The inverse of `text_list`, split as Keras does it."""
    encoded = np.asarray([value.encode() for value in values] or np.zeros(0, "S1"))
    pieces = 1
    while any(p.nbytes > ATTRIBUTE_LIMIT for p in np.array_split(encoded, pieces)):
        pieces += 1
    for index, part in enumerate(np.array_split(encoded, pieces)):
        group.attrs[name if pieces == 1 else f"{name}{index}"] = part


def text(value: Any) -> str | None:
    """A text attribute, whatever its type; None if it is no text."""
    if isinstance(value, (bytes, np.bytes_)):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        return text(value.ravel()[0])
    return value if isinstance(value, str) else None


@contextlib.contextmanager
def create_file(path: Path) -> Iterator[h5py.File]:
    """A new file in the compact layout that HDF5 1.8 brought, without a time stamp in it.

    Raises:
        OSError: the file system's own words, out of HDF5's.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)
    made = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    made.set_obj_track_times(False)
    name = os.fsencode(path)
    try:
        # An empty file may wait there. Cut to nothing instead, it would have to be closed: there,
        # ext4 waits until all of such a file has found its blocks.
        path.unlink(missing_ok=True)
        with h5py.File(h5py.h5f.create(name, h5py.h5f.ACC_EXCL, fcpl=made, fapl=access)) as file:
            yield file
            file.flush()
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def make_group(parent: h5py.Group, name: str) -> h5py.Group:
    """The group of this path, made where it is missing, without a time stamp."""
    plain = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    plain.set_obj_track_times(False)
    for part in name.split("/"):
        if part and part not in parent:
            h5py.h5g.create(parent.id, part.encode(), gcpl=plain)
        parent = parent[part] if part else parent
    return parent


def copy_attributes(old: h5py.Group, new: h5py.Group, leave: Iterable[str] = ()) -> None:
    """Copies attributes, type and all, but those whose name begins with one in `leave`."""
    skipped = tuple(leave)
    for name in old.attrs:
        if skipped and name.startswith(skipped):
            continue
        source = h5py.h5a.open(old.id, name.encode())
        kind, space = source.get_type(), source.get_space()
        target = h5py.h5a.create(new.id, name.encode(), kind, space)
        if space.get_simple_extent_type() != h5py.h5s.NULL:
            values = np.empty(space.shape, kind.dtype)
            source.read(values)
            target.write(values)


def copy(parent: h5py.Group, name: str, target: h5py.Group) -> None:
    """Copies an object; a link that is no hard one is left behind rather than followed."""
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        return
    if not bare(parent[name]):
        parent.copy(name, target, name)
        return
    # Made anew: a copy would bring the time stamps of its making along.
    copy_attributes(parent[name], make_group(target, name))
    for below in parent[name]:
        copy(parent[name], below, target[name])


def bare(item: h5py.Group | h5py.Dataset, depth: int = 0) -> bool:
    """Whether an object is nothing but a tree of groups (of 20 levels at most)."""
    if not isinstance(item, h5py.Group) or h5py.h5o.get_info(item.id).rc != 1 or depth > 20:
        return False
    links = (item.get(name, getlink=True) for name in item)
    return all(isinstance(link, h5py.HardLink) for link in links) and all(
        bare(item[name], depth + 1) for name in item
    )


def put(
    group: h5py.Group,
    name: str,
    tensor: Tensor,
    options: WriteOptions,
    attributes: Mapping[str, Any],
) -> tuple[int, Encoding]:
    """Pulls one tensor and writes it, or only what it is, where a hollow file is wanted.

    Args:
        group: to write into.
        name: a relative path.
        tensor: to be written.
        options: how.
        attributes: of the dataset.

    Returns:
        Bytes that the values take in the file, and the encoding they ended with.
    """
    if options.hollow is None:
        meter = options.meter(tensor)
        values, encoding = tensor.pull(meter, deflates=True)
        stored, deflated = write(group, name, values, options.compression, attributes)
        if meter:
            meter.done_with(values, stored if deflated else None)
        return stored, encoding
    number, dtype = options.hollow.tensors[tensor.name]
    made = declare(group, name, tensor.shape, dtype)
    for key, value in attributes.items():
        made.attrs[key] = value
    options.hollow.places[made.name.strip("/")] = number
    return 0, Dense()


def declare(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    """A dataset without values: the file holds its shape and dtype only."""
    parent, _, leaf = name.rpartition("/")
    raw = np.dtype("V2") if dtype == _BFLOAT16 else dtype
    made = make_group(group, parent).create_dataset(leaf, shape, raw, track_times=False)
    if dtype == _BFLOAT16:
        made.attrs["dtype"] = "bfloat16"
    return made


def write(
    group: h5py.Group,
    name: str,
    values: np.ndarray,
    compression: str,
    attributes: Mapping[str, Any],
) -> tuple[int, bool]:
    """Writes one tensor.

    Args:
        group: to write into; groups on the way are made.
        name: a relative path.
        values: any shape; C-contiguous.
        compression: none, fast or best; small tensors, and those that do not shrink, stay plain.
        attributes: of the dataset.

    Returns:
        Bytes that the values take in the file, and whether they are what `fast` makes of them.
    """
    parent, _, leaf = name.rpartition("/")
    where = make_group(group, parent)
    bfloat16 = values.dtype == _BFLOAT16
    raw = values.view("V2") if bfloat16 else values
    made = None
    if compression != "none" and raw.nbytes >= _SMALL_BYTES:
        made = _write_deflated(where, leaf, raw, compression)
    if made is None:
        plain = where.create_dataset(leaf, raw.shape, raw.dtype, track_times=False)
        if raw.size:
            plain.write_direct(np.ascontiguousarray(raw)) if raw.ndim else plain.__setitem__(
                (), raw
            )
        made = plain
    for key, value in attributes.items():
        made.attrs[key] = value
    if bfloat16:
        made.attrs["dtype"] = "bfloat16"
    return int(made.id.get_storage_size()), compression == "fast" and made.chunks is not None


def chunk_shape(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """A chunk of at most about 1 MiB: whole trailing axes, the leading ones cut evenly."""
    chunk = list(shape)
    for axis in range(len(chunk)):
        rest = itemsize * int(np.prod(chunk[axis + 1 :], dtype=np.int64))
        most = max(1, _CHUNK_BYTES // max(1, rest))
        chunk[axis] = max(1, -(-chunk[axis] // -(-chunk[axis] // most or 1)))
        if rest <= _CHUNK_BYTES:
            break
    return tuple(chunk)


def _write_deflated(
    group: h5py.Group, name: str, values: np.ndarray, compression: str
) -> h5py.Dataset | None:
    """A chunked dataset with HDF5's own filters; None where that would not pay."""
    chunk = chunk_shape(values.shape, values.dtype.itemsize)
    starts = list(
        itertools.product(*(range(0, n, c) for n, c in zip(values.shape, chunk, strict=True)))
    )
    way = choose(values, "best" if compression == "best" else "fast")
    if way.share > 0.95 or (1 - way.share) * values.nbytes < _INDEX_BYTES:
        return None

    padded_way = replace(way, noise=frozenset())  # there is something to be gained on padding

    def pack(start: tuple[int, ...]) -> bytes:
        part = values[tuple(slice(s, s + c) for s, c in zip(start, chunk, strict=True))]
        if part.shape == chunk:
            return way.pack(part)
        # HDF5 stores whole chunks.
        part = np.pad(part, [(0, c - n) for c, n in zip(chunk, part.shape, strict=True)])
        return padded_way.pack(part)

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
        made.id.write_direct_chunk(start, packed)
    return made


def put_encodings(file: h5py.File, encodings: Mapping[str, Encoding]) -> None:
    """Keeps the encodings of tensors, so that a later run knows what they are restricted to."""
    records = {
        name: jsonable(encoding.record())
        for name, encoding in encodings.items()
        if encoding.kinds != ("dense",)
    }
    if records:
        blob = zlib.compress(json.dumps(records, separators=(",", ":")).encode(), 9)
        folder, _, name = _ENCODINGS.rpartition("/")
        values = np.frombuffer(blob, np.uint8)
        make_group(file, folder).create_dataset(name, data=values, track_times=False)


def get_encodings(file: h5py.File, where: str) -> tuple[dict[str, Encoding], list[str]]:
    """The encodings kept in a file, and warnings about those that cannot be trusted."""
    if "modelcut" not in file or not isinstance(file.get("modelcut", getlink=True), h5py.HardLink):
        return {}, []
    try:
        raw = dataset(file, _ENCODINGS, where)
        if raw.nbytes > 64 << 20:
            raise InputError("too large")
        data = zlib.decompressobj().decompress(raw[()].tobytes(), 256 << 20)
        records = load_json(data.decode(), where=where, what="list of encodings")
        return {str(k): from_record(arrays(v)) for k, v in records.items()}, []
    except (InputError, UnsafeError, ValueError, zlib.error, AttributeError, TypeError, KeyError):
        return {}, ["the encodings kept in the file cannot be read; they are ignored"]

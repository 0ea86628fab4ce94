"""HDF5 as it comes from strangers: what both Keras formats need to read and write it.

Reading follows hard links only, and looks at every declared size before anything is allocated. What
is in a dataset is the business of `_h5_values`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modelcut import safety
from modelcut.arrays import digest
from modelcut.errors import InputError, UnsafeError
from modelcut.formats.base import WriteOptions
from modelcut.formats.keras.hdf5_values import dtype_of, is_bfloat16, rows_written, write
from modelcut.formats.records import arrays, jsonable
from modelcut.model.encoding import Dense, Encoding, from_record
from modelcut.model.model import Tensor
from modelcut.model.stream import Stream
from modelcut.safety import load_json, printable

ATTRIBUTE_LIMIT = 64512
"""Bytes of an attribute that fit the object header; Keras splits longer lists so."""

_AHEAD = 1 << 16
"""Bytes set aside for metadata beside the values."""
_HEADER = 4096
_BOMB_BYTES = 1 << 30
_BOMB_RATIO = 500
_FILTERS = frozenset(
    (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, 32000)
)
"""Those of h5py and Keras; 32000 is LZF. libhdf5 crashes on some that name szip."""
_ENCODINGS = "modelcut/encodings"
_CHECKSUMS = "modelcut/checksums"


def open_file(file: Any, where: str) -> h5py.File:
    """Opens HDF5 for reading.

    Raises:
        InputError: it is cut short, or no HDF5 at all.
    """
    if not safety.watched():
        from modelcut.formats.keras import probe

        probe.check(file, where)
    try:
        return h5py.File(file, "r")
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if "unable to lock" in str(error):
            raise InputError(
                f"{where}: another process holds a lock on it",
                "wait until it is written; HDF5_USE_FILE_LOCKING=FALSE reads it all the same",
            ) from None
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
            raise InputError(
                f"{where}: {printable(path)!r} is a soft link",
                "Keras does not write soft links; copy the data into the file",
            )
        if link is None:
            raise InputError(f"{where}: {printable(path)!r} does not exist in the file")
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
        raise UnsafeError(f"{where}: the values of {name!r} are in another file")
    try:
        dtype_of(found)
    except TypeError as error:
        raise InputError(f"{where}: {name!r} holds {error}, not weights") from None
    if found.file.driver == "core":  # made by `_tree`: its values are elsewhere
        return found
    if found.chunks is not None and (filters := _strange_filters(found)):
        raise InputError(
            f"{where}: {name!r} is written with a filter that modelcut does not read: {filters}",
            "`h5repack -f GZIP=4` writes it with one that Keras knows",
        )
    declared, stored = found.nbytes, found.id.get_storage_size()
    hollow = declared > 1 << 20 and stored == 0
    if hollow or (declared > _BOMB_BYTES and declared > _BOMB_RATIO * stored):
        raise InputError(
            f"{where}: {name!r} declares {declared:.3g} bytes, but the file has {stored}"
        )
    if found.chunks is None and 0 < stored < declared:
        raise InputError(f"{where}: {name!r} is truncated")
    return found


def _strange_filters(found: h5py.Dataset) -> str:
    """Filters of a dataset that are none of `_FILTERS`, by number and name."""
    pipeline = found.id.get_create_plist()
    filters = [pipeline.get_filter(number) for number in range(pipeline.get_nfilters())]
    return ", ".join(
        f"{number} {printable(name.decode('utf-8', 'replace'), 40)}".rstrip()
        for number, _, _, name in filters
        if number not in _FILTERS
    )


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
        raise InputError(f"{where}: the attribute {name} of {group.name} is not a list of names")
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
        # Made anew, not truncated, where an empty file waits: ext4 writes a file that was truncated
        # out when it is closed, and the close takes as long.
        path.unlink(missing_ok=True)
        with h5py.File(h5py.h5f.create(name, h5py.h5f.ACC_EXCL, fcpl=made, fapl=access)) as file:
            room(file)
            yield file
            room(file)
            file.flush()
            os.ftruncate(file.id.get_vfd_handle(), file.id.get_filesize())
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None or getattr(error, "filename", None):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def room(item: h5py.File | h5py.Group | h5py.Dataset, nbytes: int = 0) -> None:
    """Has the file system set the bytes aside that HDF5 is about to write.

    HDF5 keeps metadata in memory, and writes it out whenever it likes. Where such a write fails, as
    on a full disk, the file is left half closed, and HDF5 crashes on it. So no write may fail: the
    file is as long as all that HDF5 has placed in it, and some more, before anything is written.

    Args:
        item: of the file that is written; one in memory needs none.
        nbytes: of values or attributes that come next.

    Raises:
        OSError: the file system, a quota or a limit does not allow so many.
    """
    file = item.file
    if file.driver != "sec2" or not hasattr(os, "posix_fallocate"):
        return
    handle = file.id.get_vfd_handle()
    have = os.fstat(handle).st_size
    want = file.id.get_filesize() + nbytes + _AHEAD
    if want <= have:
        return
    try:
        os.posix_fallocate(handle, have, want - have)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):
            return  # this file system cannot
        raise OSError(error.errno, error.strerror, os.fsdecode(file.filename)) from None


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
        values = None
        if space.get_simple_extent_type() != h5py.h5s.NULL:
            values = np.empty(space.shape, kind.dtype)
            source.read(values)
            room(new, sum(map(len, map(_bytes, values.ravel()))) + values.nbytes)
        target = h5py.h5a.create(new.id, name.encode(), kind, space)
        if values is not None:
            target.write(values)


def _bytes(value: Any) -> bytes:
    """What a value of variable length takes outside of its array."""
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else b""


def copy(parent: h5py.Group, name: str, target: h5py.Group) -> None:
    """Copies an object; a link that is no hard one is left behind rather than followed."""
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        return
    if not bare(parent[name]):
        room(target, stored_bytes(parent[name]))
        parent.copy(name, target, name)
        return
    # Made anew: a copy would bring the time stamps of its making along.
    copy_attributes(parent[name], make_group(target, name))
    for below in parent[name]:
        copy(parent[name], below, target[name])


def stored_bytes(item: h5py.Group | h5py.Dataset) -> int:
    """Bytes that an object and all below it take in a file, the metadata by a generous guess."""
    total = 0

    def add(_: str, one: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        total += _HEADER + (one.id.get_storage_size() if isinstance(one, h5py.Dataset) else 0)

    add("", item)
    if isinstance(item, h5py.Group):
        item.visititems(add)
    return total


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
        stream = tensor.stream(meter)
        values: np.ndarray | Stream
        values, encoding = (
            tensor.pull(meter, deflates=True) if stream is None else (stream, stream.encoding)
        )
        if isinstance(values, Stream) and options.checksums is not None:
            values.hashed()
        parent, _, leaf = name.rpartition("/")
        where = make_group(group, parent)
        stored, deflated = write(
            where, leaf, values, options.compression, attributes, lambda n: room(where, n)
        )
        if isinstance(values, Stream):
            values.done(stored if deflated else None)
        elif meter:
            meter.done_with(values, stored if deflated else None)
        if options.checksums is not None:
            options.checksums[tensor.name] = (
                values.checksum()
                if isinstance(values, Stream)
                else digest.checksum(values, rows_written(where[leaf]))
            )
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
    raw = np.dtype("V2") if is_bfloat16(dtype) else dtype
    room(group)
    made = make_group(group, parent).create_dataset(leaf, shape, raw, track_times=False)
    if is_bfloat16(dtype):
        made.attrs["dtype"] = "bfloat16"
    return made


def put_checksums(file: h5py.File, checksums: Mapping[str, str] | None) -> None:
    """Keeps the checksum of each tensor, for `modelcut verify`: HDF5 itself keeps none."""
    if checksums:
        _put_json(file, _CHECKSUMS, checksums)


def get_checksums(file: h5py.File, where: str) -> dict[str, str]:
    """The checksums kept in a file by the names of tensors; {} where there are none.

    Raises:
        InputError: there are some, and they cannot be read.
    """
    parent, _, name = _CHECKSUMS.rpartition("/")
    if not isinstance(file.get(parent, getlink=True), h5py.HardLink) or name not in file[parent]:
        return {}
    try:
        found = _get_json(file, _CHECKSUMS, where)
        return {str(name): str(value) for name, value in found.items()}
    except (ValueError, zlib.error, AttributeError, TypeError, KeyError):
        raise InputError(f"{where}: damaged: its checksums cannot be read") from None


def _put_json(file: h5py.File, place: str, value: Any) -> None:
    blob = zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)
    folder, _, name = place.rpartition("/")
    values = np.frombuffer(blob, np.uint8)
    room(file, values.nbytes)
    make_group(file, folder).create_dataset(name, data=values, track_times=False)


def _get_json(file: h5py.File, place: str, where: str) -> Any:
    raw = dataset(file, place, where)
    if raw.nbytes > 64 << 20:
        raise InputError("too large")
    data = zlib.decompressobj().decompress(raw[()].tobytes(), 256 << 20)
    return load_json(
        data.decode(), where=where, what=f"list of {place.partition('/')[2]}", ours=True
    )


def put_encodings(file: h5py.File, encodings: Mapping[str, Encoding]) -> None:
    """Keeps the encodings of tensors, so that a later run knows what they are restricted to."""
    records = {
        name: jsonable(encoding.record())
        for name, encoding in encodings.items()
        if encoding.kinds != ("dense",)
    }
    if records:
        _put_json(file, _ENCODINGS, records)


def get_encodings(file: h5py.File, where: str) -> tuple[dict[str, Encoding], list[str]]:
    """The encodings kept in a file, and warnings about those that cannot be trusted."""
    if "modelcut" not in file or not isinstance(file.get("modelcut", getlink=True), h5py.HardLink):
        return {}, []
    if isinstance(file["modelcut"], h5py.Group) and _CHECKSUMS in file and _ENCODINGS not in file:
        return {}, []
    try:
        records = _get_json(file, _ENCODINGS, where)
        return {str(k): from_record(arrays(v)) for k, v in records.items()}, []
    except (InputError, UnsafeError, ValueError, zlib.error, AttributeError, TypeError, KeyError):
        return {}, ["the encodings kept in the file cannot be read; they are ignored"]

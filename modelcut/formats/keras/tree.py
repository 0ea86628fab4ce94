"""An HDF5 file without its tensors, as plain data: groups, attributes, and what stands beside them.

HDF5 spends some hundred bytes on every object; the same tree as plain data packs into a handful.
Objects that are none of ours (a dataset of another tool's) travel as HDF5, in an image of their
own, and come back bit for bit.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Mapping
from typing import Any

import h5py
import numpy as np

from modelcut.errors import InputError
from modelcut.formats.keras import hdf5_file, hdf5_values
from modelcut.safety import printable

_GROUP, _TENSOR, _IMAGE = range(3)
_DTYPES = (
    *("bool int8 uint8 int16 uint16 int32 uint32 int64 uint64".split()),
    *("float16 float32 float64 bfloat16".split()),
)
_MOST_DEPTH = 100

Data = list[Any]


def to_data(file: h5py.File, places: Mapping[str, int], leave: tuple[str, ...] = ()) -> Data:
    """A file as plain data.

    Args:
        file: to be read.
        places: place in the file -> number, of the datasets that are tensors.
        leave: attributes of the root that are left out.
    """
    above = {p[:at] for p in places for at, letter in enumerate(p) if letter == "/"}
    tree = _group(file, "", places, above)
    tree[1] = {name: value for name, value in tree[1].items() if name not in leave}
    return tree


def _group(group: h5py.Group, path: str, places: Mapping[str, int], above: Collection[str]) -> Data:
    children = []
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item, below = group[name], f"{path}/{name}" if path else name
        if below in places:
            shape, dtype = item.shape, hdf5_values.dtype_of(item).name
            attributes = _attributes(item)
            attributes.pop("dtype", None) if dtype == "bfloat16" else None
            child = [_TENSOR, places[below], list(shape), _DTYPES.index(dtype), attributes]
        elif below in above or hdf5_file.bare(item):
            child = _group(item, below, places, above)
        else:
            child = [_IMAGE, _image(group, name)]
        children.append([name, child])
    return [_GROUP, _attributes(group), children]


def _attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    return {name: _attribute(item, name) for name in item.attrs}


def _attribute(item: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Text of variable length as text; lists of bytes as such; the rest with its type in full."""
    source = h5py.h5a.open(item.id, name.encode())
    kind, space = source.get_type(), source.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return [kind.encode(), None, b""]
    values = np.empty(space.shape, kind.dtype)
    source.read(values)
    if isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
        parts = [p.encode() if isinstance(p, str) else bytes(p) for p in values.ravel()]
        text = _decoded(parts[0]) if values.ndim == 0 else None
        if text is not None and kind.encode() == _text_type().encode():
            return text
        return [kind.encode(), list(space.shape), parts]
    if (
        values.dtype.kind == "S"
        and values.ndim == 1
        and kind.encode() == h5py.h5t.py_create(values.dtype).encode()
    ):
        return [values.dtype.itemsize, values.tolist()]
    if values.dtype.hasobject:
        raise InputError(
            f"the attribute {printable(name)} of {item.name} is of a type that cannot be packed",
            "name the output .h5",
        )
    return [kind.encode(), list(space.shape), values.tobytes()]


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _text_type() -> h5py.h5t.TypeID:
    return h5py.h5t.py_create(h5py.string_dtype(), logical=True)


def _image(group: h5py.Group, name: str) -> bytes:
    """A file of this object only, without time stamps: the same bytes each time."""
    buffer = io.BytesIO()
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, buffer)
    with _created(access) as file:
        group.copy(name, file, "object")
    return buffer.getvalue()


def _in_memory() -> h5py.File:
    """An HDF5 file that is nowhere on disk."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(1 << 16, False)
    return _created(access)


def _created(access: Any) -> h5py.File:
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)
    # HDF5 knows open files by their names.
    name = f"modelcut-{os.urandom(8).hex()}".encode()
    made = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    made.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, fcpl=made, fapl=access))


def to_file(data: Any, where: str) -> tuple[h5py.File, dict[str, int]]:
    """The inverse of `to_data`: a file in memory whose tensors have no values.

    Args:
        data: plain data, perhaps a stranger's.
        where: the file it came from, for messages.

    Returns:
        The file, and the number of each tensor by its place.

    Raises:
        InputError: the data is no such tree.
    """
    places: dict[str, int] = {}
    file = _in_memory()
    try:
        _fill(file, data, "", places, 0)
    except (
        AttributeError,
        InputError,
        IndexError,
        KeyError,
        OSError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        file.close()
        what = printable(f"{type(error).__name__}: {error}", 160)
        raise InputError(f"{where}: damaged: its structure is inconsistent ({what})") from None
    return file, places


def _fill(group: h5py.Group, node: Any, path: str, places: dict[str, int], depth: int) -> None:
    kind, attributes, children = node
    if kind != _GROUP or depth > _MOST_DEPTH:
        raise ValueError("a group was expected")
    for name, value in attributes.items():
        _put_attribute(group, name, value)
    for name, child in children:
        if not name or "/" in name or name == ".":
            raise ValueError(f"the name {name!r}")
        below = f"{path}/{name}" if path else name
        if child[0] == _GROUP:
            _fill(hdf5_file.make_group(group, name), child, below, places, depth + 1)
        elif child[0] == _TENSOR:
            _, number, shape, dtype, own = child
            made = hdf5_file.declare(group, name, tuple(shape), _dtype(dtype))
            for key, value in own.items():
                _put_attribute(made, key, value)
            places[below] = number
        else:
            with hdf5_file.open_file(io.BytesIO(child[1]), f"the group {path or '/'}") as image:
                image.copy("object", group, name)


def _dtype(number: int) -> np.dtype:
    import ml_dtypes

    name = _DTYPES[number]
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _put_attribute(item: h5py.Group | h5py.Dataset, name: str, value: Any) -> None:
    if isinstance(value, str):
        shape, kind = (), _text_type()
        values = np.array(value, object)
    elif len(value) == 2:
        size, parts = value
        values = np.array(parts, f"S{size}")
        shape, kind = values.shape, h5py.h5t.py_create(values.dtype)
    else:
        encoded, shape, raw = value
        kind = h5py.h5t.decode(encoded)
        if shape is None:
            h5py.h5a.create(item.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.NULL))
            return
        if isinstance(raw, list):
            values = np.empty(len(raw), object)
            values[:] = raw
            values = values.reshape(shape)
        else:
            values = np.frombuffer(raw, kind.dtype).reshape(shape).copy()
    space = h5py.h5s.create_simple(tuple(shape)) if len(shape) else h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5a.create(item.id, name.encode(), kind, space).write(np.asarray(values))

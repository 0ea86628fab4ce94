"""Keras 3's sharded weights: `NAME.weights.json`, which says what is in `NAME_00000.weights.h5` ….

The shards are one weight store (`_store`) in pieces; a layer's weights may lie in several
(keras/src/saving/saving_lib.py, `ShardedH5IOStore`).
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import IO, Any

import h5py

from modelcut.errors import InputError, UnsafeError
from modelcut.formats.keras import hdf5_file
from modelcut.safety import json_bytes, load_json, printable

SUFFIX = ".weights.json"
_MOST = 10_000


def sniff(path: Path) -> bool:
    """Whether this is the list of shards."""
    return path.name.endswith(SUFFIX) and path.is_file()


def open_file(path: Path, opened: contextlib.ExitStack) -> h5py.File:
    """One store of all shards, copied together in a temporary file.

    Args:
        path: of the list of shards.
        opened: closes the temporary file when it is closed.

    Raises:
        InputError: the list is broken, or a shard is not there, or broken.
        UnsafeError: a shard lies elsewhere.
    """
    where = str(path)
    scratch: IO[bytes] = tempfile.TemporaryFile(prefix="modelcut-")  # noqa: SIM115
    opened.enter_context(scratch)
    whole = opened.enter_context(h5py.File(scratch, "w"))
    for name in _names(path, where):
        shard = path.with_name(name)
        if not shard.is_file():
            raise InputError(f"{where}: its shard {printable(name)!r} is missing", "copy it too")
        with hdf5_file.open_file(str(shard), str(shard)) as file:
            _copy(file, whole, str(shard))
    whole.flush()
    return whole


def _names(path: Path, where: str) -> list[str]:
    if path.stat().st_size > json_bytes():
        raise InputError(f"{where}: is larger than {json_bytes() >> 20} MiB")
    text = path.read_text("utf-8", "replace")
    found: Any = load_json(text, where=where, what="list of shards")
    weights = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise InputError(
            f"{where}: has no weight_map", "it is not a list of shards that Keras wrote"
        )
    names = set()
    for value in weights.values():
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or not 0 < len(name.encode("utf-8", "replace")) <= 255:
                raise InputError(f"{where}: its weight_map does not name files")
            if Path(name).name != name or "\\" in name:
                raise UnsafeError(f"{where}: the shard {printable(name)!r} is outside the folder")
            names.add(name)
    if len(names) > _MOST:
        raise InputError(f"{where}: more than {_MOST} shards")
    return sorted(names)


def _copy(source: h5py.File, target: h5py.File, where: str) -> None:
    """Adds a shard to the store: groups with their attributes, and each weight once."""
    stack, seen = [""], set()
    while stack:
        base = stack.pop()
        old = source[base] if base else source
        token = h5py.h5o.get_info(old.id).addr
        if token in seen:
            raise InputError(f"{where}: the group {printable(base)!r} contains itself")
        seen.add(token)
        new = hdf5_file.make_group(target, base) if base else target
        hdf5_file.copy_attributes(old, new, tuple(new.attrs))
        for name in old:
            key = f"{base}/{name}" if base else name
            item = hdf5_file.child(source, key, where)
            if isinstance(item, h5py.Group):
                stack.append(key)
            elif name in new:
                raise InputError(f"{where}: {printable(key)!r} is in another shard too")
            else:
                hdf5_file.dataset(source, key, where)
                old.copy(name, new)

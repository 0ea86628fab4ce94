"""A SavedModel without the values of its tensors, as plain data, and back.

[files, checkpoint]: `files` are (name, content), the content None for a folder. `checkpoint` is
None, or [header, entries]; the entries, in the order in which their values lie, are
(key, dtype, shape, slices, kind, …), the rest as `_KINDS` says. Keys that share their bytes refer
to the entry that has them by its number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from modelcut.errors import InputError, ModelcutError
from modelcut.formats.files import InMemory, Names
from modelcut.formats.saved_model.bundle import DTYPES, Bundle, Entry, Shell
from modelcut.safety import printable

_TENSOR, _RAW, _ZERO, _COPY = _KINDS = range(4)
"""(number, name of the dtype or None for the entry's own), (checksum, values), (), (entry,)."""

_RETYPED = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in "float16 bfloat16 float32 float64".split()
}
_MOST_ZEROS = 64 << 20
"""Bytes of zeros that an entry may stand for; more only where a tensor is as large."""


def to_data(
    bundle: Bundle,
    tensors: Mapping[str, tuple[int, np.dtype]],
    copies: Mapping[str, tuple[str, ...]],
    zeros: frozenset[str],
) -> Any:
    """A checkpoint as plain data.

    Args:
        bundle: it.
        tensors: key -> number of the tensor, and dtype of its values where they are kept.
        copies: key -> keys that share its bytes.
        zeros: keys that are written as zeros.
    """
    first = {copy: key for key, group in copies.items() for copy in group}
    order = sorted(bundle.in_order(), key=lambda entry: entry.name in first)  # theirs come last
    places = {entry.name: place for place, entry in enumerate(order)}
    entries = []
    for entry in order:
        rest: list[Any]
        if entry.name in tensors:
            number, dtype = tensors[entry.name]
            rest = [_TENSOR, number, None if dtype == entry.numpy else dtype.name]
        elif entry.name in first:
            rest = [_COPY, places[first[entry.name]]]
        elif entry.name in zeros | bundle.zeros:
            rest = [_ZERO]
        elif entry.slices:
            rest = [_RAW, entry.crc, b""]
        else:
            rest = [_RAW, entry.crc, b"".join(bundle.pieces(entry))]
        slices = list(entry.slices) or None
        entries.append([entry.key, entry.dtype, list(entry.shape), slices, *rest])
    return [bundle.header, entries]


def from_data(
    data: Any, where: str
) -> tuple[InMemory, Bundle | None, dict[str, int], dict[str, np.dtype]]:
    """The inverse: files, checkpoint, and by key the number and another dtype of each tensor.

    Raises:
        InputError: it is inconsistent.
        UnsafeError: a file leads out of the model.
    """
    try:
        files, checkpoint = data
        names = Names(where)
        for name, content in files:
            names.add(name)
            if (content is None) != name.endswith("/") or not isinstance(content, bytes | None):
                raise ValueError(f"the file {name!r}")
        held = InMemory(dict(files), where)
        if checkpoint is None:
            return held, None, {}, {}
        return (held, *_checkpoint(checkpoint, where))
    except ModelcutError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        what = printable(f"{type(error).__name__}: {error}", 160)
        raise InputError(f"{where}: damaged: its structure is inconsistent ({what})") from None


def _checkpoint(data: Any, where: str) -> tuple[Bundle, dict[str, int], dict[str, np.dtype]]:
    header, rows = data
    entries: list[Entry] = []
    contents: dict[bytes, bytes] = {}
    numbers: dict[str, int] = {}
    dtypes: dict[str, np.dtype] = {}
    zeros: set[str] = set()
    for place, (key, dtype, shape, slices, kind, *rest) in enumerate(rows):
        size = math.prod(shape) * (DTYPES[dtype].itemsize if dtype in DTYPES else 0)
        entry = Entry(
            _blob(key), int(dtype), tuple(map(int, shape)), 0, place, size, place,
            tuple(map(_blob, slices or ())),
        )  # fmt: skip
        if kind == _TENSOR:
            number, name = rest
            numbers[entry.name] = int(number)
            if entry.slices or entry.numpy is None:
                raise ValueError("a tensor that is none")
            if name is not None:
                dtypes[entry.name] = _RETYPED[name]
        elif kind == _COPY:
            twin = entries[rest[0]]
            if (twin.dtype, twin.shape, twin.slices) != (entry.dtype, entry.shape, entry.slices):
                raise ValueError("a copy of something else")
            entry = Entry(**{**vars(entry), "offset": twin.offset, "crc": twin.crc})
        elif kind == _ZERO:
            zeros.add(entry.name)
        else:
            crc, values = rest
            contents[entry.key] = _blob(values)
            entry = Entry(**{**vars(entry), "crc": int(crc), "size": len(values)})
        entries.append(entry)
    if len({entry.key for entry in entries}) != len(entries):
        raise ValueError("a key that is there twice")
    longest = max((e.size for e in entries if e.name in numbers), default=0)
    if any(e.size > max(longest, _MOST_ZEROS) for e in entries if e.name in zeros):
        raise ValueError("zeros without end")
    return Shell(_blob(header), entries, contents, frozenset(zeros), where), numbers, dtypes


def _blob(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("bytes were expected")
    return value

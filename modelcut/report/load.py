"""A saved report -> the typed report, to be shown again; the file may be anybody's."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union

from modelcut.errors import InputError
from modelcut.report.schema import SCHEMA, Report, Totals
from modelcut.safety import check_path, load_json, printable

MOST_BYTES = 256 << 20


def load(path: Path) -> Report:
    """Reads a `.report.json`.

    Unknown keys are passed over: a later version of modelcut may have written them.

    Raises:
        InputError: it is no report of schema `modelcut-report/1`, or is damaged.
    """
    check_path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder", "name a .report.json")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: is larger than {MOST_BYTES:,} bytes", "name a .report.json")
    found = load_json(data.decode("utf-8", "replace"), where=str(path), what="report")
    return report_of(found, str(path))


def report_of(data: Any, where: str) -> Report:
    """The report that JSON data is; `where` names it in messages.

    Raises:
        InputError: it is none.
    """
    name = data.get("schema") if isinstance(data, Mapping) else None
    if name != SCHEMA:
        known = f"its schema is {printable(str(name), 60)!r}" if name else "it names no schema"
        raise InputError(f"{where}: is no report of modelcut: {known}, not {SCHEMA!r}")
    report = _value(Report, data, "", where)
    assert isinstance(report, Report)
    return report


def _value(kind: Any, value: Any, path: str, where: str) -> Any:
    """A value as a field's type has it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        (kind,) = (part for part in parts if part is not type(None))
        return _value(kind, value, path, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _part(kind, _held(value, Mapping, path, where), path, where)
    if origin is tuple:
        items = _held(value, list, path, where)
        return tuple(
            _value(parts[0], item, f"{path}[{index}]", where) for index, item in enumerate(items)
        )
    if origin is not None and issubclass(origin, Mapping):
        return _held(value, Mapping, path, where)
    if kind is float:  # a number that JSON cannot hold was written as null
        if value is None:
            return float("nan")
        try:
            return float(_held(value, (int, float), path, where))
        except OverflowError:
            raise _odd(value, path, where) from None
    return value if kind is Any else _held(value, kind, path, where)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _part(kind: type, value: Mapping[str, Any], path: str, where: str) -> Any:
    found: dict[str, Any] = {}
    hints, known = _hints(kind), set()
    for each in fields(kind):
        key = str(each.metadata.get("key", each.name))
        known.add(key)
        here = f"{path}.{key}" if path else key
        if each.metadata.get("flat"):
            continue
        if hints[each.name] is Totals:  # its keys stand among those of its owner
            found[each.name] = _part(Totals, value, path, where)
        elif key in value:
            found[each.name] = _value(hints[each.name], value[key], here, where)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise InputError(f"{where}: {here}: is missing", "the report is damaged")
    for each in fields(kind):
        if each.metadata.get("flat"):
            found[each.name] = {
                key: item
                for key, item in value.items()
                if key not in known and isinstance(item, Mapping)
            }
    return kind(**found)


def _held(value: Any, kind: Any, path: str, where: str) -> Any:
    odd = isinstance(value, bool) and kind is not bool
    if isinstance(value, kind) and not odd:
        return value
    raise _odd(value, path, where)


def _odd(value: Any, path: str, where: str) -> InputError:
    return InputError(
        f"{where}: {path}: {printable(repr(value), 40)} is not what stands there in a report",
        "the report is damaged, or was edited",
    )

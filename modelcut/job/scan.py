"""Looks for what a file could do besides computing: `scan`. The same guards every engine start."""

from __future__ import annotations

from pathlib import Path

from modelcut import safety
from modelcut.errors import InputError, UnsafeError
from modelcut.formats import registry
from modelcut.job import limits
from modelcut.job.watched import reading
from modelcut.report.scan import SCHEMA, Found, Scan


def scan(path: Path) -> Scan:
    """Looks through a model file without running, or reaching outside, anything of it.

    Raises:
        UsageError: there is no such file.
        InputError: it is broken.
    """
    safety.check_path(path)
    try:
        with reading(path):
            model = registry.open_model(path)
    except UnsafeError as error:
        what = error.message.removeprefix(f"{path}: ")
        return Scan(SCHEMA, str(path), "", "", False, (Found("file", "", what),))
    with model:
        found = [Found(one.kind, one.layer, one.what) for one in registry.dangers(model)]
        try:
            limits.check_engine(model)
        except InputError as error:
            found.append(Found("size", "", error.message.removeprefix(f"{path}: ")))
        form = model.origin.container or model.origin.format
        return Scan(SCHEMA, str(path), form, model.origin.writer, not found, tuple(found))

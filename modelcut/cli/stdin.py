"""`-` in the place of a data file: standard input."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelcut.data.stdin import MARK, spool
from modelcut.errors import UsageError

NAMES = ("test", "train", "validate", "calibrate", "data")
"""Options that take samples."""


@contextlib.contextmanager
def read(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The values of the flags, with a file in the place of `-`, which is removed afterwards.

    Raises:
        UsageError: several options name it, or there is none.
    """
    named = [name for name in NAMES if values.get(name) == MARK]
    if not named:
        yield dict(values)
        return
    if len(named) > 1:
        flags = " and ".join(f"--{name}" for name in named)
        raise UsageError(f"{flags}: standard input can be read once", "name a file for the others")
    from modelcut.cli import progress

    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        if not values.get("quiet"):
            progress.show()("reading standard input")
        yield {**values, named[0]: spool(Path(folder))}

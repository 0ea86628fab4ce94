"""What this process tells the one that watches it: how much it may take, and how it ended.

Lines of JSON by a pipe; `cli.process` reads them. Nothing is imported here that could fail for want
of memory.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

READING = "reading the file"

_pipe: int | None = None
_bounded = False
"""Whether a limit on memory was told."""


def by(pipe: int | None) -> None:
    """Names the pipe to whoever watches; None: nobody does."""
    global _pipe
    from modelcut import safety

    _pipe = pipe
    safety.watch(pipe is not None)


def tell(**message: float | str) -> None:
    """Sends one line: `memory` (bytes), `seconds` of CPU for what is `doing`, or `code`."""
    global _bounded
    if "memory" in message:
        _bounded = bool(message["memory"])
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.write(_pipe, json.dumps(message).encode() + b"\n")


@contextlib.contextmanager
def within(seconds: float, doing: str) -> Iterator[None]:
    """Bounds the CPU time of what is done meanwhile; some times as long on the wall.

    Args:
        seconds: of CPU, over all threads.
        doing: what it is, for the message.
    """
    tell(seconds=seconds, doing=doing)
    try:
        yield
    finally:
        tell(seconds=0)


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Bounds CPU time and memory until a file is opened: HDF5 comes to no end on some damaged ones.

    Where nobody watches, `formats.keras.probe` does that for HDF5.
    """
    from modelcut.safety import json_bytes

    size, first = 0, not _bounded
    with contextlib.suppress(OSError):
        size = os.stat(path).st_size
    if first:
        tell(memory=(1 << 30) + 64 * json_bytes() + 8 * size)
    try:
        with within(20 + size / 10e6, READING):
            yield
    finally:
        if first:
            tell(memory=0)

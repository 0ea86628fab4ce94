"""Limits, and what a file may hold before anything of it is run.

The scan allows what is known to be harmless and refuses the rest: a list of what is forbidden is
always one gadget short. It looks at plain JSON only, so that nothing of the file is executed.
"""

from __future__ import annotations

import json
import re
import stat
import sys
import unicodedata
from pathlib import Path
from typing import Any

from modelcut.errors import InputError, UsageError

MAX_JSON_BYTES = 64 << 20


MAX_JSON_DEPTH = 400
"""Deeper than any network that was built by hand, shallow enough for recursive readers."""


MAX_JSON_OBJECTS = 1_000_000


MAX_JSON_VALUES = 4_000_000
"""What ten thousand layers as Keras 3 writes them stay well below; parsed, about 300 MB."""


def load_json(text: str, *, where: str, what: str) -> Any:
    """Parses JSON of a bounded size and depth; NaN and Infinity are let in, as old Keras writes.

    Raises:
        InputError: broken, too large or too deep.
    """
    if len(text) > MAX_JSON_BYTES:
        raise InputError(f"{where}: the {what} is larger than {MAX_JSON_BYTES >> 20} MiB")
    # Two bytes of text can become an object of hundreds; what stands in strings is counted too.
    objects = text.count("{") + text.count("[")
    if objects > MAX_JSON_OBJECTS or text.count(",") > MAX_JSON_VALUES:
        raise InputError(f"{where}: the {what} holds more objects than any network needs")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if deep else f"not valid JSON: {error}"
        raise InputError(f"{where}: the {what} is {reason}") from None
    level, depth = [value] if isinstance(value, (dict, list)) else [], 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise InputError(f"{where}: the {what} is nested deeper than {MAX_JSON_DEPTH} levels")
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
    return value


def printable(text: str, limit: int = 120) -> str:
    """A name as it may be shown: what moves the cursor, hides or reverses text is escaped."""
    if len(text) > limit:
        text = f"{text[: limit * 2 // 3]}…{text[-limit // 4 :]}"
    return "".join(
        c if c == " " or unicodedata.category(c)[0] not in "CZ" else _escaped(c) for c in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def check_system() -> None:
    """Refuses systems without what modelcut is built on: `fork`, `pread`, resource limits.

    Raises:
        UsageError: this is Windows.
    """
    if sys.platform == "win32":
        raise UsageError("modelcut runs on Linux and macOS; on Windows use WSL")


_FOLDER_MODELS = ("saved_model.pb", "saved_model.pbtxt", "variables", "config.json")


def check_path(path: Path) -> None:
    """Refuses what is not a local file (or folder) that can be read to its end.

    Raises:
        UsageError: it is not there, is remote, or is a device.
        InputError: it is empty.
    """
    text = str(path)
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:/", text):
        raise UsageError(f"{text}: only local files are read", "fetch it first")
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"{text}: {(error.strerror or 'cannot be read').lower()}") from None
    except ValueError:
        raise UsageError(f"{text!r}: not a path") from None
    if stat.S_ISDIR(status.st_mode):
        if not any((path / name).exists() for name in _FOLDER_MODELS):
            raise InputError(f"{text}: is a folder without a model", "name a SavedModel or .keras")
        return
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{text}: not a regular file", "give a file on disk")
    if status.st_size == 0:
        raise InputError(f"{text}: is empty")

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
from collections import Counter
from pathlib import Path
from typing import Any

from modelcut.errors import InputError, UsageError

MAX_JSON_BYTES = 32 << 20
"""Ten thousand layers as Keras 3 writes them take half of it."""


MAX_JSON_DEPTH = 400
"""Deeper than any network that was built by hand, shallow enough for recursive readers."""


MAX_JSON_OBJECTS = 400_000


MAX_JSON_VALUES = 1_000_000
"""What ten thousand layers as Keras 3 writes them stay well below; parsed, about 150 MB."""


_scale = 1.0


def allow(memory: int | None) -> None:
    """Scales the limits on JSON with the memory that a job may take; they are for 4 GiB or less."""
    global _scale
    _scale = max(1.0, (memory or 0) / (4 << 30))


def json_bytes() -> int:
    """The most bytes of JSON that are read from a file."""
    return int(MAX_JSON_BYTES * _scale)


_watched = False


def watch(watched: bool) -> None:
    """Says whether another process bounds what this one takes, and tells where it crashes."""
    global _watched
    _watched = watched


def watched() -> bool:
    """Whether a crash of C code here is an exit code and one line."""
    return _watched


def load_json(text: str, *, where: str, what: str, ours: bool = False) -> Any:
    """Parses JSON of a bounded size and depth; NaN and Infinity are let in, as old Keras writes.

    A key that an object has twice is refused: who looks through a file and who loads it might take
    different ones.

    Args:
        text: the JSON.
        where: the file, for messages.
        what: what of the file it is, for messages.
        ours: modelcut wrote it, with numbers for each channel: it may hold four times as many.

    Raises:
        InputError: broken, too large or too deep.
    """
    more = _scale * (4 if ours else 1)
    hint = "--max-memory 16GB allows four times as much"
    if len(text) > MAX_JSON_BYTES * more:
        most = int(MAX_JSON_BYTES * more) >> 20
        raise InputError(f"{where}: the {what} is larger than {most} MiB", hint)
    # Two bytes of text can become an object of hundreds; what stands in strings is counted too.
    objects = text.count("{") + text.count("[")
    if objects > MAX_JSON_OBJECTS * more or text.count(",") > MAX_JSON_VALUES * more:
        raise InputError(f"{where}: the {what} holds more objects than any network needs", hint)
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if deep else f"not valid JSON: {printable(str(error))}"
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


def without_surrogates(text: str) -> str:
    """The text as UTF-8 can hold it.

    Lone surrogates are bytes of a path that are no text, or come from an escape in JSON.
    """
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {double!r} stands twice in an object")
    return found


def printable(text: str, limit: int = 120) -> str:
    """A name as it may be shown on any channel: a terminal, a log, Markdown, HTML.

    What moves the cursor, hides or reverses text is escaped, and so is what the logs of CI services
    take for a command: `::` where a line may begin (GitHub), `##[`, `##vso[` and `##teamcity[`.
    """
    if len(text) > limit:
        text = f"{text[: limit * 2 // 3]}…{text[-limit // 4 :]}"
    shown = "".join(
        c if c == " " or unicodedata.category(c)[0] not in "CZ" else _escaped(c) for c in text
    )
    return _COMMANDS.sub(lambda found: found[0][:-1] + _escaped(found[0][-1]), shown)


def colourless(text: str) -> str:
    """A library's message without the colours that it has for a terminal."""
    return _COLOUR.sub("", text)


_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_COMMANDS = re.compile(r"^ *:(?=:)|#(?=#(?:vso|teamcity)?\[)", re.IGNORECASE)


def json_text(text: str) -> str:
    """JSON text with all characters as escapes that move the cursor, hide or reverse text."""
    if not text.isascii() or "\x7f" in text:
        text = "".join(c if c < "\x7f" or not _is_hidden(c) else _json_escaped(c) for c in text)
    return _COMMANDS.sub("\\\\u0023", text) if "##" in text else text


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp")


def _json_escaped(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


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


def small_text(path: Path, most: int = 64 << 20) -> str:
    """The text of a regular file that is not large; a device has no end, and a pipe may wait.

    Raises:
        ValueError: it is another kind of file, larger, or no UTF-8.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > most:
        raise ValueError("not a regular file, or a large one")
    with path.open("rb") as file:
        return file.read(most).decode("utf-8")


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

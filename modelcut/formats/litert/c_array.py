"""A `.tflite` as a C array: a header that firmware includes, with what its caller must know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from modelcut import __version__
from modelcut.errors import UsageError
from modelcut.safety import printable

MARK = "/* made by modelcut"
"""How such a header begins."""

MAX_BYTES = 32 << 20
"""Of a file that is still taken: its text is six times as long."""

_A_LINE = 16


def identifier(stem: str) -> str:
    """A name that C takes: `my-model.v2` -> `my_model_v2`."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII).strip("_") or "model"
    return f"model_{name}" if name[0].isdigit() else name


def text(
    content: bytes, stem: str, facts: Mapping[str, Any], arena: Mapping[str, Any]
) -> Iterator[str]:
    """The header in pieces.

    Args:
        content: the file.
        stem: its name without the suffix.
        facts: with "inputs" and "outputs", as `litert.describe` gives them.
        arena: "bytes", or None and "why"; "engine" that measured it.

    Raises:
        UsageError: the file is too large for that.
    """
    if len(content) > MAX_BYTES:
        raise UsageError(
            f"--c-array: {stem}: {len(content):,} bytes are no array for a microcontroller",
            "leave it out, or make the model smaller",
        )
    name = identifier(stem)
    upper = name.upper()
    yield f"{MARK} {__version__}: {_comment(stem)}.tflite as bytes.\n"
    yield " * static: include it in one source file. */\n"
    yield f"#ifndef {upper}_H_\n#define {upper}_H_\n\n"
    yield "#if defined(__cplusplus) && __cplusplus >= 201103L\n"
    yield f"#define {upper}_ALIGNED alignas(16)\n"
    yield "#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L\n"
    yield f"#define {upper}_ALIGNED _Alignas(16)\n"
    yield "#else\n"
    yield f"#define {upper}_ALIGNED __attribute__((aligned(16)))\n"
    yield "#endif\n\n"
    for side in ("input", "output"):
        for number, entry in enumerate(facts[f"{side}s"]):
            yield from _value(f"{upper}_{side.upper()}_{number}", f"{side} {number}", entry)
    yield from _arena(upper, arena)
    yield f"#define {upper}_LENGTH {len(content)}\n\n"
    yield f"{upper}_ALIGNED static const unsigned char {name}[{upper}_LENGTH] = {{\n"
    words = [f"0x{byte:02x}," for byte in range(256)]
    for at in range(0, len(content), _A_LINE):
        yield "  " + " ".join(words[byte] for byte in content[at : at + _A_LINE]) + "\n"
    yield f"}};\n\n#endif /* {upper}_H_ */\n"


def _value(macro: str, title: str, entry: Mapping[str, Any]) -> Iterator[str]:
    shape: Sequence[int] = entry["shape"]
    times = "×".join(str(n) for n in shape) or "scalar"
    yield f"/* {title}: {_comment(entry['name'])}, {entry['dtype']}, {times}"
    if entry["scale"] is not None:
        yield "; real = scale * (value - zero point)"
    yield " */\n"
    yield f"#define {macro}_BYTES {entry['bytes']}\n"
    if entry["scale"] is not None:
        yield f"#define {macro}_SCALE {_float(entry['scale'])}\n"
        yield f"#define {macro}_ZERO_POINT ({entry['zero_point']})\n"
    yield "\n"


def _arena(upper: str, arena: Mapping[str, Any]) -> Iterator[str]:
    if arena.get("bytes") is None:
        yield f"/* The arena was not measured: {_comment(arena['why'], 300)} */\n"
        return
    bits = 8 * arena["pointer_bytes"]
    yield f"/* Bytes of tensor arena with which {_comment(arena['engine'])} has run this file,\n"
    yield f" * on a host with pointers of {bits} bits. Pointers of 32 bits need less; kernels\n"
    yield " * that are made for one chip may need more. */\n"
    yield f"#define {upper}_ARENA_BYTES {arena['bytes']}\n"


def _comment(words: str, length: int = 80) -> str:
    return printable(words, length).replace("*/", "* /").replace("\\", "/")


def _float(value: float) -> str:
    shown = f"{np.float32(value):.9g}"
    return f"{shown}f" if re.search(r"[.e]", shown) else f"{shown}.0f"

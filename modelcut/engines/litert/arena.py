"""The process that measures the tensor arena: LiteRT for Microcontrollers' own interpreter, here.

Called with the file, where to write the answer, and the number of inputs. What its allocator has
recorded is tried for real: the answer is a size that it ran with.
"""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_MOST = 1 << 30


def main() -> None:
    """Measures, and writes the answer."""
    content = Path(sys.argv[1]).read_bytes()
    answer: dict[str, Any]
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            answer = measured(content, int(sys.argv[3]), log)
        except Exception as error:  # noqa: BLE001 - it raises whatever it meets
            answer = {"bytes": None, "why": _said(log) or str(error)}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def measured(content: bytes, inputs: int, log: Any) -> dict[str, Any]:
    """Runs the file once with more than enough, then with what that took."""
    from tflite_micro.python.tflite_micro import runtime

    def ran(size: int) -> Any:
        one = runtime.Interpreter.from_bytes(content, arena_size=size)
        for index in range(inputs):
            about = one.get_input_details(index)
            one.set_input(np.zeros(about["shape"], about["dtype"]), index)
        one.invoke()
        return one

    ran(min(_MOST, (1 << 20) + 16 * len(content))).print_allocations()
    log.seek(0)
    found = re.search(rb"Arena allocation total (\d+) bytes", log.read())
    if found is None:
        raise ValueError("it did not report its size")
    size = -(-int(found[1]) // 16) * 16
    for _ in range(64):
        try:
            ran(size)
        except Exception:  # noqa: BLE001 - too little, said in whatever way
            size += max(16, size // 1024 * 16)
        else:
            return {
                "bytes": size,
                "engine": f"tflite-micro {metadata.version('tflite-micro')}",
                "pointer_bytes": np.dtype(np.intp).itemsize,
            }
    raise ValueError("it did not run with any size that was tried")


def _said(log: Any) -> str:
    """The lines that name a reason, of what the library wrote."""
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()
    return " ".join(line.strip() for line in lines if line.strip())[-240:]


if __name__ == "__main__":
    main()

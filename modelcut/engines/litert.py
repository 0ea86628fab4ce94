"""LiteRT: makes a `.tflite` of a Keras file, and runs one. Each in a process of its own.

Both the converter and the interpreter are C++ that ends the process on some inputs (an LSTM in
8 bits, a damaged file): there, that is an error message.
"""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data import InputSpec
from modelcut.engines import OutputSpec, _child
from modelcut.errors import InputError
from modelcut.safety import printable

NAME = "LiteRT"


def convert(request: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a `.tflite`; `request` is what `_litert_converter` takes.

    Raises:
        InputError: the converter cannot; one line of its reason.
    """
    return _child.ask(
        "_litert_converter",
        request,
        what=f"LiteRT's converter {{}} on it as {request['type']}",
        hint="try another --type; float32 and dynamic take the most layers",
    )


class LiteRTNetwork:
    """A `.tflite` behind an interpreter in a process of its own; see `Network`.

    Quantized inputs and outputs are floats on this side.
    """

    def __init__(self, path: Path) -> None:
        self.loss = None
        self.fixed_batch: int | None = None
        self._where = str(path)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "modelcut.engines._litert_child", str(path.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_child.environment(),
        )
        self._end = weakref.finalize(self, _stop, self._child)
        about = self._receive()
        self.engine = str(about["engine"])
        self.inputs = tuple(
            InputSpec(e["name"], tuple(None if n < 0 else n for n in e["shape"]), e["dtype"])
            for e in about["inputs"]
        )
        self.outputs = tuple(
            OutputSpec(
                e["name"], tuple(None if n < 0 else n for n in e["shape"]), e.get("activation")
            )
            for e in about["outputs"]
        )
        self.seconds: float | None = None

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `Network`; rows are run one by one, as on a device."""
        del exact
        by_name = all(spec.name in inputs for spec in self.inputs)
        arrays = [inputs[s.name] for s in self.inputs] if by_name else list(inputs.values())
        if len(arrays) != len(self.inputs):
            raise InputError(f"{self._where}: takes {len(self.inputs)} inputs, not {len(arrays)}")
        head = {"inputs": [{"shape": a.shape, "dtype": a.dtype.name} for a in arrays]}
        try:
            assert self._child.stdin is not None
            raw = json.dumps(head).encode()
            self._child.stdin.write(struct.pack("<I", len(raw)) + raw)
            for array in arrays:
                self._child.stdin.write(np.ascontiguousarray(array).tobytes())
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # what ended the child is said below
        answer = self._receive()
        self.seconds = float(answer["seconds"])
        return [
            np.frombuffer(self._read(e["bytes"]), np.dtype(e["dtype"])).reshape(e["shape"])
            for e in answer["outputs"]
        ]

    def _receive(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._read(4))
        answer: dict[str, Any] = json.loads(self._read(length))
        if "error" in answer:
            reason = printable(" ".join(str(answer["error"]).split()), 240)
            raise InputError(f"{self._where}: LiteRT cannot run it: {reason}")
        return answer

    def _read(self, count: int) -> bytes:
        assert self._child.stdout is not None
        data = self._child.stdout.read(count)
        if len(data) < count:
            code = self._child.wait(10)
            raise InputError(
                f"{self._where}: LiteRT's interpreter {_child.death(code)} on it",
                "the file is damaged, or made for another version",
            )
        return data


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()


def load(
    path: Path, loss: str | None, trust: bool, custom_objects: dict[str, Any]
) -> LiteRTNetwork:
    """Starts an interpreter on a file."""
    del loss, trust, custom_objects
    return LiteRTNetwork(path)

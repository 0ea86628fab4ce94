"""The process that holds LiteRT's interpreter: arrays come in by stdin, go out by a pipe.

A message is its length (uint32), JSON, and the raw arrays that it announces. Nothing is unpickled
on either side.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import sys
import time
from typing import Any, BinaryIO

import numpy as np

_SPARE = 8 << 30
"""Bytes of address space beside ten times the file: a lying shape must not eat the machine."""


def main() -> None:
    """Runs until stdin ends."""
    out = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    clock = _Clock(int(sys.argv[2]))
    limit = _SPARE + 10 * os.path.getsize(sys.argv[1])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        runner = _Runner(sys.argv[1], clock)
        _send(out, runner.about())
        while head := sys.stdin.buffer.read(4):
            request = json.loads(sys.stdin.buffer.read(struct.unpack("<I", head)[0]))
            answer, arrays = runner.run([_array(entry) for entry in request["inputs"]])
            _send(out, answer, arrays)
    except Exception as error:  # noqa: BLE001 - LiteRT raises whatever it meets
        _send(out, {"error": str(error) or type(error).__name__})


def _array(entry: dict[str, Any]) -> np.ndarray:
    kind = np.dtype(entry["dtype"])
    count = int(np.prod(entry["shape"], dtype=np.int64)) * kind.itemsize
    return np.frombuffer(sys.stdin.buffer.read(count), kind).reshape(entry["shape"])


def _send(out: BinaryIO, message: dict[str, Any], arrays: tuple[np.ndarray, ...] = ()) -> None:
    raw = json.dumps(message).encode()
    out.write(struct.pack("<I", len(raw)) + raw + b"".join(a.tobytes() for a in arrays))
    out.flush()


class _Clock:
    """Has the kernel end this process (SIGXCPU) where a single row takes too much CPU time."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._wound = float("-inf")
        self.wind()

    def wind(self) -> None:
        """Gives the next row its time; near to free, so that it can be done for each."""
        now = time.perf_counter()
        if now - self._wound < 1:
            return
        self._wound = now
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + 2 + self._seconds
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if hard == resource.RLIM_INFINITY or soft < hard:
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


class _Runner:
    """An interpreter, its inputs in floats, one row at a time."""

    def __init__(self, path: str, clock: _Clock) -> None:
        self._clock = clock
        try:
            import importlib.metadata as metadata

            from ai_edge_litert.interpreter import Interpreter

            self.engine = f"LiteRT {metadata.version('ai-edge-litert')}"
        except ImportError:
            import tensorflow as tf

            Interpreter = tf.lite.Interpreter  # noqa: N806
            self.engine = f"tf.lite of TensorFlow {tf.__version__}"
        with open(path, "rb") as file:
            content = file.read()  # from memory LiteRT verifies the FlatBuffer, from a file not
        self._it = Interpreter(model_content=content, num_threads=1)
        self._it.allocate_tensors()
        self._inputs = self._it.get_input_details()
        self._outputs = self._it.get_output_details()
        names = self._it.get_signature_list()
        self._names: dict[int, str] = {}
        if len(names) == 1:
            runner = self._it.get_signature_runner(next(iter(names)))
            for found in (runner.get_input_details(), runner.get_output_details()):
                self._names |= {entry["index"]: name for name, entry in found.items()}

    def about(self) -> dict[str, Any]:
        """Names, shapes without the batch axis, and dtypes on the float side."""
        return {
            "engine": self.engine,
            "inputs": [self._entry(e) for e in self._inputs],
            "outputs": [{**self._entry(e), "activation": self._activation(e)}
                        for e in self._outputs],
        }  # fmt: skip

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        shape = entry.get("shape_signature")
        shape = entry["shape"] if shape is None or not len(shape) else shape
        kind = np.dtype(entry["dtype"]).name
        return {
            "name": self._names.get(entry["index"], entry["name"]),
            "shape": [int(n) for n in shape[1:]],
            "dtype": "float32" if entry["quantization"][0] else kind,
        }

    def _activation(self, entry: dict[str, Any]) -> str | None:
        """What makes an output, looking through the operators that only change its type."""
        index = entry["index"]
        for operator in reversed(self._it._get_ops_details()):
            # XNNPACK stands as one operator more, beside those that it runs.
            if index in operator["outputs"] and operator["op_name"] != "DELEGATE":
                name = operator["op_name"]
                if name not in ("DEQUANTIZE", "QUANTIZE"):
                    return {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}.get(name)
                index = int(operator["inputs"][0])
        return None

    def run(self, arrays: list[np.ndarray]) -> tuple[dict[str, Any], tuple[np.ndarray, ...]]:
        """All rows, and the seconds inside the interpreter with the handing over of arrays."""
        arrays = [self._in(a, e) for a, e in zip(arrays, self._inputs, strict=True)]
        step = int(self._inputs[0]["shape"][0])
        rows = len(arrays[0])
        found: list[list[np.ndarray]] = [[] for _ in self._outputs]
        start = time.perf_counter()
        for at in range(0, rows, step):
            for array, entry in zip(arrays, self._inputs, strict=True):
                part = array[at : at + step]
                if len(part) < step:
                    part = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
                if tuple(part.shape) != tuple(entry["shape"]):
                    self._it.resize_tensor_input(entry["index"], part.shape, strict=True)
                    self._it.allocate_tensors()
                    entry["shape"] = np.array(part.shape)
                self._it.set_tensor(entry["index"], part)
            self._clock.wind()
            self._it.invoke()
            for parts, entry in zip(found, self._outputs, strict=True):
                parts.append(self._it.get_tensor(entry["index"]))
        seconds = time.perf_counter() - start
        outputs = tuple(
            self._out(np.concatenate(parts)[:rows], entry)
            for parts, entry in zip(found, self._outputs, strict=True)
        )
        shown = [{"shape": o.shape, "dtype": o.dtype.name, "bytes": o.nbytes} for o in outputs]
        return {"seconds": seconds, "outputs": shown}, outputs

    def _in(self, array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
        scale, zero = entry["quantization"]
        kind = np.dtype(entry["dtype"])
        if not scale:
            return array.astype(kind)
        limits = np.iinfo(kind)
        return np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(kind)

    def _out(self, array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
        scale, zero = entry["quantization"]
        if not scale:
            return array
        return (array.astype(np.float32) - np.float32(zero)) * np.float32(scale)


if __name__ == "__main__":
    main()

"""The process that holds LiteRT's interpreter; `litert` asks it. Called with file and seconds."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from typing import Any

import numpy as np

from modelcut.engines.process import serve

_SPARE = 8 << 30
"""Bytes of address space beside ten times the file: a lying shape must not eat the machine."""

_PASSES = frozenset(
    "DEQUANTIZE QUANTIZE RESHAPE SQUEEZE EXPAND_DIMS CAST MEAN AVERAGE_POOL_2D".split()
)
_ACTIVATIONS = {
    "SOFTMAX": "softmax",
    "LOGISTIC": "sigmoid",
    "LOG_SOFTMAX": "log_softmax",
    "TANH": "tanh",
    "RELU": "relu",
    "RELU6": "relu6",
    "ELU": "elu",
    "PRELU": "prelu",
    **dict.fromkeys(("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"), "linear"),
}
"""By operator; what is in none of both may give anything."""


def main() -> None:
    """Runs until stdin ends."""
    path, seconds = sys.argv[1], int(sys.argv[2])
    limit = _SPARE + 10 * os.path.getsize(path)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    serve.serve(lambda _: _Runner(path, seconds))


class _Runner:
    """An interpreter, its inputs in floats, one row at a time."""

    def __init__(self, path: str, seconds: int) -> None:
        self._row_seconds = seconds
        self._wound = float("-inf")
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
            "fixed_batch": None,
            "inputs": [self._entry(e) for e in self._inputs],
            "outputs": [
                {
                    **self._entry(entry),
                    "activation": self._activation(entry),
                    "keyed": not self._names.get(entry["index"], "output_0")
                    .removeprefix("output_")
                    .isdecimal(),
                }
                for entry in self._outputs
            ],
        }

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
        """What makes an output, looking through the operators that keep probabilities such."""
        index = entry["index"]
        for operator in reversed(self._it._get_ops_details()):
            # XNNPACK stands as one operator more, beside those that it runs.
            if index in operator["outputs"] and operator["op_name"] != "DELEGATE":
                name = operator["op_name"]
                if name not in _PASSES:
                    return _ACTIVATIONS.get(name)
                index = int(operator["inputs"][0])
        return None

    def run(self, arrays: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """All rows; the seconds are those inside the interpreter, arrays handed over included."""
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
            self._wind()
            self._it.invoke()
            for parts, entry in zip(found, self._outputs, strict=True):
                parts.append(self._it.get_tensor(entry["index"]))
        seconds = time.perf_counter() - start
        return seconds, [
            self._out(np.concatenate(parts)[:rows], entry)
            for parts, entry in zip(found, self._outputs, strict=True)
        ]

    def _wind(self) -> None:
        """Gives the next row its time; near to free, so that it can be done for each."""
        now = time.perf_counter()
        if now - self._wound >= 1:
            self._wound = now
            serve.wind(self._row_seconds)

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

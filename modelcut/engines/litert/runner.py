"""The process that holds LiteRT's interpreter; `litert` asks it. Called with file and seconds."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
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

_STATEFUL = (
    "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "LSTM", "RNN", "SVDF", "RANDOM", "MULTINOMIAL"
)  # fmt: skip
"""Parts of the names of operators that know of the rows before: those are run in order."""

_FEW = 8
"""Rows for each core below which one of them runs them all."""

_MOST_WEIGHTS = 2 << 30
"""Bytes that the files of all interpreters may take: each may lay the weights out anew."""


def main() -> None:
    """Runs until stdin ends."""
    path, seconds = sys.argv[1], int(sys.argv[2])
    limit = _SPARE + 10 * os.path.getsize(path)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    serve.serve(lambda _: _Runner(path, seconds))


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Interpreter:
    """One of those that share the rows: it runs one at a time, as on a device, with one thread."""

    def __init__(self, interpreter: Any) -> None:
        self.it = interpreter
        self.it.allocate_tensors()
        self.inputs = self.it.get_input_details()
        self._outputs = self.it.get_output_details()

    def run(self, arrays: Sequence[np.ndarray], wind: Callable[[], None]) -> list[list[np.ndarray]]:
        """What each output gives, batch by batch; the last one may be padded."""
        step = int(self.inputs[0]["shape"][0])
        found: list[list[np.ndarray]] = [[] for _ in self._outputs]
        for at in range(0, len(arrays[0]), step):
            for array, entry in zip(arrays, self.inputs, strict=True):
                part = array[at : at + step]
                if len(part) < step:
                    part = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
                if tuple(part.shape) != tuple(entry["shape"]):
                    self.it.resize_tensor_input(entry["index"], part.shape, strict=True)
                    self.it.allocate_tensors()
                    entry["shape"] = np.array(part.shape)
                self.it.set_tensor(entry["index"], part)
            wind()
            self.it.invoke()
            for parts, entry in zip(found, self._outputs, strict=True):
                parts.append(self.it.get_tensor(entry["index"]))
        return found


class _Runner:
    """A network in floats, whose rows all cores share."""

    def __init__(self, path: str, seconds: int) -> None:
        self._row_seconds = seconds
        self._wound = float("-inf")
        self._threads = 1
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

        def made() -> _Interpreter:
            return _Interpreter(Interpreter(model_content=content, num_threads=1))

        self._made = made
        self._all = [made()]
        self._it = self._all[0].it
        self._inputs = self._all[0].inputs
        self._outputs = self._it.get_output_details()
        ordered = any(
            part in operator["op_name"] for operator in self._it._get_ops_details()
            for part in _STATEFUL
        )  # fmt: skip
        fit = max(1, _MOST_WEIGHTS // max(1, len(content)))
        self._most = 1 if ordered else min(cores(), fit)
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

    def run(self, arrays: list[np.ndarray], *, exact: bool) -> tuple[float, list[np.ndarray]]:
        """All rows; the seconds are those inside the interpreters, arrays handed over included."""
        del exact
        arrays = [self._in(a, e) for a, e in zip(arrays, self._inputs, strict=True)]
        step = int(self._inputs[0]["shape"][0])
        rows = len(arrays[0])
        self._prepare(min(self._most, rows // max(1, _FEW * step)))
        count = len(self._all) if rows >= _FEW * step * len(self._all) else 1
        each = -(-rows // (step * count)) * step  # whole batches, but for the last ones
        parts = [[a[at : at + each] for a in arrays] for at in range(0, rows, each)]
        self._threads = len(parts)
        start = time.perf_counter()
        if len(parts) > 1:
            with ThreadPoolExecutor(len(parts)) as pool:
                found = list(
                    pool.map(_Interpreter.run, self._all, parts, [self._wind] * len(parts))
                )
        else:
            found = [one.run(part, self._wind) for one, part in zip(self._all, parts, strict=False)]
        seconds = time.perf_counter() - start
        return seconds, [
            self._out(np.concatenate([*chain(*of_one)])[:rows], entry)
            for of_one, entry in zip(zip(*found, strict=True), self._outputs, strict=True)
        ]

    def _prepare(self, count: int) -> None:
        """Makes interpreters up to a number of them, as far as memory goes."""
        while len(self._all) < count:
            try:
                self._all.append(self._made())
            except (MemoryError, RuntimeError, ValueError):
                self._most = len(self._all)
                return

    def _wind(self) -> None:
        """Gives the next row its time; near to free, so that it can be done for each."""
        now = time.perf_counter()
        if now - self._wound >= 1:
            self._wound = now
            serve.wind(self._row_seconds * self._threads)

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

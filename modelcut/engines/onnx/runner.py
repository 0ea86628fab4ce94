"""The process that holds onnxruntime; `network` asks it. Called with the file."""

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
_ACTIVATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "LogSoftmax": "log_softmax",
    "Tanh": "tanh",
    "Relu": "relu",
    "Elu": "elu",
    **dict.fromkeys(("MatMul", "Gemm", "Add", "Conv"), "linear"),
}
_PASSES = frozenset({"Identity", "Reshape", "Squeeze", "Cast", "Transpose"})
_DTYPES = {"float": "float32", "double": "float64"}


class _Runner:
    """See `serve.Served`."""

    def __init__(self, path: str) -> None:
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = self._session.get_inputs()
        self._outputs = self._session.get_outputs()
        self.engine = f"onnxruntime {runtime.__version__}"
        self._made_by = _makers(path)

    def about(self) -> dict[str, Any]:
        """Names, shapes without the batch axis, and dtypes."""
        batch = self._inputs[0].shape[0] if self._inputs and self._inputs[0].shape else None
        return {
            "engine": self.engine,
            "fixed_batch": batch if isinstance(batch, int) else None,
            "inputs": [_entry(each) for each in self._inputs],
            "outputs": [
                {**_entry(each), "activation": self._activation(each.name), "keyed": False}
                for each in self._outputs
            ],
        }

    def _activation(self, name: str) -> str | None:
        """What makes an output, looking through operators that keep probabilities such."""
        for _ in range(10):
            kind, source = self._made_by.get(name, ("", ""))
            if kind not in _PASSES:
                return _ACTIVATIONS.get(kind)
            name = source
        return None

    def run(self, arrays: list[np.ndarray], *, exact: bool) -> tuple[float, list[np.ndarray]]:
        """All rows at once."""
        del exact
        pairs = zip(self._inputs, arrays, strict=True)
        feed = {each.name: array.astype(_dtype(each), copy=False) for each, array in pairs}
        start = time.perf_counter()
        found = self._session.run(None, feed)
        return time.perf_counter() - start, [np.asarray(each) for each in found]


def _makers(path: str) -> dict[str, tuple[str, str]]:
    """By tensor: the operator that makes it, and the first input of that; {} without `onnx`."""
    try:
        import onnx
    except ImportError:
        return {}
    nodes = onnx.load(path, load_external_data=False).graph.node
    return {
        name: (node.op_type, node.input[0] if node.input else "")
        for node in nodes
        for name in node.output
    }


def _dtype(each: Any) -> str:
    """Such as float32 of "tensor(float)"."""
    name = each.type.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(name, name)


def _entry(each: Any) -> dict[str, Any]:
    shape = [n if isinstance(n, int) else None for n in each.shape[1:]]
    return {"name": each.name, "shape": shape, "dtype": _dtype(each)}


if __name__ == "__main__":
    file = sys.argv[1]
    bound = _SPARE + 10 * os.path.getsize(file)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    serve.serve(lambda _: _Runner(file))

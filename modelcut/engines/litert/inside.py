"""An interpreter that keeps what every operator of a `.tflite` gives, for looking inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_BETWEEN = frozenset(("QUANTIZE", "DEQUANTIZE", "DELEGATE"))
"""Operators that a quantized file has and its twin in floats has not."""


class Inside:
    """The outputs of the operators of one file, as floats, without quantize and dequantize.

    The operators run in LiteRT's own kernels, without XNNPACK, which keeps no intermediate results;
    the two round some sums differently, by one code.

    Attributes:
        operators: names of the operators, in the order in which they run.
        names: name of the first output of each.
        outputs: number of that tensor in the file.
    """

    def __init__(self, content: bytes) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            from tensorflow.lite.python.interpreter import (
                Interpreter,
                OpResolverType,
            )
        self._it = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._it.allocate_tensors()
        self._inputs = self._it.get_input_details()
        entries = {entry["index"]: entry for entry in self._it.get_tensor_details()}
        found = [
            (operator["op_name"], entries[int(operator["outputs"][0])])
            for operator in self._it._get_ops_details()
            if len(operator["outputs"]) and int(operator["outputs"][0]) in entries
        ]
        self._entries = [entry for name, entry in found if name not in _BETWEEN]
        self.operators = tuple(name for name, _ in found if name not in _BETWEEN)
        self.names = tuple(str(entry["name"]) for entry in self._entries)
        self.outputs = tuple(int(entry["index"]) for entry in self._entries)

    def run(self, row: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One row through the network.

        Args:
            row: an array for each input, of its shape, as floats where the input is quantized.

        Returns:
            The first output of each operator: float32 where it is quantized, else as it is.
        """
        for array, entry in zip(row, self._inputs, strict=True):
            self._it.set_tensor(entry["index"], _quantized(array, entry))
        self._it.invoke()
        return [_floats(self._it.get_tensor(e["index"]), e) for e in self._entries]


def _quantized(array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    scale, zero = entry["quantization"]
    kind = np.dtype(entry["dtype"])
    if not scale:
        return array.astype(kind)
    limits = np.iinfo(kind)
    return np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(kind)


def _floats(array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    scale, zero = entry["quantization"]
    if not scale:
        return array
    return (array.astype(np.float32) - np.float32(zero)) * np.float32(scale)


def alike(first: Inside, second: Inside) -> dict[int, int]:
    """Which operators of two files of one network are the same: numbers in both.

    By their order where both have the same operators, else by the names of what they give.
    """
    if first.operators == second.operators:
        return {number: number for number in range(len(first.operators))}
    places = {name: number for number, name in enumerate(second.names)}
    return {
        number: places[name]
        for number, name in enumerate(first.names)
        if name in places and first.operators[number] == second.operators[places[name]]
    }

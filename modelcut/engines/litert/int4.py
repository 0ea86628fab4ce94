"""Weights of 4 bits in a `.tflite` of floats, which LiteRT's converter does not make.

Kernels of convolutions and dense layers get signed codes of 4 bits, two a byte, and a scale for
each output channel; those of depthwise convolutions, for which LiteRT has no such kernel, get 8
bits. Activations are floats, which the interpreter quantizes to 8 bits as it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

KERNELS = {"FULLY_CONNECTED": (0, 4), "CONV_2D": (0, 4), "DEPTHWISE_CONV_2D": (3, 8)}
"""Operator -> its kernel's axis of output channels, and the bits that it runs with."""

LEAST = 1024
"""Kernels of fewer values are kept as floats, as in the converter's 8 bits."""

_LOOKS = np.linspace(0.4, 1.0, 25)
_BLOCK = 1 << 22


def quantized(model: Any, schema: Any) -> int:
    """Quantizes the kernels of a model (`ModelT`) in place; returns how many."""
    kernels = {getattr(schema.BuiltinOperator, name): how for name, how in KERNELS.items()}
    done: set[tuple[int, int]] = set()
    users = _users(model)
    for number, graph in enumerate(model.subgraphs):
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex]
            how = kernels.get(max(code.builtinCode, code.deprecatedBuiltinCode))
            if how is None or len(operation.inputs) < 2:
                continue
            axis, bits = how
            index = int(operation.inputs[1])
            tensor = graph.tensors[index]
            raw = model.buffers[tensor.buffer].data
            floats = tensor.type == schema.TensorType.FLOAT32 and raw is not None
            shared = users.get(tensor.buffer, 0) > 1
            if not floats or shared or (number, index) in done or len(raw) < 4 * LEAST:
                continue
            values = np.asarray(raw, np.uint8).view("<f4").reshape(tensor.shape)
            rows = np.moveaxis(values, axis, 0)
            codes, scale = rounded(rows.reshape(len(rows), -1), (1 << (bits - 1)) - 1)
            codes = np.moveaxis(codes.reshape(rows.shape), 0, axis)
            four = bits == 4
            model.buffers[tensor.buffer].data = pack(codes) if four else codes.ravel().view("u1")
            tensor.type = schema.TensorType.INT4 if four else schema.TensorType.INT8
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scale
            tensor.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            tensor.quantization.quantizedDimension = axis
            done.add((number, index))
    return len(done)


def _users(model: Any) -> dict[int, int]:
    """Buffer -> how many tensors have it."""
    found: dict[int, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            found[tensor.buffer] = found.get(tensor.buffer, 0) + 1
    return found


def rounded(rows: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of least squared error among 25 ranges.

    Args:
        rows: float32, shape (channels, values a channel).
        highest: the largest code.

    Returns:
        int8 codes in -highest .. highest, of the same shape, and float32 scales, shape (channels,).
    """
    codes = np.empty(rows.shape, np.int8)
    scale = np.empty(len(rows), np.float32)
    block = max(1, _BLOCK // max(1, rows.shape[1]))
    for at in range(0, len(rows), block):
        part = rows[at : at + block]
        peak = np.abs(part).max(axis=1)
        peak = np.where(peak > 0, peak, 1).astype(np.float32)
        least = np.full(len(part), np.inf)
        best = peak / np.float32(highest)
        for look in _LOOKS:
            step = (peak * np.float32(look) / np.float32(highest))[:, None]
            error = ((_steps(part, step, highest) * step - part) ** 2).sum(axis=1, dtype=np.float64)
            best = np.where(error <= least, step[:, 0], best)
            least = np.minimum(error, least)
        scale[at : at + block] = best
        codes[at : at + block] = _steps(part, best[:, None], highest)
    return codes, scale


def _steps(rows: np.ndarray, step: np.ndarray, highest: int) -> np.ndarray:
    return np.clip(np.rint(rows / step), -highest, highest)


def pack(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte, the first in the low half; uint8."""
    flat = codes.ravel()
    padded = np.zeros(flat.size + flat.size % 2, np.uint8)
    padded[: flat.size] = flat.astype(np.int8).view(np.uint8) & 15
    return padded[::2] | padded[1::2] << 4

"""Biases of a quantized `.tflite` that put the means of what each operator gives right.

Rounded weights and activations shift the means of the channels, and the shifts add up from layer to
layer. In the order of the network, each bias takes up the difference of the means over calibration
samples between the file and its twin in floats (Nagel et al. 2019, "Data-free quantization",
section 4.2, in its empirical form of appendix D).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.engines.litert.inside import Inside
from modelcut.engines.process.serve import wind

PLACES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Operator -> the place of its bias among its inputs."""
MOST = 2.0**31 - 1
_LEAST_ACTIVE = 0.25
"""What is divided by at least: of a channel that is hardly ever active little is known."""

Row = Sequence[np.ndarray]
Operators = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Bias:
    """A bias in whole numbers that no other operator has.

    Attributes:
        tensor, buffer: its place in the file.
        index: number of the tensor.
        number: of its operator, in a run.
        macs: multiply-accumulates of its operator.
    """

    tensor: Any
    buffer: Any
    index: int
    number: int
    macs: int


def find(model: Any, operators: Operators, schema: Any, outputs: Sequence[int]) -> list[Bias]:
    """The biases of a file, in the order in which their operators run.

    Args:
        model: a `ModelT`.
        operators: name and `OperatorT` of each, in order.
        schema: the module of these classes.
        outputs: number of the tensor that each operator of a run gives.
    """
    graph = model.subgraphs[0]
    users: dict[int, int] = {}
    for tensor in graph.tensors:
        users[tensor.buffer] = users.get(tensor.buffer, 0) + 1
    readers: dict[int, int] = {}
    for _, operation in operators:
        for index in operation.inputs:
            readers[int(index)] = readers.get(int(index), 0) + 1
    places = {int(index): number for number, index in enumerate(outputs)}
    found = []
    for name, operation in operators:
        at = PLACES.get(name)
        if at is None or len(operation.inputs) <= at or operation.inputs[at] < 0:
            continue
        index = int(operation.inputs[at])
        tensor = graph.tensors[index]
        whole = tensor.type in (schema.TensorType.INT32, schema.TensorType.INT64)
        alone = readers[index] == 1 and users[tensor.buffer] == 1
        number = places.get(int(operation.outputs[0]))
        if whole and alone and number is not None and tensor.quantization is not None:
            kernel = graph.tensors[int(operation.inputs[1])].shape
            output = graph.tensors[int(operation.outputs[0])].shape
            each = math.prod(map(int, kernel)) // max(1, int(output[-1]))
            macs = each * math.prod(map(int, output))
            found.append(Bias(tensor, model.buffers[tensor.buffer], index, number, macs))
    return found


def correct(
    biases: Sequence[Bias],
    wanted: Sequence[tuple[np.ndarray, np.ndarray]],
    rows: Sequence[Row],
    opened: Callable[[], Inside],
    seconds: float,
) -> None:
    """Corrects biases in place, one after the other.

    Args:
        biases: in the order of the network.
        wanted: of the operator of each, the `means` in floats.
        rows: calibration samples.
        opened: opens the file as it is by then.
        seconds: CPU seconds that a row may take.
    """
    for bias, (mean, active) in zip(biases, wanted, strict=True):
        ((found, _),) = means(opened(), rows, [bias.number], seconds)
        shift(bias, (mean - found) / np.maximum(active, _LEAST_ACTIVE))


def means(
    inside: Inside, rows: Sequence[Row], numbers: Sequence[int], seconds: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of some operators, the mean of each channel, and the fraction of values that are not 0."""
    sums: list[Any] = [0.0] * len(numbers)
    active: list[Any] = [0.0] * len(numbers)
    for row in rows:
        wind(seconds)
        outputs = inside.run(row)
        for at, number in enumerate(numbers):
            values = outputs[number].reshape(-1, outputs[number].shape[-1]).astype(np.float64)
            sums[at] = sums[at] + values.mean(axis=0)
            active[at] = active[at] + (values != 0).mean(axis=0)
    return [(s / len(rows), a / len(rows)) for s, a in zip(sums, active, strict=True)]


def shift(bias: Bias, by: np.ndarray) -> None:
    """Adds to a bias, in its own scale."""
    kind = np.dtype("<i4" if len(bias.buffer.data) == 4 * by.size else "<i8")
    codes = np.asarray(bias.buffer.data, np.uint8).view(kind).astype(np.float64)
    scale = np.asarray(bias.tensor.quantization.scale, np.float64)
    moved = np.clip(codes + np.rint(by / scale), -MOST, MOST)
    bias.buffer.data = moved.astype(kind).view(np.uint8)


def rescale(bias: Bias, scale: np.ndarray) -> None:
    """Writes the same bias in another scale, one for each channel."""
    old = np.asarray(bias.tensor.quantization.scale, np.float64)
    codes = np.asarray(bias.buffer.data, np.uint8).view("<i4").astype(np.float64)
    moved = np.clip(np.rint(codes * (old / scale)), -MOST, MOST)
    bias.buffer.data = moved.astype("<i4").view(np.uint8)
    bias.tensor.quantization.scale = scale

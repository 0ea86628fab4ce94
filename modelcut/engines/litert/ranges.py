"""Ranges of activations in an int8 `.tflite` that clip where that costs less than it gains.

The converter takes the least and the largest value that it saw, so one rare large value makes the
step coarse for all others. A range that is a fraction of it clips the largest values, and rounds
the others by less; of eleven fractions the one of least squared error is taken. Which tensors share
a range, and that a bias has the scale of what its operator reads times that of its weights, is
LiteRT's 8-bit quantization specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from modelcut.engines.litert import biases
from modelcut.engines.litert.biases import Bias, Operators

_FRACTIONS = np.array([1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3])
_LOOK = 4096
"""Values of a tensor that are looked at, of each sample."""
_FREE = frozenset(("ADD", "SUB", "MUL", "MEAN", *biases.PLACES))
"""Operators whose outputs may have any range, whatever that of their inputs is."""
_READS = frozenset("SOFTMAX LOGISTIC TANH DEQUANTIZE".split())
"""Operators that read any range, and whose outputs have a given one."""
_PASSES = frozenset("MAX_POOL_2D AVERAGE_POOL_2D RESHAPE SQUEEZE EXPAND_DIMS TRANSPOSE".split())
"""Operators whose outputs have the range of their inputs."""


def clip(
    graph: Any,
    operators: Operators,
    found: Sequence[Bias],
    int8: int,
    samples: Iterable[Mapping[int, np.ndarray]],
) -> int:
    """Chooses the ranges of a graph's activations, in place.

    Args:
        graph: a `SubGraphT`.
        operators: name and `OperatorT` of each, in order.
        found: the biases that may be rewritten.
        int8: number of that type.
        samples: for one sample after another, what tensors hold in floats, by their number.

    Returns:
        How many ranges are narrower.
    """
    rewritten = {bias.index: bias for bias in found}
    groups = _groups(graph, operators, rewritten, int8)
    errors: dict[int, np.ndarray] = {}
    for sample in samples:
        for index in groups.keys() & sample.keys():
            sums = _errors(sample[index], graph.tensors[index].quantization)
            errors[index] = errors.get(index, 0) + sums
    changed = 0
    for index in sorted(errors):
        fraction = np.float32(_FRACTIONS[int(errors[index].argmin())])
        if fraction == 1:
            continue
        changed += 1
        for each in groups[index]:
            quantization = graph.tensors[each].quantization
            quantization.scale = np.asarray(quantization.scale, np.float32) * fraction
        _follow(graph, operators, rewritten, groups[index])
    return changed


def _errors(values: np.ndarray, quantization: Any) -> np.ndarray:
    """Squared error with each of the fractions of the range."""
    flat = values.ravel()
    flat = flat[:: max(1, flat.size // _LOOK)].astype(np.float64)
    zero = float(quantization.zeroPoint[0])
    steps = _FRACTIONS[:, None] * float(quantization.scale[0])
    codes = np.clip(np.rint(flat / steps), -128 - zero, 127 - zero)
    return np.asarray(np.square(codes * steps - flat).sum(axis=1))


def _groups(
    graph: Any, operators: Operators, rewritten: Mapping[int, Bias], int8: int
) -> dict[int, list[int]]:
    """Output of an operator whose range may be chosen -> it, and the tensors that share it."""
    groups: dict[int, list[int]] = {}
    head: dict[int, int] = {}
    given = {int(index) for index in (*graph.inputs, *graph.outputs)}
    for name, operation in operators:
        inputs = [int(index) for index in operation.inputs if int(index) in head]
        outputs = [int(index) for index in operation.outputs]
        if name in _PASSES and len(inputs) == len(outputs) == 1:
            head[outputs[0]] = head[inputs[0]]
            groups[head[inputs[0]]].append(outputs[0])
        elif name in _FREE:
            if not _weighs_constants(name, operation, rewritten, head):
                given.update(inputs)
            if len(outputs) == 1 and _is_activation(graph.tensors[outputs[0]], int8):
                groups[outputs[0]], head[outputs[0]] = [outputs[0]], outputs[0]
        elif name not in _READS:
            given.update(inputs)
    frozen = {head[index] for index in given & head.keys()}
    return {index: group for index, group in groups.items() if index not in frozen}


def _is_activation(tensor: Any, int8: int) -> bool:
    scale = tensor.quantization.scale if tensor.quantization is not None else None
    return bool(tensor.type == int8 and scale is not None and len(scale) == 1)


def _weighs_constants(
    name: str, operation: Any, rewritten: Mapping[int, Bias], head: Mapping[int, int]
) -> bool:
    """Whether the operator's bias, if it has one, can follow the range of what it reads."""
    at = biases.PLACES.get(name)
    if at is None:
        return True
    if len(operation.inputs) > at and operation.inputs[at] >= 0:
        return int(operation.inputs[at]) in rewritten and int(operation.inputs[1]) not in head
    return True


def _follow(
    graph: Any, operators: Operators, rewritten: Mapping[int, Bias], changed: Sequence[int]
) -> None:
    """Gives the biases of what reads these tensors the scale that they must have."""
    for name, operation in operators:
        at = biases.PLACES.get(name)
        data = 2 if name == "TRANSPOSE_CONV" else 0
        if at is None or int(operation.inputs[data]) not in changed:
            continue
        if len(operation.inputs) <= at or operation.inputs[at] < 0:
            continue
        reads = graph.tensors[int(operation.inputs[data])].quantization
        weights = graph.tensors[int(operation.inputs[1])].quantization
        scale = np.float32(reads.scale[0]) * np.asarray(weights.scale, np.float32)
        biases.rescale(rewritten[int(operation.inputs[at])], scale)

"""What the layers of a running network are given, as the matrix that their kernel multiplies.

A dense layer's rows are its inputs; a convolution's are the patches under its kernel, one for each
place (im2col).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modelcut.graph.keras.classes import get
from modelcut.model.model import Layer, Tensor
from modelcut.steps.operands import operand

_DENSE = ("Dense", "TimeDistributedDense")
_FLAT = ("Conv1D", "Convolution1D")
_PLANE = ("Conv2D", "Convolution2D")
_ALL = 1 << 62


def refusal(layer: Layer, kernel: Tensor) -> str:
    """Why a tensor has no matrix of inputs; "" where it has one."""
    wanted = 2 if layer.class_name in _DENSE else 3 if layer.class_name in _FLAT else 4
    known = layer.class_name in (*_DENSE, *_FLAT, *_PLANE) and kernel.role in ("kernel", "W")
    if not known or len(kernel.shape) != wanted or kernel.out_axis != wanted - 1:
        return "is not the kernel of a Dense, Conv1D or Conv2D layer"
    if get(layer.config, "groups", default=1) != 1:
        return "is the kernel of a convolution in groups"
    return ""


def matrices(layer: Layer, kernel: Tensor, given: np.ndarray) -> Iterator[np.ndarray]:
    """The inputs of a layer's call, as matrices of some MB.

    Args:
        layer: a layer for which `refusal` returns "".
        kernel: the layer's kernel.
        given: what goes into the layer, (rows, …).

    Yields:
        Float32 (places, d), where d is the size of the kernel without its last axis, in its order.
    """
    found = operand(layer, kernel)
    assert not isinstance(found, str)
    for part in found.rows(given, _nothing, _ALL):
        yield part[0]


def _nothing(role: str) -> np.ndarray:
    raise LookupError(role)

"""What a layer is factorized into: the shapes of a chain of layers, and their kernels.

Whatever the method, the chain is a matrix product: what goes under the kernel is mapped to
features, and the last layer's kernel maps those to the outputs. So a kernel W of d = (kernel size ×
inputs) rows and one column an output becomes `features` @ `last`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from modelcut.arrays.blocks import row_blocks

Kind = Literal["embedding", "dense", "conv", "depthwise", "own"]
Ranks: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True)
class Part:
    """One layer of a chain.

    Attributes:
        kind: a layer of that kind; "own": one of the class of the layer that is replaced.
        inputs: channels that go in.
        outputs: channels that come out.
        size: kernel size of a convolution.
        along: for each spatial axis, whether it has the strides and the dilation of the layer.
    """

    kind: Kind
    inputs: int
    outputs: int
    size: tuple[int, ...] = ()
    along: tuple[bool, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return (*self.size, self.inputs, 1 if self.kind == "depthwise" else self.outputs)

    @property
    def values(self) -> int:
        """Number of weights of the kernel."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Factors:
    """The kernels of a chain.

    Attributes:
        kernels: of all layers but the last, each of its `Part.shape`.
        features: (d, q): what the layers before the last make of what goes under the kernel.
        last: (q, outputs): the kernel of the last layer.
        bias: what is added to the layer's bias; None: nothing.
        note: facts about how they were found.
    """

    kernels: tuple[np.ndarray, ...]
    features: np.ndarray
    last: np.ndarray
    bias: np.ndarray | None = None
    note: dict[str, Any] | None = None

    def product(self, rows: slice) -> np.ndarray:
        """Some rows of the kernel that the chain stands for."""
        wide = np.result_type(self.last.dtype, np.float32)
        return self.features[rows].astype(wide, copy=False) @ self.last.astype(wide, copy=False)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The kernel that the chain stands for, some rows at a time."""
        shape = (len(self.features), self.last.shape[1])
        for rows in row_blocks(shape, 4):
            yield rows, self.product(rows)

    def as_type(self, dtype: np.dtype) -> Factors:
        """The factors rounded to the dtype in which they are stored."""

        def cast(values: np.ndarray) -> np.ndarray:
            return values.astype(dtype, copy=False)

        kernels = tuple(map(cast, self.kernels))
        return replace(self, kernels=kernels, features=cast(self.features), last=cast(self.last))


class Decomposition(Protocol):
    """One kernel as one method can factorize it, at any ranks."""

    @property
    def full(self) -> int | list[int]:
        """The ranks that lose nothing."""

    def candidates(self) -> list[Ranks]:
        """Ranks to choose from, those of the smallest chain first."""

    def at(self, rank: int) -> Ranks:
        """The ranks that one number says."""

    def vbmf(self) -> Ranks | str:
        """The ranks of the variational Bayesian solution, or why there are none."""

    def loss(self, ranks: Ranks) -> float:
        """The squared error over the squared norm: of the kernel, or of the outputs if whitened."""

    def parts(self, ranks: Ranks) -> tuple[Part, ...]:
        """The layers of the chain."""

    def factors(self, ranks: Ranks) -> Factors:
        """The kernels of the chain."""


def balanced(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product, each column of the left as long as the row of the right that it meets.

    So a quantizer after it sees two ranges alike.
    """
    ahead = np.linalg.norm(left, axis=0)
    behind = np.linalg.norm(right, axis=1)
    usable = (ahead > 0) & (behind > 0)
    scale = np.sqrt(np.divide(behind, ahead, out=np.ones_like(ahead), where=usable))
    scale = scale.astype(np.result_type(left.dtype, right.dtype), copy=False)
    return left * scale, right / scale[:, None]


def spread(most: int, count: int | None) -> list[int]:
    """Whole numbers from 1 to `most`: all, or about so many, denser where they are small."""
    if count is None or most <= count:
        return list(range(1, most + 1))
    return sorted({round(n) for n in np.geomspace(1, most, count)})

"""The second-order view of a layer: what goes into it, summed up over calibration samples.

A layer's squared output error over its inputs x is tr(d^T h d) for a change d of its kernel and the
Hessian h = x^T x. That is all that rounding, ranges and the dealing out of bits ask of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from modelcut.steps.operands import Operand, Read

WIDEST = 4608
"""Inputs of a Hessian that is made as one; wider layers get one for each block of half as many, so
that all of them together take less memory and time than one would."""
_PLACES = 1 << 16
"""Rows of inputs of a layer that are looked at, at least; eight for each input where that is
more."""


@dataclass
class Sums:
    """Sums over the rows of inputs of one kernel.

    Attributes:
        operand: the kernel's.
        samples: how many samples there will be, at most: the rows are drawn evenly from all.
        compares: whether the same layer of another network is looked at too.
        blocks: slices of the inputs, each with a Hessian of its own.
        gram: for each block x^T x, float64 (groups, inputs, inputs).
        cross: for each block x^T y, where y is what goes into the same layer of another network.
        total: sum of the inputs, float64 (groups, inputs).
        count: rows that were summed.
    """

    operand: Operand
    samples: int
    compares: bool = False
    blocks: list[slice] = field(init=False)
    gram: list[np.ndarray] = field(init=False)
    cross: list[np.ndarray] = field(init=False)
    total: np.ndarray = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        groups, inputs, _ = self.operand.sizes
        many = 1 if inputs <= WIDEST else -(-inputs // (WIDEST // 2))
        ends = [inputs * (number + 1) // many for number in range(many)]
        self.blocks = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        shapes = [(groups, b.stop - b.start, b.stop - b.start) for b in self.blocks]
        self.gram = [np.zeros(shape) for shape in shapes]
        self.cross = [np.zeros(shape) for shape in shapes] if self.compares else []
        self.total = np.zeros((groups, inputs))

    def add(self, given: np.ndarray, read: Read, rows: int, other: np.ndarray | None) -> None:
        """Adds what goes into one call of the layer.

        Args:
            given: what goes in, (rows, …).
            read: the present values of the layer's other weights.
            rows: samples in this batch.
            other: what goes into the same call of the other network, if one is looked at.
        """
        _, inputs, _ = self.operand.sizes
        wanted = max(_PLACES, 8 * min(inputs, WIDEST))
        most = max(1, -(-wanted * rows // max(1, self.samples)))
        parts = self.operand.rows(given, read, most)
        if other is None:
            for part in parts:
                self._add(part, part)
            return
        for part, same in zip(parts, self.operand.rows(other, read, most), strict=True):
            self._add(part, same)

    def _add(self, part: np.ndarray, same: np.ndarray) -> None:
        self.total += part.sum(axis=1, dtype=np.float64)
        self.count += part.shape[1]
        for number, block in enumerate(self.blocks):
            mine = part[:, :, block]
            self.gram[number] += _products(mine, mine)
            if self.compares:
                self.cross[number] += _products(mine, same[:, :, block])

    @property
    def finite(self) -> bool:
        """Whether all sums are finite."""
        return all(np.isfinite(gram).all() for gram in (*self.gram, *self.cross))

    @property
    def diagonal(self) -> np.ndarray:
        """Sum of squares of each input, (groups, inputs)."""
        parts = [np.diagonal(gram, axis1=1, axis2=2) for gram in self.gram]
        return np.concatenate(parts, axis=1)

    def wanted(self, weights: np.ndarray, damp: float) -> np.ndarray:
        """The weights whose outputs on these inputs are nearest to those on the other network's.

        Least squares, damped towards the weights as they are (Li et al. 2025, "GPTAQ", section 3,
        aims at the same).

        Args:
            weights: (groups, inputs, outputs).
            damp: see `damped`.
        """
        found = np.empty(weights.shape, np.result_type(weights, np.float32))
        for block, gram, cross in zip(self.blocks, self.gram, self.cross, strict=True):
            part = weights[:, block].astype(np.float64)
            moved = np.matmul(cross - gram, part)
            found[:, block] = part + np.linalg.solve(damped(gram, damp), moved)
        return found

    def error(self, values: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
        """Squared output error of weights beside others, or beside zeros, (groups, outputs)."""
        found = np.zeros((values.shape[0], values.shape[2]))
        for block, gram in zip(self.blocks, self.gram, strict=True):
            change = values[:, block].astype(np.float64)
            found += squared(change if other is None else change - other[:, block], gram)
        return np.maximum(found, 0)


def squared(change: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Squared output error of a change of weights (groups, inputs, outputs), (groups, outputs)."""
    found: np.ndarray = np.sum(change * np.matmul(gram, change), axis=1)
    return found


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if len(one) == 1:
        return one[0].T @ other[0]  # the same array twice: BLAS does half the work
    return np.matmul(one.transpose(0, 2, 1), other)


def damped(gram: np.ndarray, share: float) -> np.ndarray:
    """Hessians with `share` of their mean diagonal added, so that they can be inverted.

    Args:
        gram: (groups, inputs, inputs); an input that is never on has a zero diagonal.
        share: fraction of the mean diagonal.
    """
    found = gram.copy()
    diagonal = np.diagonal(found, axis1=1, axis2=2)
    on = diagonal > 0
    mean = diagonal.sum(axis=1) / np.maximum(on.sum(axis=1), 1)
    mean = np.where(mean > 0, mean, 1.0)
    index = np.arange(found.shape[1])
    found[:, index, index] += share * mean[:, None]
    return found

"""Removes the weights that no output depends on any more.

After unstructured pruning, units are left that nothing reads: whatever leads into them is dead. And
units that read nothing give the same number for every row: what they give goes into the biases of
the layer after them, and their weights there are dead, too. (Han et al. 2015, section 3.5, leave
these to training.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from modelcut import bins
from modelcut.encoding import Dense, Encoding, Sparse
from modelcut.errors import RecipeError
from modelcut.graph import Link, activation_of, links
from modelcut.model import Edit, Layer, Model, Rewrite, Tensor
from modelcut.step import Context, TensorStep

_AT_BORDERS = ("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")


class Dead(TensorStep):
    """Remove weights into units that nothing reads, and from constant ones; outputs stay as is."""

    needs: ClassVar[frozenset[str]] = frozenset({"graph"})
    aims: ClassVar[frozenset[str]] = frozenset({"kernel", "bias"})

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",)

    def survey_model(
        self, model: Model, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Any, dict[str, Any]]:
        """Follows constants forward, then dead units backward; once each is enough.

        Raises:
            RecipeError: the file has no architecture.
        """
        if model.architecture is None:
            raise RecipeError(
                f"step {context.index + 1}, {self.title}: {model.origin.path.name} holds no "
                "architecture, which says what reads a unit",
                "give the whole model as Keras saved it, .h5 or .keras",
            )
        found, barriers = links(model)
        work = _Work({tensor.name for tensor, _ in targets})
        for link in found:
            work.forward(link)
        for link in reversed(found):
            work.backward(link)
        ends = {link.after.name for link in found}
        reasons = {name: why for name, why in barriers.items() if name not in ends}
        facts = {
            "constant_units": work.constant,
            "unread_units": work.unread,
            "barriers": barriers,
        }
        return (work, reasons), {name: part for name, part in facts.items() if part}

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del context
        work, reasons = survey
        values = work.changed.get(tensor.name)
        if values is None:
            owner = tensor.name.removesuffix(f"/{tensor.role}")
            return reasons.get(owner, "no weight of it is dead")

        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            if tensor.kind == "bias":
                return values[rows].astype(part.dtype)
            return bins.masked(part, values[rows] != 0)

        def plan(before: np.ndarray, encoding: Encoding) -> Rewrite:
            del before
            return Rewrite(_afterwards(encoding, tensor), block)

        return plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        if tensor.kind == "bias" and tensor.kinds == Dense().kinds:
            return tensor.kinds
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))


def _afterwards(encoding: Encoding, tensor: Tensor) -> Encoding:
    if isinstance(encoding, Sparse) or (tensor.kind == "bias" and encoding == Dense()):
        return encoding
    return Sparse(encoding)


@dataclass
class _Work:
    """The tensors that are looked at, and what becomes of them.

    Attributes:
        allowed: names of those that may change.
        changed: values of those that do.
        constant, unread: units found, by layer.
    """

    allowed: set[str]
    changed: dict[str, np.ndarray] = field(default_factory=dict)
    constant: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    _read: dict[str, np.ndarray] = field(default_factory=dict)

    def values(self, tensor: Tensor) -> np.ndarray:
        """As they are by now."""
        if tensor.name in self.changed:
            return self.changed[tensor.name]
        if tensor.name not in self._read:
            self._read[tensor.name] = tensor.pull()[0]
        return self._read[tensor.name]

    def _to_change(self, tensor: Tensor) -> np.ndarray:
        if tensor.name not in self.changed:
            self.changed[tensor.name] = self.values(tensor).copy()
            self._read.pop(tensor.name, None)
        return self.changed[tensor.name]

    def forward(self, link: Link) -> None:
        """What constant units give goes into the biases after them."""
        before, after = _kernel(link.before), _kernel(link.after)
        if before is None or after is None or after.name not in self.allowed:
            return
        incoming = self.values(before)
        self._read.pop(before.name, None)  # one large kernel at a time
        silent = ~(incoming != 0).any(axis=tuple(range(incoming.ndim - 1)))
        rows = _rows_of(after, silent.size)
        if rows is None or not silent.any():
            return
        bias = link.before.by_role.get("bias")
        given = self.values(bias) if bias is not None else np.zeros(silent.size, before.dtype)
        outgoing = self.values(after)
        target = link.after.by_role.get("bias")
        sums = np.zeros(outgoing.shape[-1])
        gone = np.zeros(silent.size, bool)
        for unit in np.flatnonzero(silent):
            constant = _passed(float(given[unit]), link)
            if constant is None:
                continue
            if constant and not self._takes(target, link):
                continue
            gone[unit] = True
            if constant:
                part = outgoing[..., rows == unit, :].astype(np.float64)
                sums += constant * part.sum(axis=tuple(range(part.ndim - 1)))
        dead = (outgoing != 0) & gone[rows][:, None]
        if not dead.any():
            return
        self.constant[link.before.name] = int(gone.sum())
        self._to_change(after)[dead] = 0
        if sums.any() and target is not None:
            own = self._to_change(target)
            own[...] = (own.astype(np.float64) + sums).astype(own.dtype) + 0  # no -0.0

    def _takes(self, bias: Tensor | None, link: Link) -> bool:
        """Whether a bias can take a number up, as exactly as floats are."""
        if bias is None or bias.name not in self.allowed or bias.kinds != Dense().kinds:
            return False
        if bias.dtype.itemsize < 4:
            return False
        config = link.after.config
        padded = config.get("padding", "valid") != "valid" and link.after.class_name != "Dense"
        return not padded and not any(node.class_name in _AT_BORDERS for node in link.between)

    def backward(self, link: Link) -> None:
        """What leads into units that nothing reads goes."""
        before, after = _kernel(link.before), _kernel(link.after)
        if before is None or after is None:
            return
        width = before.shape[-1]
        rows = _rows_of(after, width)
        if rows is None:
            return
        outgoing = self.values(after)
        axes = (*range(outgoing.ndim - 2), outgoing.ndim - 1)
        read = np.zeros(width, bool)
        np.logical_or.at(read, rows, (outgoing != 0).any(axis=axes))
        found = 0
        for tensor in link.before.tensors:
            if tensor.name not in self.allowed or tensor.kind not in Dead.aims:
                continue
            dead = (self.values(tensor) != 0) & ~read
            if dead.any():
                found = int((~read).sum())
                self._to_change(tensor)[dead] = 0
        if found:
            self.unread[link.before.name] = found


def _kernel(layer: Layer) -> Tensor | None:
    """The kernel of a layer, its outputs on the last axis and its inputs on the one before."""
    kernel = layer.by_role.get("kernel")
    if kernel is None or kernel.out_axis is None or kernel.in_axis is None:
        return None
    rank = len(kernel.shape)
    return kernel if (kernel.in_axis, kernel.out_axis) == (rank - 2, rank - 1) else None


def _rows_of(after: Tensor, width: int) -> np.ndarray | None:
    """Which unit each input row of a kernel reads: behind a Flatten, channels vary fastest."""
    inputs = after.shape[-2]
    if width < 1 or inputs % width or (len(after.shape) > 2 and inputs != width):
        return None
    return np.arange(inputs) % width


def _passed(value: float, link: Link) -> float | None:
    """What a constant becomes on its way; None where that is not known."""
    assert link.before.node is not None
    for node in (link.before.node, *link.between):
        if node.class_name == "ReLU":
            if set(node.config) & {"max_value", "negative_slope", "threshold"} and any(
                node.config.get(name) for name in ("max_value", "negative_slope", "threshold")
            ):
                return None
            value = max(value, 0.0)
            continue
        if node.class_name in ("LeakyReLU", "ELU", "ThresholdedReLU", "BatchNormalization"):
            return None
        name = activation_of(node)
        if name == "relu":
            value = max(value, 0.0)
        elif name == "tanh":
            value = math.tanh(value)
        elif name == "sigmoid":
            value = 1 / (1 + math.exp(-min(max(value, -700.0), 700.0)))
        elif name != "linear":
            return None
        if not math.isfinite(value):
            return None
    return value

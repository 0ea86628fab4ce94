"""Removes the weights of units that nothing reads, and those that read nothing.

Of a network pruned weight by weight, some units lose all their inputs or all their outputs (Han
et al. 2015, section 3.5, "pruning neurons"); their other weights cost bytes and do nothing. The
network computes the same without them, but for the order in which floats are added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from modelcut.arrays import floats
from modelcut.graph.keras.channel_values import activation, zero_at_zero
from modelcut.graph.node import Path
from modelcut.model.encoding import Encoding, Sparse
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import TARGET_KINDS, Context, Need, Outcome, Step
from modelcut.steps.prune import _readers
from modelcut.steps.prune._readers import Consumer


class Dead(Step):
    """Prune the weights of dead units, which no weight reads or no weight feeds."""

    aims: ClassVar[frozenset[str]] = TARGET_KINDS | {"bias"}
    absent: ClassVar[dict[str, str]] = {"budget": "it needs none, since the outputs do not change"}

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"graph"}

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`; kernels are read here, to see which units are joined."""
        architecture = self.architecture_of(model, context, "nothing tells which layer reads which")
        chosen, skipped = self.select(model, context)
        readers = _readers.readers(architecture)
        joints = _joints(model)
        _silence(joints, readers)
        _cut(joints, readers)
        aimed = {tensor.name for tensor in chosen}
        edited: dict[str, Tensor] = {}
        facts: dict[str, Any] = {"layers": {}}
        for layer in model.layers:
            joint = joints.get(layer.path)
            for tensor in layer.tensors:
                if tensor.name not in aimed:
                    continue
                reason = "its units are not told apart" if joint is None else joint.idle(tensor)
                if reason or joint is None:
                    skipped[tensor.name] = reason
                    continue
                kinds = ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))
                edited[tensor.name] = tensor.then(context.index, joint.edit(tensor), kinds)
            if joint is not None and any(t.name in edited for t in layer.tensors):
                facts["layers"][layer.name] = joint.facts()
        return Outcome(model.with_tensors(edited), facts, skipped)


@dataclass
class _Joint:
    """The units of one layer, and what joins them to the channels that come in.

    Attributes:
        links: bool (inputs, units): which input has a weight to which unit.
        bias: (units,), or None.
        activation: name of the layer's activation.
        zeros: whether it makes zero of zero.
        heard: bool (inputs,): those that are not known to be zero.
        read: bool (units,): those that something reads.
        silent: bool (units,): those that give zero, whatever comes in.
    """

    links: np.ndarray
    bias: np.ndarray | None
    activation: str
    zeros: bool
    heard: np.ndarray
    read: np.ndarray
    silent: np.ndarray

    def listen(self) -> None:
        """Finds which units are silent, by what is heard."""
        fed = self.links[self.heard].any(axis=0)
        if self.bias is None:
            still = np.full(fed.shape, self.zeros)
        elif self.activation == "relu":
            still = self.bias <= 0
        else:
            still = (self.bias == 0) & self.zeros
        self.silent = ~fed & still

    @property
    def gone(self) -> np.ndarray:
        """The units that do nothing."""
        return ~self.read | self.silent

    def idle(self, tensor: Tensor) -> str:
        """Why a tensor is skipped; "" if something of it is dead."""
        if tensor.kind == "bias":
            assert self.bias is not None
            some = bool(np.any(self.bias[self.gone] != 0))
        else:
            some = bool(self.links[:, self.gone].any() or self.links[~self.heard].any())
        return "" if some else "nothing of it is dead"

    def edit(self, tensor: Tensor) -> Edit:
        """Zeros for all that is dead of a tensor."""
        kept = ~self.gone if tensor.kind == "bias" else _along(tensor.out_axis, ~self.gone, tensor)
        if tensor.kind != "bias":
            kept = kept & _along(tensor.in_axis, self.heard, tensor)

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            del values

            def block(part: np.ndarray, rows: slice) -> np.ndarray:
                some = kept[rows] if kept.shape[0] > 1 else kept
                return floats.masked(part, (part != 0) & some)

            return Rewrite(Sparse(encoding.unmasked, encoding.pattern), block)

        return plan

    def facts(self) -> dict[str, int]:
        return {
            "units": int(self.read.size),
            "not read": int((~self.read).sum()),
            "silent": int((self.read & self.silent).sum()),
        }


def _along(axis: int | None, keep: np.ndarray, tensor: Tensor) -> np.ndarray:
    assert axis is not None
    shape = [1] * len(tensor.shape)
    shape[axis] = -1
    return keep.reshape(shape)


def _joints(model: Model) -> dict[Path, _Joint]:
    """The layers whose units can be told apart, in the order of the model."""
    found: dict[Path, _Joint] = {}
    for layer in model.layers:
        kernel = layer.by_role.get("kernel")
        if layer.node is None or kernel is None or not _readers.has_channels(layer.node.entry):
            continue
        if not set(layer.by_role) <= {"kernel", "bias"} or kernel.in_axis is None:
            continue
        found[layer.path] = _joint(layer, kernel)
    return found


def _joint(layer: Layer, kernel: Tensor) -> _Joint:

    values = kernel.pull()[0] != 0
    rest = tuple(a for a in range(values.ndim) if a not in (kernel.in_axis, kernel.out_axis))
    links = values.any(axis=rest)
    assert kernel.in_axis is not None
    assert kernel.out_axis is not None
    if kernel.in_axis > kernel.out_axis:
        links = links.T
    bias = layer.by_role.get("bias")
    inputs, units = links.shape
    return _Joint(
        links,
        None if bias is None else bias.pull()[0],
        activation(layer.config),
        zero_at_zero(layer.config),
        np.ones(inputs, bool),
        np.ones(units, bool),
        np.zeros(units, bool),
    )


def _silence(joints: Mapping[Path, _Joint], readers: Mapping[Path, tuple[Consumer, ...]]) -> None:
    """Forwards: what a silent unit sends is not heard, which may make others silent."""
    waiting = list(joints)
    while waiting:
        path = waiting.pop(0)
        joint = joints[path]
        joint.listen()
        for reader in readers.get(path, ()):
            other = joints.get(reader.path)
            if other is None or not reader.zeros or not _fit(joint, other):
                continue
            heard = np.resize(~joint.silent, other.heard.shape)
            if (heard != other.heard).any():
                other.heard = heard
                waiting.append(reader.path)


def _cut(joints: Mapping[Path, _Joint], readers: Mapping[Path, tuple[Consumer, ...]]) -> None:
    """Backwards: a unit is read if a unit that does something has a weight for it."""
    waiting = list(joints)[::-1]
    while waiting:
        path = waiting.pop(0)
        found, joint = readers.get(path), joints[path]
        if found is None or not all(
            reader.path in joints and _fit(joint, joints[reader.path]) for reader in found
        ):
            continue
        read = np.zeros(joint.read.shape, bool)
        for reader in found:
            other = joints[reader.path]
            rows = other.links[:, ~other.gone].any(axis=1) & other.heard
            read |= rows.reshape(-1, read.size).any(axis=0)
        if (read != joint.read).any():
            joint.read = read
            waiting += [p for p, own in readers.items() if any(r.path == path for r in own)]


def _fit(joint: _Joint, reader: _Joint) -> bool:
    """Whether the inputs of a reader are the channels over and over, as `Consumer` says."""
    return bool(joint.read.size) and reader.heard.size % joint.read.size == 0

"""Models of another shape: channels removed from the architecture and from the tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from modelcut.graph import edit, groups
from modelcut.graph.architecture import Architecture
from modelcut.graph.groups import Dependencies
from modelcut.model.encoding import Encoding, Fixed
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Rewrite

Takes: TypeAlias = "tuple[tuple[int, np.ndarray], ...]"
"""(axis, indices) pairs: what is kept of a tensor."""


def dependencies(model: Model) -> Dependencies:
    """The dependency groups of a model that has an architecture.

    Raises:
        InputError: the layers are inconsistent.
    """
    assert model.architecture is not None
    # Of weights that Keras holds in a form of its own, no axis is told apart.
    weights = {
        layer.path: {
            t.role: () if isinstance(t.encoding, Fixed) else t.shape for t in layer.tensors
        }
        for layer in model.layers
    }
    fixed = {
        (layer.path, tensor.role)
        for layer in model.layers
        for tensor in layer.tensors
        if tensor.kinds[-1:] != ("dense",)
    }
    return groups.dependencies(model.architecture, weights, fixed)


def without_channels(model: Model, found: Dependencies, gone: np.ndarray, step: int) -> Model:
    """The model without some channels; the tensors' edits are deferred.

    Args:
        model: that `found` was found in.
        found: its dependency groups.
        gone: int64, shape (n,): numbers of the channels that are removed.
        step: number of the step that removes them, from 0.
    """
    assert model.architecture is not None
    kept = edit.keeping(gone)
    takes: dict[tuple[tuple[str, ...], str], list[tuple[int, np.ndarray]]] = defaultdict(list)
    for slot in found.slots:
        mask = kept(slot.ids)
        if not mask.all():
            takes[slot.path, slot.role].append((slot.axis, np.flatnonzero(mask)))
    factors = {
        (scaled.path, scaled.role): math.sqrt(kept(scaled.ids).sum() / scaled.ids.size)
        for scaled in found.scaled
        if scaled.ids.any()
    }
    architecture = edit.without_channels(model.architecture, found, kept)
    nodes = {node.path: node for node in architecture.nodes}
    layers = []
    for layer in model.layers:
        node = nodes.get(layer.path)
        tensors = tuple(
            _scaled(
                taken(tensor, tuple(takes[layer.path, tensor.role]), step),
                factors.get((layer.path, tensor.role), 1.0),
                step,
            )
            if (layer.path, tensor.role) in takes
            else tensor
            for tensor in layer.tensors
        )
        config = layer.config if node is None else node.config
        layers.append(replace(layer, tensors=tensors, config=config, node=node))
    return replace(model, layers=tuple(layers), architecture=architecture)


def taken(tensor: Tensor, takes: Takes, step: int) -> Tensor:
    """The tensor with only some slices; nothing is read.

    Args:
        tensor: which.
        takes: axes, and the indices that are kept of each.
        step: number of the step, from 0.
    """
    shape = list(tensor.shape)
    for axis, indices in takes:
        shape[axis] = indices.size

    def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
        del values
        for axis, indices in takes:
            encoding = encoding.take(axis, indices)
        return Rewrite(encoding, take=takes)

    return tensor.then(step, plan, tensor.kinds, tuple(shape))


def _scaled(tensor: Tensor, factor: float, step: int) -> Tensor:
    """A tensor multiplied by a number."""
    if factor == 1:
        return tensor

    def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
        del values
        return Rewrite(encoding, lambda part, _: (part * factor).astype(part.dtype))

    return tensor.then(step, plan, tensor.kinds, tensor.shape)


def in_architecture(model: Model, layers: Sequence[Layer], architecture: Architecture) -> Model:
    """The model with these layers, each with what an edited architecture says of it."""
    nodes = {node.path: node for node in architecture.nodes}
    found = []
    for layer in layers:
        node = nodes.get(layer.path)
        config = layer.config if node is None else node.config
        found.append(replace(layer, node=node, config=config))
    return replace(model, layers=tuple(found), architecture=architecture)

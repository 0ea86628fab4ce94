"""Whose channels are the network's outputs, so that a method that removes channels spares them."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence

from modelcut.errors import ModelcutError
from modelcut.graph.architecture import Architecture
from modelcut.graph.keras.calls import (
    Call,
    CallGraph,
    Entry,
    Ref,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.node import Path
from modelcut.model.model import Layer, Model
from modelcut.steps.base import TARGET_KINDS

REASON = "its channels are the network's outputs (include or overrides by its name prune it)"
"""Why a layer is skipped."""

_MIXES = re.compile(
    r"^(Dot|Matmul|MatMul|Einsum|Tensordot|Attention|AdditiveAttention|Embedding"
    r"|CategoryEncoding|Hashing)$"
)
"""Classes without a kernel whose outputs are not the channels of their inputs."""

_ONE_EACH = re.compile(r"^Depthwise")
"""Classes with a kernel that keep channels apart: their inputs have the outputs' channels too."""


def layers_of(model: Model) -> list[Layer] | None:
    """The layers whose channels are outputs of the network, in the order of the model.

    They are found from the outputs backwards, through all that has no kernel of its own
    (activations, normalization, pooling, reshaping, merging) and through submodels.

    Returns:
        The layers; None where the file does not say which layer feeds which.
    """
    if model.architecture is None:
        return None
    kinds = TARGET_KINDS | {"embedding"}
    # A layer of an unknown class may own others, which the architecture does not list.
    own = {
        layer.path[:end]
        for layer in model.layers
        if kinds & {t.kind for t in layer.tensors}
        for end in range(1, len(layer.path) + 1)
    }
    try:
        found = _found(model.architecture, own)
    except ModelcutError:
        return None
    return [
        layer
        for layer in model.layers
        if any(layer.path[:end] in found for end in range(1, len(layer.path) + 1))
    ]


def spared(model: Model, *patterns: Iterable[str]) -> dict[str, str]:
    """The tensors of these layers, each with the reason to skip it.

    Args:
        model: the model as a step receives it.
        patterns: of the step; a layer is not spared that one of them names, without wildcards.
    """
    names = [pattern for several in patterns for pattern in several]
    return {
        tensor.name: REASON
        for layer in layers_of(model) or ()
        if not any(_is_name_of(layer, name) for name in names)
        for tensor in layer.tensors
    }


def _is_name_of(layer: Layer, pattern: str) -> bool:
    bare = pattern.removeprefix("path:")
    last = layer.path[-1:] if bare == pattern else ()
    return any(bare in (name, glob.escape(name)) for name in (layer.name, *last))


def _found(architecture: Architecture, own: set[Path]) -> set[Path]:
    found: set[Path] = set()
    _walk(architecture.root, (), None, own, found)
    return found


def _walk(
    model: Entry, path: Path, outputs: set[int] | None, own: set[Path], found: set[Path]
) -> bool:
    """Traces back from some outputs of a (sub)model, None: all.

    Returns:
        Whether an input of it is reached, whose channels are then outputs too.
    """
    if is_functional(model):
        return _walk_graph(CallGraph(model, "the model"), path, outputs, own, found)
    return all(
        _passes(entry, (*path, name_of(entry)), None, own, found)
        for entry in reversed(layer_list(model) or [])
    )


def _walk_graph(
    graph: CallGraph, path: Path, outputs: set[int] | None, own: set[Path], found: set[Path]
) -> bool:
    waiting = [
        (graph.call_of(ref, "", end=True), ref.tensor)
        for index, ref in enumerate(graph.outputs)
        if outputs is None or index in outputs
    ]
    seen: set[tuple[Call, int]] = set()
    inputs = {ref.name for ref in graph.inputs}
    reached = False
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        (name, index), tensor = here
        refs: Sequence[Ref] = graph.calls[name][index]
        reached = reached or name in inputs or not refs
        if _passes(graph.entries[name], (*path, name), {tensor}, own, found):
            waiting += [(graph.call_of(ref, ""), ref.tensor) for ref in refs]
    return reached


def _passes(
    entry: Entry, path: Path, outputs: set[int] | None, own: set[Path], found: set[Path]
) -> bool:
    """Whether the channels that go into a layer are those that come out of it."""
    kind = str(entry["class_name"])
    if layer_list(entry) is not None:
        return _walk(entry, path, outputs, own, found)
    if path in own:
        found.add(path)
        return bool(_ONE_EACH.match(kind))
    return not _MIXES.match(kind)

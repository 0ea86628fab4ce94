"""Who reads the channels of whom: from a layer's output to the weights that take it up.

Between the two may stand layers that keep channels apart (activations, pooling, flattening, …).
Whatever is not known to do so is taken to read every channel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from modelcut.errors import ModelcutError
from modelcut.graph.architecture import Architecture
from modelcut.graph.keras import classes
from modelcut.graph.keras.calls import (
    CallGraph,
    Entry,
    calls,
    config_of,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.node import Path

_WEIGHTED = re.compile(r"^(Dense|Conv[123]D|(Atrous)?Convolution[123]D)$")
_ELEMENTWISE = frozenset(
    """linear relu relu6 leaky_relu elu selu gelu silu swish mish tanh softsign sigmoid hard_sigmoid
    softplus exponential hard_silu hard_swish celu""".split()
)
_NOT_ZERO_AT_ZERO = frozenset("sigmoid hard_sigmoid softplus exponential".split())
_APART = re.compile(
    r"^(Activation|ActivityRegularization|AlphaDropout|BatchNormalization(V1|V2)?|Cropping[123]D"
    r"|Dropout|ELU|Flatten|GaussianDropout|GaussianNoise|Identity|LeakyReLU|PReLU|ReLU"
    r"|SpatialDropout[123]D|ThresholdedReLU|UpSampling[123]D|ZeroPadding[123]D)$"
)


@dataclass(frozen=True)
class Consumer:
    """A layer whose kernel takes up the channels of another: input `i` is channel `i % channels`.

    Attributes:
        path: path of the layer: names from the outermost submodel down.
        zeros: whether a channel that is zero throughout arrives as zeros, and nothing else does.
    """

    path: Path
    zeros: bool


def has_channels(entry: Entry) -> bool:
    """Whether a layer is a kernel, perhaps a bias and an activation, channels in and channels out.

    Dense layers and plain convolutions are, with the channels last.
    """
    config = config_of(entry)
    groups = config.get("groups", 1)
    return (
        bool(_WEIGHTED.match(str(entry["class_name"]))) and _channels_last(config) and groups == 1
    )


def activation(config: Mapping[str, Any]) -> str:
    """Name of a layer's activation: "linear" for none, "" for one that is no name."""
    found = config.get("activation")
    if isinstance(found, dict):
        inner = found.get("config")
        found = inner if isinstance(inner, str) else found.get("class_name")
    return "linear" if found is None else found if isinstance(found, str) else ""


def zero_at_zero(config: Mapping[str, Any]) -> bool:
    """Whether a layer's activation is known to make zero of zero."""
    return activation(config) in _ELEMENTWISE - _NOT_ZERO_AT_ZERO


def readers(architecture: Architecture) -> dict[Path, tuple[Consumer, ...]]:
    """Who reads the channels of each layer that `has_channels`.

    Returns:
        For a layer, all that read it. One is missing where any of its channels may be read as a
        whole: by an output of its model, or by a layer that mixes channels without a kernel.
    """
    try:
        shapes = architecture.input_shapes()
    except ModelcutError:
        shapes = {}
    return dict(_readers(architecture.root, (), shapes))


def _readers(
    model: Entry, path: Path, shapes: Mapping[Path, classes.Shape | None]
) -> Iterator[tuple[Path, tuple[Consumer, ...]]]:
    entries = {name_of(entry): entry for entry in layer_list(model) or []}
    nexts = _nexts(model, entries)
    for name, entry in entries.items():
        if layer_list(entry) is not None:
            yield from _readers(entry, (*path, name), shapes)
        elif has_channels(entry) and activation(config_of(entry)) in _ELEMENTWISE:
            found = _ahead(name, entries, nexts, path, shapes)
            if found is not None:
                yield (*path, name), found


def _nexts(model: Entry, entries: Mapping[str, Entry]) -> dict[str, set[str] | None]:
    """Which layers take a layer's output; None for an output of the model."""
    found: dict[str, set[str] | None] = {name: set() for name in entries}
    if not is_functional(model):
        names = list(entries)
        for name, after in pairwise(names):
            found[name] = {after}
        if names:
            found[names[-1]] = None
        return found
    graph = CallGraph(model, "the model")
    for name, found_calls in graph.calls.items():
        for ref in (ref for call in found_calls for ref in call):
            taken = found[ref.name]
            assert taken is not None
            taken.add(name)
    for ref in graph.outputs:
        found[ref.name] = None
    return found


def _ahead(
    name: str,
    entries: Mapping[str, Entry],
    nexts: Mapping[str, set[str] | None],
    path: Path,
    shapes: Mapping[Path, classes.Shape | None],
) -> tuple[Consumer, ...] | None:
    """All kernels that read the channels of a layer; None if anything else does."""
    found: dict[Path, Consumer] = {}
    waiting, seen = [(name, True)], set()
    while waiting:
        here, zeros = waiting.pop()
        after = nexts[here]
        if after is None:
            return None
        for other in after:
            entry, place = entries[other], (*path, other)
            # What goes into a layer that is called several times differs from call to call.
            alone = zeros and len(calls(entry)) <= 1
            if layer_list(entry) is None and has_channels(entry):
                known = found.get(place)
                found[place] = Consumer(place, alone and (known is None or known.zeros))
            elif not _keeps_apart(entry, shapes.get(place)):
                return None
            else:
                state = (other, alone and _keeps_zeros(entry))
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return tuple(found.values())


def _channels_last(config: Mapping[str, Any]) -> bool:
    return config.get("data_format") != "channels_first" and config.get("dim_ordering") != "th"


def _keeps_apart(entry: Entry, shape: classes.Shape | None) -> bool:
    """Whether the last axis of what goes in is that of what comes out, channel by channel."""
    config, kind = config_of(entry), str(entry["class_name"])
    if not _channels_last(config):
        return False
    if kind == "Activation":
        return activation(config) in _ELEMENTWISE
    if kind.startswith("BatchNormalization"):
        axis = config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        return axis == -1 or (shape is not None and axis == len(shape))
    return bool(_APART.match(kind) or classes.POOL.match(kind))


def _keeps_zeros(entry: Entry) -> bool:
    config, kind = config_of(entry), str(entry["class_name"])
    if kind == "Activation":
        return zero_at_zero(config)
    if kind == "ReLU" and config.get("threshold"):  # below it: slope · (x − threshold)
        return False
    return not kind.startswith("BatchNormalization")

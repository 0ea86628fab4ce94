"""Who reads the channels of whom: from a layer's output to the weights that take it up.

Between the two may stand layers that keep channels apart (activations, pooling, flattening, …).
Whatever is not known to do so is taken to read every channel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

from modelcut.errors import ModelcutError
from modelcut.graph import groups
from modelcut.graph.architecture import Architecture
from modelcut.graph.keras import channel_rules, classes
from modelcut.graph.keras.calls import Entry, calls, config_of
from modelcut.graph.keras.channel_values import (
    ELEMENTWISE,
    activation,
    channels_first,
    zero_at_zero,
)
from modelcut.graph.node import Path, node_of

_WEIGHTED = re.compile(r"^(Dense|Conv[123]D|(Atrous)?Convolution[123]D)$")


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
    return (
        bool(_WEIGHTED.match(str(entry["class_name"])))
        and not channels_first(config)
        and config.get("groups", 1) == 1
    )


def readers(architecture: Architecture) -> dict[Path, tuple[Consumer, ...]]:
    """Who reads the channels of each layer that `has_channels`.

    Returns:
        For a layer, all that read it. One is missing where any of its channels may be read as a
        whole: by an output of its model, or by a layer that mixes channels without a kernel.

    Raises:
        InputError: the layers do not hang together.
    """
    traced = groups.trace(architecture)
    if traced is None:
        return {}
    try:
        shapes = architecture.input_shapes()
    except ModelcutError:
        shapes = {}
    nexts = _nexts(traced)
    entries = {node.path: node.entry for node in architecture.nodes}
    result = {}
    for path, entry in entries.items():
        if has_channels(entry) and activation(config_of(entry)) in ELEMENTWISE:
            found = _ahead(path, entries, nexts, shapes)
            if found is not None:
                result[path] = found
    return result


def _nexts(traced: groups.Trace) -> dict[Path, set[Path] | None]:
    """Which layers of the same model take a layer's output; None where something else does."""
    found: dict[Path, set[Path] | None] = {called.path: set() for called in traced.calls}
    for called in traced.calls:
        for number in called.sources:
            before = traced.calls[number - 1].path if number else ()
            taken = found.get(before)
            if taken is None:
                continue
            if called.leaves or before[:-1] != called.path[:-1]:
                found[before] = None
            else:
                taken.add(called.path)
    for number in traced.ends:
        if number:
            found[traced.calls[number - 1].path] = None
    return found


def _ahead(
    path: Path,
    entries: Mapping[Path, Entry],
    nexts: Mapping[Path, Set[Path] | None],
    shapes: Mapping[Path, classes.Shape | None],
) -> tuple[Consumer, ...] | None:
    """All kernels that read the channels of a layer; None if anything else does."""
    found: dict[Path, Consumer] = {}
    waiting, seen = [(path, True)], set()
    while waiting:
        here, zeros = waiting.pop()
        after = nexts.get(here, frozenset())  # none, where no output needs it
        if after is None:
            return None
        for place in sorted(after):
            entry = entries[place]
            # What goes into a layer that is called several times differs from call to call.
            alone = zeros and len(calls(entry)) <= 1
            if has_channels(entry):
                known = found.get(place)
                found[place] = Consumer(place, alone and (known is None or known.zeros))
            elif not _keeps_apart(place, entry, shapes.get(place)):
                return None
            else:
                state = (place, alone and _keeps_zeros(entry))
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return tuple(found.values())


def _keeps_apart(path: Path, entry: Entry, shape: classes.Shape | None) -> bool:
    """Whether the last axis of what goes in is that of what comes out, channel by channel."""
    config = config_of(entry)
    if channels_first(config) or not channel_rules.keeps_apart(node_of(entry, path)):
        return False
    if str(entry["class_name"]).startswith("BatchNormalization"):
        axis = config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        return axis == -1 or (shape is not None and axis == len(shape))
    return True


def _keeps_zeros(entry: Entry) -> bool:
    config, kind = config_of(entry), str(entry["class_name"])
    if kind == "Activation":
        return zero_at_zero(config)
    if kind == "ReLU" and config.get("threshold"):  # below it: slope · (x − threshold)
        return False
    return not kind.startswith("BatchNormalization")

"""What can be said of the network as a graph, without running it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from modelcut import layers, shapes
from modelcut.architecture import Architecture
from modelcut.errors import InputError, ModelcutError
from modelcut.model import Layer, Model
from modelcut.node import Node, node_of
from modelcut.topology import Entry, Graph, is_functional, layer_list, name_of

MAX_VALUES = 1 << 30
"""Values of one sample's output of one layer; 4 GiB of float32."""


def check_sizes(model: Model) -> None:
    """Refuses a network whose layers declare outputs that no machine holds.

    Weights need no such look: the reader has held what is declared against what is stored.

    Raises:
        InputError: names the layer and the size.
    """
    if model.architecture is None:
        return
    for path, shape in model.architecture.shapes().items():
        values = math.prod(n for n in shape if n is not None) if shape else 0
        if values > MAX_VALUES:
            raise InputError(
                f"{model.origin.path}: layer {'/'.join(path)} declares {values:.3g} output values"
            )


def macs(model: Model) -> dict[str, int | None]:
    """Multiply-accumulates of one inference of one sample, by layer.

    Returns:
        Layer name -> count, for layers with weights; None where it cannot be told without running
        the network (an unknown class, an input of unknown size).
    """
    given = {}
    if model.architecture is not None:
        try:
            given = model.architecture.input_shapes()
        except ModelcutError:
            given = {}
    counts: dict[str, int | None] = {}
    for layer in model.layers:
        if not layer.tensors:
            continue
        node, weights = layer.node, [tensor.shape for tensor in layer.tensors]
        known = node is not None and layers.is_known(layer.class_name)
        counts[layer.name] = (
            shapes.macs(node, weights, given.get(layer.path)) if node and known else None
        )
    return counts


@dataclass(frozen=True)
class Link:
    """Two layers of weights, of which only the second reads what the first one gives.

    Attributes:
        before, after: the layers.
        between: what lies between them, none of which mixes channels, in order.
    """

    before: Layer
    after: Layer
    between: tuple[Node, ...]


_LINKED = re.compile(r"^(Dense|Conv(olution)?[123]D)$")
_ELEMENTWISE = frozenset(
    """linear relu relu6 leaky_relu elu selu celu gelu silu swish mish softplus softsign sigmoid
    hard_sigmoid hard_silu hard_swish log_sigmoid tanh hard_tanh exponential squareplus""".split()
)
_CHANNELWISE = frozenset(
    """Activation ReLU LeakyReLU ELU ThresholdedReLU Dropout AlphaDropout GaussianDropout
    GaussianNoise SpatialDropout1D SpatialDropout2D SpatialDropout3D ActivityRegularization Identity
    Flatten BatchNormalization ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D
    Cropping3D""".split()
)


def links(model: Model) -> tuple[list[Link], dict[str, str]]:
    """Which layers of weights follow which, from the inputs to the outputs.

    What no rule here knows is a barrier: a layer that is read twice, merged with others, called
    twice, or followed by something that mixes channels or is unknown.

    Returns:
        The links; and the layers that none begins at, each with the reason.
    """
    found: list[Link] = []
    barriers: dict[str, str] = {}
    if model.architecture is None:
        return found, {layer.name: "the file has no architecture" for layer in model.layers}
    by_path = {layer.path: layer for layer in model.layers}
    readers: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for layer in model.layers:
        if not layer.tensors or layer.node is None:
            continue
        reason = _why_not_linked(layer.node)
        parent = layer.path[:-1]
        if parent not in readers:
            readers[parent] = _readers(model.architecture.model_at(parent))
        link = reason or _follow(layer, readers[parent], by_path, model.architecture)
        if isinstance(link, str):
            barriers[layer.name] = link
        else:
            found.append(link)
    place = {layer.path: number for number, layer in enumerate(model.layers)}
    if any(place[link.before.path] > place[link.after.path] for link in found):
        found = _in_order(found)
    return found, barriers


def _in_order(found: list[Link]) -> list[Link]:
    """Each link after those that lead to it."""
    ahead = {link.after.path: link for link in found}
    by_start = {link.before.path: link for link in found}
    ordered: dict[tuple[str, ...], Link] = {}
    for start in [path for path in by_start if path not in ahead]:
        link = by_start.get(start)
        while link is not None and link.before.path not in ordered:
            ordered[link.before.path] = link
            link = by_start.get(link.after.path)
    return list(ordered.values())


def _readers(model: Entry) -> dict[str, list[str]]:
    """Who reads each layer of a (sub)model; "" stands for the model's own output."""
    names = [name_of(entry) for entry in layer_list(model) or []]
    if not is_functional(model):
        return {name: [after] for name, after in zip(names, [*names[1:], ""], strict=True)}
    graph = Graph(model, "the model")
    found: dict[str, list[str]] = {name: [] for name in names}
    for name, calls in graph.calls.items():
        for ref in (ref for call in calls for ref in call):
            found[ref.name].append(name)
    for ref in graph.outputs:
        found[ref.name].append("")
    return found


def _why_not_linked(node: Node) -> str:
    """Why a layer cannot be an end of a link; "" where it can."""
    if not _LINKED.match(node.class_name):
        return f"{node.class_name} is neither dense nor a plain convolution"
    if len(node.inbound) > 1:
        return "is called more than once"
    if node.config.get("data_format") == "channels_first" or "dim_ordering" in node.config:
        return "its channels are not on the last axis"
    if node.config.get("groups", 1) not in (1, None):
        return "its channels are grouped"
    return ""


def _follow(
    layer: Layer,
    readers: Mapping[str, list[str]],
    by_path: Mapping[tuple[str, ...], Layer],
    architecture: Architecture,
) -> Link | str:
    """The link that begins at a layer, or why there is none."""
    assert layer.node is not None
    if activation_of(layer.node) not in _ELEMENTWISE:
        return "its activation mixes channels, or is unknown"
    parent, name = layer.path[:-1], layer.path[-1]
    nodes = {name_of(e): e for e in layer_list(architecture.model_at(parent)) or []}
    between: list[Node] = []
    while True:
        after = readers.get(name, [])
        if len(after) != 1 or not after[0]:
            return "its output is the model's, or read by several layers"
        name = after[0]
        node = node_of(nodes[name], (*parent, name))
        if any(len(call) > 1 for call in node.inbound):
            return f"its output is merged with another in {name}"
        target = by_path.get(node.path)
        if target is not None and target.tensors and _LINKED.match(node.class_name):
            reason = _why_not_linked(node)
            return f"{name}, which reads it: {reason}" if reason else Link(
                layer, target, tuple(between)
            )  # fmt: skip
        pool = layers.POOL.match(node.class_name)
        if not pool and node.class_name not in _CHANNELWISE:
            return f"nothing is known of how {name} ({node.class_name}) passes channels on"
        if len(node.inbound) > 1:
            return f"{name} is called more than once"
        if node.config.get("data_format") == "channels_first" or "dim_ordering" in node.config:
            return f"the channels of {name} are not on the last axis"
        if node.class_name == "Activation" and activation_of(node) not in _ELEMENTWISE:
            return f"{name} mixes channels, or is unknown"
        between.append(node)


def activation_of(node: Node) -> str:
    """Name of a layer's activation; "linear" for none, "?" for one that is not told by a name."""
    found = node.config.get("activation", "linear")
    if isinstance(found, dict):
        found = found.get("class_name") if not found.get("config") else "?"
    return "linear" if found is None else found if isinstance(found, str) else "?"

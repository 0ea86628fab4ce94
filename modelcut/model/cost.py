"""What can be said of the network as a graph, without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelcut.errors import InputError, ModelcutError
from modelcut.graph import call_counts, shapes
from modelcut.graph.architecture import Node, specs
from modelcut.graph.keras import classes, quantized
from modelcut.graph.keras.calls import layer_list
from modelcut.graph.node import Path
from modelcut.model.encoding import Fixed
from modelcut.model.model import Layer, Model
from modelcut.safety import printable

MAX_VALUES = 1 << 30
"""Values of one sample's output of one layer; 4 GiB of float32."""

MAX_UNROLLED = 1_000
"""Steps of recurrent layers with `unroll`, all together: an engine makes a graph of each."""

MAX_UNROLLED_CALLS = 50_000


def check_sizes(model: Model) -> None:
    """Refuses a network whose layers declare outputs that no machine holds.

    Weights need no such look: the reader has checked what is declared against what is stored.

    Raises:
        InputError: names the layer and the size.
    """
    if model.architecture is None:
        return
    calls = calls_of_layers(model)
    if calls > MAX_CALLS:
        raise InputError(
            f"{model.origin.path}: its layers are called {calls:.3g} times in one inference",
            f"submodels that call others again and again; at most {MAX_CALLS:,} calls are run",
        )
    _check_counts(model)
    _check_unrolled(model, calls)
    for path, shape in model.architecture.shapes().items():
        if shape and 0 in shape:
            raise InputError(
                f"{model.origin.path}: layer {'/'.join(path)} has an output of size 0",
                "a network with such a layer computes nothing",
            )
        values = math.prod(n for n in shape if n is not None) if shape else 0
        if values > MAX_VALUES:
            raise InputError(
                f"{model.origin.path}: layer {'/'.join(path)} declares {values:.3g} output values"
            )


def _check_unrolled(model: Model, calls: int) -> None:
    """Refuses recurrent layers whose every step would become operations of the graph.

    Raises:
        InputError: names the layer and its steps.
    """
    assert model.architecture is not None
    given = model.architecture.input_shapes()
    total = 0
    for node in model.architecture.nodes:
        for part in (node, *(inner for _, inner in node.wrapped)):
            shape = given.get(part.path) or given.get(node.path)
            if not part.config.get("unroll") or not shape or shape[0] is None:
                continue
            total += shape[0]
            if total > MAX_UNROLLED or total * calls > MAX_UNROLLED_CALLS:
                raise InputError(
                    f"{model.origin.path}: layer {printable('/'.join(part.path))} "
                    f"({printable(part.class_name, 40)}) is unrolled over {shape[0]:,} steps",
                    f"at most {MAX_UNROLLED:,} are run; without `unroll` it computes the same",
                )


_COUNTS = frozenset(
    "units filters kernel_size strides dilation_rate pool_size groups depth_multiplier input_dim "
    "output_dim num_heads key_dim value_dim n".split()
)


def _check_counts(model: Model) -> None:
    """Refuses sizes of layers that are no whole numbers: some Keras cut them off, others fail.

    Raises:
        InputError: names the layer and the size.
    """
    assert model.architecture is not None
    for node in model.architecture.nodes:
        for part in (node, *(inner for _, inner in node.wrapped)):
            known = classes.is_known(part.class_name)
            for name in _COUNTS & part.config.keys() if known else ():
                value = part.config[name]
                sizes = value if isinstance(value, (list, tuple)) else [value]
                if any(isinstance(size, (float, bool, str)) for size in sizes):
                    raise InputError(
                        f"{model.origin.path}: layer {printable('/'.join(node.path))!r}: its "
                        f"{name} {printable(str(value), 40)} is no whole number",
                        "Keras writes whole numbers; the file was edited",
                    )


def _values(shape: classes.Shape | None) -> int:
    """Values of an output of one sample; an axis of unknown length is taken for one of 64."""
    return math.prod(64 if n is None else n for n in shape) if shape else 0


def largest_output(model: Model) -> int:
    """Values of the largest output of a layer, of one sample."""
    if model.architecture is None:
        return 0
    return max(map(_values, model.architecture.shapes().values()), default=0)


def all_outputs(model: Model) -> int:
    """Values of the outputs of all layers, of one sample, each as often as its model is called."""
    if model.architecture is None:
        return 0
    total = sum(map(_values, model.architecture.shapes().values()))
    layers = max(1, len(model.architecture.nodes))
    return total * max(1, calls_of_layers(model) // layers)


MAX_CALLS = 100_000
"""Calls of layers in a network: ten times as many as in the largest that anyone has trained."""


def calls_of_layers(model: Model) -> int:
    """How many calls of layers an engine builds: a submodel's again at each call of it.

    Counted from what the file says, not expanded: submodels in submodels multiply.
    """
    if model.architecture is None:
        return 0
    return _expanded(model.architecture.root)


def _expanded(model: Mapping[str, Any]) -> int:
    total = 0
    for entry in layer_list(model) or ():
        nodes = entry.get("inbound_nodes")
        times = max(1, len(nodes)) if isinstance(nodes, list) else 1
        inside = _inside(entry)
        total += times * inside
        if layer_list(entry) is not None:
            total += inside  # once as it is built
    return total


def _inside(entry: Mapping[str, Any]) -> int:
    """Calls that one call of a layer makes, itself counted where it is no model."""
    if layer_list(entry) is not None:
        return _expanded(entry)
    config = entry.get("config")
    inner = config.get("layer") if isinstance(config, Mapping) else None
    if isinstance(inner, Mapping):
        return 1 + _inside(inner)
    return 1


def macs(model: Model) -> dict[str, int | None]:
    """Multiply-accumulates of one inference of one sample, by layer.

    A layer that is called several times, itself or with its submodel, counts each time; one that
    no output needs does not.

    Returns:
        Layer name -> count, for layers with weights, attentions, Dot and matmul; None where it
        cannot be told without running the network (an unknown class, an input of unknown size).
    """
    return {
        name: None if found is None else sum(found.values()) for name, found in parts(model).items()
    }


def parts(model: Model) -> dict[str, dict[str, int] | None]:
    """As `macs`, and of a layer that repeats a submodel the count of each layer in there.

    Returns:
        Layer name -> start of its tensors' roles -> count: "" for all of them, "conv/" for those of
        one layer of a submodel.
    """
    called: dict[Path, list[tuple[call_counts.Sources, int]]] | None = None
    if model.architecture is not None:
        called = _called(model.architecture.root)
    counts: dict[str, dict[str, int] | None] = {}
    for layer in model.layers:
        node = layer.node
        if not layer.tensors and (node is None or not shapes.multiplies(node)):
            continue
        counts[layer.name] = None
        known = not layer.tensors or classes.is_known(layer.class_name)
        if node is None or not known or called is None:
            continue
        total: dict[str, int] = {}
        for sources, times in called.get(layer.path, ()):
            count = _of_call(model, layer, node, sources)
            if count is None:
                break
            for start, work in count.items():
                total[start] = total.get(start, 0) + work * times
        else:
            counts[layer.name] = total
    return counts


def _called(
    root: Mapping[str, Any], given: call_counts.Sources = ()
) -> dict[Path, list[tuple[call_counts.Sources, int]]] | None:
    """The calls of each layer, as shapes and how many; None where they are too many, or unclear."""
    try:
        found = call_counts.calls(root, given)
    except (ModelcutError, call_counts.TooManyError):
        return None
    called: dict[Path, list[tuple[call_counts.Sources, int]]] = {}
    for (path, sources), times in found.items():
        called.setdefault(path, []).append((sources, times))
    return called


def _of_call(
    model: Model, layer: Layer, node: Node, sources: call_counts.Sources
) -> dict[str, int] | None:
    """The work of one call, by the starts of the tensors' roles."""
    first, others = (*sources, None)[0], sources[1:]
    if _is_changed(layer, node):
        count = _macs_of_fixed(layer, node, first, others)
    elif node.class_name == "TimeDistributed" and node.wrapped and node.wrapped[0][1].is_model:
        return _repeated(model, layer, node.wrapped[0][1], first)
    else:
        count = shapes.macs(node, [tensor.shape for tensor in layer.tensors], first, others)
    return None if count is None else {"": count}


def _repeated(
    model: Model, layer: Layer, inner: Node, given: classes.Shape | None
) -> dict[str, int] | None:
    """Of a submodel that is called for each of the steps that are given."""
    assert model.architecture is not None
    if not given or given[0] is None:
        return None
    try:
        nodes = model.architecture.with_root(inner.entry).nodes
    except ModelcutError:  # its layers do not hang together: whoever runs it will say so
        return None
    called = _called(inner.entry, (given[1:],))
    if called is None:
        return None
    counts = {}
    for node in nodes:
        start = f"{'/'.join(node.path)}/"
        weights = [one.shape for one in layer.tensors if one.role.startswith(start)]
        if not weights and not shapes.multiplies(node):
            continue
        counts[start] = 0
        for sources, times in called.get(node.path, ()):
            work = shapes.macs(node, weights, (*sources, None)[0], sources[1:])
            if work is None:
                return None
            counts[start] += work * times * given[0]
    return counts


def _is_changed(layer: Layer, node: Node) -> bool:
    parts = [node, *(inner for _, inner in node.wrapped)]
    return any(isinstance(tensor.encoding, Fixed) for tensor in layer.tensors) or any(
        quantized.is_changed(part.class_name, part.config) for part in parts
    )


def _macs_of_fixed(
    layer: Layer, node: Node, given: classes.Shape | None, others: call_counts.Sources
) -> int | None:
    """Of a layer that Keras has quantized, or given LoRA factors: of the kernels as they were."""
    plain = replace(node, config=quantized.plain_config(node.config))
    inner = node.wrapped[0][1] if len(node.wrapped) == 1 else node
    weights = []
    for spec in specs(plain):
        tensor = layer.by_role.get(spec.role)
        shape = tensor.shape if tensor is not None else (1,)  # a bias that is not there
        if tensor is not None and isinstance(tensor.encoding, Fixed):
            held = tensor.encoding.held
            kernel = quantized.plain_shape(inner.class_name, inner.config, shape, held)
            if kernel is None or None in kernel:
                return None
            shape = tuple(n for n in kernel if n is not None)
        weights.append(shape)
    return shapes.macs(plain, weights, given, others)

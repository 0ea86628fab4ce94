"""Whose channels are the network's outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import MODELS, dense, toy_model

from modelcut.formats import registry
from modelcut.graph.architecture import Architecture
from modelcut.model.model import Layer, Model, Origin, Source, Tensor
from modelcut.steps import outlets

GOLDEN = {
    "branches": ["one", "two"],
    "cnn": ["dense"],
    "nested": ["out"],
    "sequential": ["dense_1"],
    "text": ["dense_1"],
}


def names(model):
    found = outlets.layers_of(model)
    return None if found is None else [layer.name for layer in found]


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("writer", ["keras3", "tf_keras"])
@pytest.mark.parametrize("name", GOLDEN)
def test_in_every_dialect(name, writer, suffix):
    assert names(registry.open_model(MODELS / f"{writer}_{name}{suffix}")) == GOLDEN[name]


def test_a_file_of_weights_alone_does_not_say():
    assert names(registry.open_model(MODELS / "keras3_cnn.weights.h5")) is None


def of_config(config, version, kernels):
    """A model of an architecture, with a kernel in each of some layers."""
    architecture = Architecture.parse(json.dumps(config), version, "toy")
    layers = []
    for node in architecture.nodes:
        values = np.ones((2, 2), "float32")
        tensor = Tensor(
            name="/".join((*node.path, "kernel")),
            role="kernel",
            kind="kernel",
            shape=values.shape,
            dtype=values.dtype,
            source=Source(values.copy),
            out_axis=1,
            in_axis=0,
        )
        own = (tensor,) if node.path[-1] in kernels else ()
        layers.append(Layer(node.path, node.class_name, node.config, own, node))
    origin = Origin(Path("toy.h5"), "hdf5", "keras2", "Keras")
    return Model(tuple(layers), architecture, origin)


def layer(name, kind, *inbound, **config):
    return {
        "class_name": kind,
        "name": name,
        "config": {"name": name, **config},
        "inbound_nodes": [[[each, 0, 0] for each in inbound]] if inbound else [],
    }


def graph(layers, inputs, outputs, name="m"):
    return {
        "class_name": "Model",
        "name": name,
        "config": {
            "name": name,
            "layers": layers,
            "input_layers": [[each, 0, 0] for each in inputs],
            "output_layers": [each if isinstance(each, list) else [each, 0, 0] for each in outputs],
        },
    }


def test_in_a_sequential_model_of_keras_1():
    config = {
        "class_name": "Sequential",
        "config": [
            dense("hidden", 4),
            dense("out", 2),
            {"class_name": "Activation", "config": {"name": "soft", "activation": "softmax"}},
        ],
    }
    assert names(of_config(config, None, {"hidden", "out"})) == ["out"]


@pytest.mark.parametrize(
    ("layers", "outputs", "found"),
    [
        # Pooling and activations hand channels on; so does a depthwise convolution.
        (
            [
                layer("a", "Conv2D", "x"),
                layer("b", "Conv2D", "a"),
                layer("p", "GlobalAveragePooling2D", "b"),
                layer("s", "Activation", "p"),
            ],
            ["s"],
            ["b"],
        ),
        (
            [
                layer("a", "Conv2D", "x"),
                layer("b", "DepthwiseConv2D", "a"),
                layer("p", "GlobalAveragePooling2D", "b"),
            ],
            ["p"],
            ["a", "b"],
        ),
        # Several outputs, one of them in the middle.
        ([layer("a", "Dense", "x"), layer("b", "Dense", "a")], ["a", "b"], ["a", "b"]),
        # What is added up or put side by side are outputs; a scalar product is of none.
        (
            [layer("a", "Dense", "x"), layer("b", "Dense", "x"), layer("m", "Add", "a", "b")],
            ["m"],
            ["a", "b"],
        ),
        (
            [layer("a", "Dense", "x"), layer("b", "Dense", "x"), layer("m", "Dot", "a", "b")],
            ["m"],
            [],
        ),
    ],
)
def test_from_the_outputs_back(layers, outputs, found):
    config = graph([layer("x", "InputLayer"), *layers], ["x"], outputs)
    kernels = {each["name"] for each in layers if each["class_name"] in ("Dense", "Conv2D")}
    assert names(of_config(config, "2.4.0", kernels | {"b"})) == found


def test_layers_inside_a_layer_of_an_unknown_class_are_its_own():
    layers = [layer("x", "InputLayer"), layer("a", "Dense", "x"), layer("b", "Mine>Block", "a")]
    model = of_config(graph(layers, ["x"], ["b"]), "2.4.0", {"a", "b"})
    block = model.layers[-1]
    assert block.path == ("b",)
    parts = tuple(replace(block, path=("b", name)) for name in ("up", "down"))
    assert names(replace(model, layers=(*model.layers[:-1], *parts))) == ["b/up", "b/down"]


def inner(*layers, outputs, name="sub"):
    return graph([layer("i", "InputLayer"), *layers], ["i"], outputs, name)


def test_through_submodels():
    head = {**inner(layer("s", "Activation", "i"), outputs=["s"]), "inbound_nodes": [[["a", 0, 0]]]}
    config = graph([layer("x", "InputLayer"), layer("a", "Dense", "x"), head], ["x"], [])
    config["config"]["output_layers"] = [["sub", 1, 0]]
    assert names(of_config(config, "2.4.0", {"a"})) == ["a"]
    body = inner(layer("b", "Dense", "i"), layer("c", "Dense", "b"), outputs=["b", "c"])
    body = {**body, "inbound_nodes": [[["a", 0, 0]]]}
    config = graph([layer("x", "InputLayer"), layer("a", "Dense", "x"), body], ["x"], [])
    for tensor, found in ((0, "sub/b"), (1, "sub/c")):
        config["config"]["output_layers"] = [["sub", 1, tensor]]
        assert names(of_config(config, "2.4.0", {"a", "b", "c"})) == [found]


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("out", True),
        ("path:out", True),
        ("o*", False),
        ("*", False),
        ("class:Dense", False),
        ("role:kernel", False),
        ("one", False),
    ],
)
def test_only_its_name_names_a_layer(pattern, named):
    model = toy_model({"one": (np.ones((2, 3)), None), "out": (np.ones((3, 2)), None)})
    assert outlets.spared(model, [pattern]) == ({} if named else {"out/kernel": outlets.REASON})
    assert outlets.spared(model, [], {pattern: {}}) == outlets.spared(model, [pattern])


def test_of_a_nested_layer_either_name_counts():
    head = inner(layer("out[0]", "Dense", "i"), outputs=["out[0]"])
    head = {**head, "inbound_nodes": [[["x", 0, 0]]]}
    config = graph([layer("x", "InputLayer"), head], ["x"], [])
    config["config"]["output_layers"] = [["sub", 1, 0]]
    model = of_config(config, "2.4.0", {"out[0]"})
    assert set(outlets.spared(model)) == {"sub/out[0]/kernel"}
    for pattern in ("out[0]", "out[[]0]", "sub/out[0]", "path:sub/out[[]0]"):
        assert outlets.spared(model, [pattern]) == {}
    assert outlets.spared(model, ["path:out[0]"])

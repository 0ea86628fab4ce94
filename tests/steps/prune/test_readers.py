"""Who reads whose channels, in networks small enough to see it."""

from __future__ import annotations

import json

import pytest
from toys import dense

from modelcut.graph.architecture import Architecture
from modelcut.graph.keras.channel_values import activation, zero_at_zero
from modelcut.steps.prune._readers import has_channels, readers


def layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def conv(name, filters=4, **more):
    config = {"filters": filters, "kernel_size": [3, 3], "activation": "relu", **more}
    return layer("Conv2D", name, **config)


def sequential(*layers):
    root = {"class_name": "Sequential", "config": {"name": "m", "layers": list(layers)}}
    return Architecture.parse(json.dumps(root), "2.4.0", "m")


def functional(outputs, **calls):
    """A functional model of Keras 2: name -> (entry, names of what it is called on)."""
    layers = [
        {**entry, "name": name, "inbound_nodes": [[[one, 0, 0, {}] for one in given]] * bool(given)}
        for name, (entry, given) in calls.items()
    ]
    config = {
        "name": "m",
        "layers": layers,
        "input_layers": [["x", 0, 0]],
        "output_layers": [[name, 0, 0] for name in outputs],
    }
    root = {"class_name": "Functional", "config": config}
    return Architecture.parse(json.dumps(root), "2.4.0", "m")


def shown(architecture):
    """Layer -> {reader: whether zeros arrive as zeros}."""
    return {
        "/".join(path): {"/".join(reader.path): reader.zeros for reader in found}
        for path, found in readers(architecture).items()
    }


RELU = {"activation": "relu"}


def test_each_layer_of_a_chain_is_read_by_the_next_and_the_last_by_whoever_gets_the_output():
    found = shown(sequential(dense("a", 4, **RELU), dense("b", 3, **RELU), dense("c", 2)))
    assert found == {"a": {"b": True}, "b": {"c": True}}


@pytest.mark.parametrize(
    ("between", "zeros"),
    [
        ([layer("Dropout", "d", rate=0.5)], True),
        ([layer("Flatten", "f")], True),
        ([layer("MaxPooling2D", "p", pool_size=[2, 2])], True),
        ([layer("GlobalAveragePooling2D", "p")], True),
        ([layer("Activation", "s", activation="tanh")], True),
        ([layer("ReLU", "s")], True),
        ([layer("Activation", "s", activation="sigmoid")], False),
        ([layer("BatchNormalization", "n", axis=-1)], False),
        ([layer("ReLU", "r", threshold=1.0)], False),
        ([layer("Dropout", "d"), layer("BatchNormalization", "n"), layer("Flatten", "f")], False),
    ],
)
def test_layers_between_that_keep_channels_apart(between, zeros):
    found = shown(sequential(conv("a", batch_input_shape=[None, 8, 8, 1]), *between, dense("b", 2)))
    assert found == {"a": {"b": zeros}}


@pytest.mark.parametrize(
    "between",
    [
        layer("Activation", "s", activation="softmax"),
        layer("LayerNormalization", "n", axis=-1),
        layer("BatchNormalization", "n", axis=1),
        layer("Reshape", "r", target_shape=[-1]),
        layer("LSTM", "l", units=3),
        layer("SomebodysOwn", "o"),
        layer("MaxPooling2D", "p", data_format="channels_first"),
    ],
    ids=lambda entry: entry["class_name"],
)
def test_layers_that_mix_channels_are_barriers(between):
    first = conv("a", batch_input_shape=[None, 8, 8, 1])
    assert shown(sequential(first, between, dense("b", 2))) == {}


def test_two_readers_of_one_layer_and_an_output_as_a_third():
    calls = {
        "x": (layer("InputLayer", "x", batch_input_shape=[None, 5]), []),
        "a": (dense("a", 4, **RELU), ["x"]),
        "b": (dense("b", 3, **RELU), ["a"]),
        "drop": (layer("Dropout", "drop", rate=0.5), ["a"]),
        "c": (dense("c", 2), ["drop"]),
    }
    assert shown(functional(["b", "c"], **calls)) == {"a": {"b": True, "c": True}}
    assert shown(functional(["a", "c"], **calls)) == {"b": {}}  # nobody reads b


def test_what_is_added_or_joined_is_read_as_a_whole():
    for kind in ("Add", "Concatenate"):
        calls = {
            "x": (layer("InputLayer", "x", batch_input_shape=[None, 5]), []),
            "a": (dense("a", 4, **RELU), ["x"]),
            "b": (dense("b", 4, **RELU), ["x"]),
            "sum": (layer(kind, "sum"), ["a", "b"]),
            "c": (dense("c", 2), ["sum"]),
        }
        assert shown(functional(["c"], **calls)) == {}


def test_within_a_submodel():
    config = {"name": "inner", "layers": [dense("a", 4, **RELU), dense("b", 3)]}
    inner = {"class_name": "Sequential", "config": config}
    assert shown(sequential(inner, dense("c", 2))) == {"inner/a": {"inner/b": True}}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (dense("a", 3), True),
        (conv("a"), True),
        (conv("a", groups=2), False),
        (conv("a", data_format="channels_first"), False),
        (layer("Convolution2D", "a", dim_ordering="th"), False),
        (layer("Conv2DTranspose", "a"), False),
        (layer("DepthwiseConv2D", "a"), False),
        (layer("LSTM", "a"), False),
    ],
)
def test_which_layers_have_channels(entry, expected):
    assert has_channels(entry) is expected


@pytest.mark.parametrize(
    ("said", "name", "zero"),
    [(None, "linear", True), ("relu", "relu", True), ("sigmoid", "sigmoid", False),
     ("exponential", "exponential", False), ("somebodys", "somebodys", False),
     ({"class_name": "function", "config": "tanh"}, "tanh", True),
     ({"class_name": "LeakyReLU", "config": {}}, "LeakyReLU", False), (7, "", False)],
)  # fmt: skip
def test_activations(said, name, zero):
    assert activation({"activation": said}) == name
    assert zero_at_zero({"activation": said}) is zero

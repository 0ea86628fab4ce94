"""Shapes through whole networks, worked out by hand, and edits of an architecture."""

from __future__ import annotations

import json

import pytest
from toys import dense, toy_network

from modelcut.errors import InputError
from modelcut.graph import shapes
from modelcut.graph.architecture import Architecture, Dialect, Refusal
from modelcut.graph.chains import Link, replaced


def layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


def sequential(*layers, version="2.4.0"):
    root = {"class_name": "Sequential", "config": {"name": "m", "layers": list(layers)}}
    return Architecture.parse(json.dumps(root), version, "m")


def outputs(architecture):
    return {"/".join(path): shape for path, shape in architecture.shapes().items()}


def test_a_convolution_a_flatten_and_a_submodel():
    found = outputs(toy_network().architecture)
    assert found == {
        "conv": (4, 4, 4),  # 6 - 3 + 1
        "norm": (4, 4, 4),
        "flat": (64,),
        "inner": (8,),
        "inner/hidden": (8,),
        "out": (3,),
    }
    given = toy_network().architecture.input_shapes()
    assert given[("conv",)] == (6, 6, 2)
    assert given[("inner", "hidden")] == (64,)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"padding": "valid", "strides": [1, 1]}, (5, 8, 4)),
        ({"padding": "same", "strides": [1, 1]}, (7, 10, 4)),
        ({"padding": "same", "strides": [2, 3]}, (4, 4, 4)),  # rounded up
        ({"padding": "valid", "strides": [2, 3]}, (3, 3, 4)),
        ({"padding": "valid", "dilation_rate": [3, 2]}, (1, 6, 4)),  # reaches of 7 and 5
    ],
)
def test_convolutions(config, expected):
    conv = layer("Conv2D", "c", filters=4, kernel_size=[3, 3], batch_input_shape=[None, 7, 10, 2],
                 **config)  # fmt: skip
    assert outputs(sequential(conv))["c"] == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (layer("LSTM", "r", units=5, batch_input_shape=[None, 9, 2]), (5,)),
        (layer("LSTM", "r", units=5, return_sequences=True, batch_input_shape=[None, 9, 2]),
         (9, 5)),
        (layer("Embedding", "e", input_dim=50, output_dim=3, batch_input_shape=[None, 9]), (9, 3)),
        (dense("d", 4, batch_input_shape=[None, None, 6]), (None, 4)),
        (layer("Conv1D", "c", filters=4, kernel_size=[3], batch_input_shape=[None, None, 2]),
         (None, 4)),
        (layer("SomebodysOwn", "o", batch_input_shape=[None, 3]), None),
        (layer("Conv2D", "c", filters="four", kernel_size=[3, 3],
               batch_input_shape=[None, 7, 7, 1]), (5, 5, None)),
    ],
)  # fmt: skip
def test_single_layers(entry, expected):
    assert outputs(sequential(entry))[entry["config"]["name"]] == expected


def test_wrappers():
    inner = dense("d", 4)
    each = layer("TimeDistributed", "t", layer=inner, batch_input_shape=[None, 9, 6])
    assert outputs(sequential(each))["t"] == (9, 4)
    both = layer("Bidirectional", "b", layer=layer("LSTM", "l", units=5), merge_mode="concat",
                 batch_input_shape=[None, 9, 2])  # fmt: skip
    assert outputs(sequential(both))["b"] == (10,)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"batch_shape": [None, 3, 4]}, (3, 4)),
        ({"batch_input_shape": [32, None]}, (None,)),
        ({"input_shape": [5]}, (5,)),
        ({"input_dim": 5}, (5,)),
        ({"input_dim": 5, "input_length": 9}, (9, 5)),
        ({"batch_shape": "wide"}, None),
        ({"batch_shape": [None, True]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_what_a_configuration_says_of_the_input(config, expected):
    assert shapes.declared(config) == expected


# Architecture


@pytest.mark.parametrize(
    ("version", "dialect"),
    [("1.2.2", Dialect.KERAS1), ("2.4.0", Dialect.KERAS2), ("2.2.4-tf", Dialect.KERAS2),
     ("3.0.5", Dialect.KERAS3), ("3.15.1", Dialect.KERAS3)],
)  # fmt: skip
def test_the_version_tells_the_dialect(version, dialect):
    assert sequential(dense("a", 3), version=version).dialect is dialect


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"class_name": "Sequential", "config": {"layers": []}}',
     '{"class_name": "Sequential", "config": {"layers": [{"config": {}}]}}',
     '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}}'],
)  # fmt: skip
def test_what_is_no_model(text):
    with pytest.raises(InputError, match="where"):
        Architecture.parse(text, "2.4.0", "where")


def test_two_layers_of_one_name():
    with pytest.raises(InputError, match="two layers are called 'a'"):
        sequential(dense("a", 3), dense("a", 3))


def split(architecture, path, *configs):
    return replaced(architecture, path, [Link(each["name"], "Dense", each) for each in configs])


def test_split_puts_a_narrow_layer_before_one_that_keeps_its_name():
    old = sequential(dense("a", 6, batch_input_shape=[None, 9]), dense("b", 2))
    narrow = {"name": "a_factor", "units": 3, "use_bias": False}
    new = split(old, ("a",), narrow, {"name": "a", "units": 6})
    assert [node.path for node in new.nodes] == [("a_factor",), ("a",), ("b",)]
    assert outputs(new) == {"a_factor": (3,), "a": (6,), "b": (2,)}
    assert new.input_shapes()[("a_factor",)] == (9,)  # what began the model says its input
    assert "batch_input_shape" not in new.nodes[1].config
    assert json.loads(new.text) == new.root
    assert outputs(old) == {"a": (6,), "b": (2,)}  # it is not changed


def test_split_within_a_submodel():
    old = toy_network().architecture
    first = {"name": "f", "units": 2, "use_bias": False}
    new = split(old, ("inner", "hidden"), first, {"name": "hidden", "units": 8})
    assert new.names(("inner",)) == {"f", "hidden"}
    assert outputs(new)["inner/f"] == (2,)
    assert outputs(new)["out"] == (3,)


def test_split_refuses_a_layer_that_is_shared():
    shared = {**dense("a", 6, batch_input_shape=[None, 9]), "shared_object_id": 4}
    with pytest.raises(Refusal, match="shared"):
        split(sequential(shared, dense("b", 2)), ("a",), {"name": "f", "units": 2}, {"name": "a"})


def test_with_configs_replaces_some_keys_deep_down():
    new = toy_network().architecture.with_configs({("inner", "hidden"): {"activation": "tanh"}})
    found = {node.path: node.config.get("activation") for node in new.nodes}
    assert found[("inner", "hidden")] == "tanh"
    assert found[("conv",)] == "relu"
    assert outputs(new)["inner/hidden"] == (8,)

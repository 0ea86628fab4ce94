"""Dependency groups of small architectures, written by hand."""

from __future__ import annotations

import json

import numpy as np

from modelcut.graph import edit
from modelcut.graph.architecture import Architecture
from modelcut.graph.groups import dependencies


def layer(kind, name, inbound=(), **config):
    entry = {"class_name": kind, "name": name, "config": {"name": name, **config}}
    entry["inbound_nodes"] = [[[n, 0, 0, {}] for n in inbound]] if inbound else []
    return entry


def functional(layers, outputs):
    config = {
        "name": "m",
        "layers": layers,
        "input_layers": [["x", 0, 0]],
        "output_layers": [[n, 0, 0] for n in outputs],
    }
    text = json.dumps({"class_name": "Functional", "config": config})
    return Architecture.parse(text, "2.4.0", "test")


def found(architecture, **weights):
    shapes = {
        (name,): {"kernel": shape} if isinstance(shape, tuple) else shape
        for name, shape in weights.items()
    }
    return dependencies(architecture, shapes)


def groups_of(told):
    return [(g.ids.size, ["/".join(p) for p in told.made_by(g)]) for g in told.groups]


def ids(told, name, axis, role="kernel"):
    """Channels of an axis, counted from 0; -1 for those that are kept."""
    (slot,) = [s for s in told.slots if (s.path, s.role, s.axis) == ((name,), role, axis)]
    known = np.unique(np.concatenate([g.ids for g in told.groups]))
    return np.where(slot.ids == 0, -1, np.searchsorted(known, slot.ids)).tolist()


def images(flatten, form="channels_first"):
    layers = [
        layer("InputLayer", "x", batch_input_shape=[None, 1, 2, 2]),
        layer("Conv2D", "c", ["x"], filters=3, kernel_size=[1, 1], data_format=form),
        layer("BatchNormalization", "n", ["c"], axis=[1]),
        layer("MaxPooling2D", "p", ["n"], pool_size=[1, 1], data_format=form),
        layer("Flatten", "f", ["p"], data_format=flatten),
        layer("Dense", "d", ["f"], units=2),
    ]
    norm = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (3,))
    architecture = functional(layers, ["d"])
    return architecture, found(architecture, c=(1, 1, 1, 3), n=norm, d=(12, 2))


def test_channels_that_come_first_are_flattened_as_keras_does():
    _, told = images("channels_first")
    assert groups_of(told) == [(3, ["c"])]
    assert ids(told, "d", 0) == [0, 1, 2] * 4
    assert ids(told, "n", 0, "gamma") == [0, 1, 2]
    _, told = images("channels_last")
    assert ids(told, "d", 0) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_normalization_over_another_axis_keeps_the_channels():
    layers = [
        layer("InputLayer", "x", batch_input_shape=[None, 2, 3]),
        layer("Dense", "a", ["x"], units=4),
        layer("BatchNormalization", "n", ["a"], axis=[1]),
        layer("Dense", "b", ["n"], units=2),
    ]
    norm = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (2,))
    told = found(functional(layers, ["b"]), a=(3, 4), n=norm, b=(4, 2))
    assert told.groups == ()
    assert told.kept["a",] == "n (BatchNormalization) is over another axis"


def test_the_architecture_follows_and_nothing_else_changes():
    architecture, told = images("channels_first")
    small = edit.without_channels(architecture, told, edit.keeping(told.groups[0].ids[:1]))
    assert small.text == architecture.text.replace('"filters": 3', '"filters": 2')
    whole = edit.without_channels(architecture, told, edit.keeping(np.zeros(0, np.int64)))
    assert whole.root == architecture.root


def test_a_sum_joins_what_a_concatenation_keeps_apart():
    layers = [
        layer("InputLayer", "x", batch_input_shape=[None, 3]),
        layer("Dense", "a", ["x"], units=2),
        layer("Dense", "b", ["x"], units=4),
        layer("Concatenate", "c", ["a", "b"], axis=-1),
        layer("Dense", "s", ["x"], units=6),
        layer("Add", "add", ["c", "s"]),
        layer("Dense", "d", ["add"], units=1),
    ]
    told = found(functional(layers, ["d"]), a=(3, 2), b=(3, 4), s=(3, 6), d=(6, 1))
    assert groups_of(told) == [(2, ["a", "s"]), (4, ["b", "s"])]
    assert ids(told, "s", 1) == [0, 1, 2, 3, 4, 5]


def test_what_is_added_to_the_input_or_read_by_nobody_known_is_kept():
    layers = [
        layer("InputLayer", "x", batch_input_shape=[None, 3]),
        layer("Dense", "a", ["x"], units=3),
        layer("Add", "add", ["a", "x"]),
        layer("Dense", "b", ["add"], units=4),
        layer("Lambda", "odd", ["b"]),
        layer("Dense", "c", ["b"], units=4),
        layer("Dense", "d", ["c"], units=4, activation="softmax"),
        layer("Dense", "e", ["d"], units=4, kernel_initializer={
            "class_name": "Constant", "config": {"value": [[1, 2]]}}),
        layer("Dense", "f", ["e"], units=2),
    ]  # fmt: skip
    square = (4, 4)
    told = found(functional(layers, ["f"]), a=(3, 3), b=(3, 4), c=square, d=square, e=square,
                 f=(4, 2))  # fmt: skip
    assert groups_of(told) == [(4, ["c"])]
    assert told.kept == {
        ("a",): "add (Add) joins them with channels that are kept",
        ("b",): "odd leads to no output",
        ("d",): "its activation (softmax) joins them",
        ("e",): "it has a kernel_initializer of a fixed shape",
        ("f",): "its channels are the network's outputs",
    }


def test_a_weight_of_another_shape_or_without_a_rule_is_a_barrier():
    layers = [
        layer("InputLayer", "x", batch_input_shape=[None, 3]),
        layer("Dense", "a", ["x"], units=4),
        layer("Dense", "b", ["a"], units=4),
        layer("Dense", "c", ["b"], units=2),
    ]
    scaled = {"kernel": (4, 4), "kernel_scale": (4,)}
    told = found(functional(layers, ["c"]), a=(3, 4), b=scaled, c=(4, 2))
    assert groups_of(told) == []
    assert told.kept["b",] == "it has a weight kernel_scale that is not followed"
    told = found(functional(layers, ["c"]), a=(3, 4), b=(5, 4), c=(4, 2))
    assert groups_of(told) == []
    assert told.kept["b",] == "it reads 5 channels where 4 come in"


def test_a_huge_declared_input_costs_no_memory():
    wide = 1 << 40
    layers = [
        layer("InputLayer", "x", batch_input_shape=[None, 2, wide]),
        layer("Flatten", "f", ["x"]),
        layer("Dense", "a", ["f"], units=4),
        layer("Concatenate", "c", ["x"] * 3, axis=-1),
        layer("Dense", "b", ["a"], units=2),
    ]
    told = found(functional(layers, ["b", "c"]), a=(5, 4), b=(4, 2))
    assert groups_of(told) == [(4, ["a"])]


def test_odd_configurations_are_barriers():
    odd = [
        ("Reshape", {"target_shape": [1 << 70]}),
        ("Reshape", {"target_shape": [-5]}),
        ("Permute", {"dims": ["1"]}),
        ("BatchNormalization", {"axis": [[1]]}),
        ("Softmax", {"axis": 7}),
        ("RepeatVector", {"n": -1}),
        ("Activation", {"activation": ["relu"]}),
        ("ZeroPadding1D", {"padding": {}}),
        ("Conv1D", {"filters": "4"}),
    ]
    for kind, config in odd:
        layers = [
            layer("InputLayer", "x", batch_input_shape=[None, 3]),
            layer("Dense", "a", ["x"], units=4),
            layer(kind, "odd", ["a"], **config),
            layer("Dense", "b", ["odd"], units=2),
        ]
        told = found(functional(layers, ["b"]), a=(3, 4), b=(4, 2))
        assert kind == "RepeatVector" or groups_of(told) == [], kind

"""Multiply-accumulates of whole networks: layers called several times, attentions."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from modelcut.formats import registry
from modelcut.graph import call_counts
from modelcut.graph.architecture import Architecture
from modelcut.graph.keras.layer_shapes import macs
from modelcut.model import cost as model_cost


def tensor(name, call=0):
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, call, 0]}}


def layer(class_name, name, *calls, **config):
    nodes = [{"args": [tensor(*ref) for ref in call], "kwargs": {}} for call in calls]
    return {
        "class_name": class_name,
        "name": name,
        "config": {"name": name, **config},
        "inbound_nodes": nodes,
    }


def model(name, layers, inputs, outputs, *calls):
    config = {
        "name": name,
        "layers": layers,
        "input_layers": [[ref, 0, 0] for ref in inputs],
        "output_layers": [[*ref, 0] for ref in outputs],
    }
    return {**layer("Functional", name, *calls), "config": config}


def calls(root):
    return call_counts.calls(Architecture.parse(json.dumps(root), "3.0.0", "test").root)


def start(name, *shape):
    return layer("InputLayer", name, batch_shape=[None, *shape])


def test_a_layer_counts_as_often_as_it_is_called():
    shared = layer("Conv2D", "c", [("x",)], [("y",)], filters=4, kernel_size=3, padding="same")
    unused = layer("Dense", "unused", [("x",)], units=2)
    layers = [start("x", 8, 8, 2), start("y", 4, 4, 2), shared, unused]
    found = calls(model("m", layers, ["x", "y"], [("c", 0), ("c", 1)]))
    assert found == Counter({(("c",), ((8, 8, 2),)): 1, (("c",), ((4, 4, 2),)): 1})


def test_a_layer_that_feeds_itself():
    dense = layer("Dense", "d", [("x",)], [("d", 0)], [("d", 1)], units=5)
    found = calls(model("m", [start("x", 3), dense], ["x"], [("d", 2)]))
    assert found == Counter({(("d",), ((3,),)): 1, (("d",), ((5,),)): 2})


def test_submodels_of_submodels_count_as_often_as_they_are_called():
    depth = 60
    made = model("m0", [start("x", 4), layer("Dense", "d", [("x",)], units=4)], ["x"], [("d", 0)])
    for level in range(1, depth):
        inner = {
            **made,
            "inbound_nodes": [{"args": [tensor("x")], "kwargs": {}}] * 2,
        }
        both = layer("Add", "add", [(made["name"], 0), (made["name"], 1)])
        made = model(f"m{level}", [start("x", 4), inner, both], ["x"], [("add", 0)])
    found = calls(made)
    assert sum(n for (path, _), n in found.items() if path[-1] == "d") == 2 ** (depth - 1)
    assert len(found) == depth  # the Dense, and an Add a level


def test_too_many_shapes_are_left(monkeypatch):
    monkeypatch.setattr(call_counts, "MAX_KINDS", 1)
    dense = layer("Dense", "d", [("x",)], [("d", 0)], units=5)
    with pytest.raises(call_counts.TooManyError):
        calls(model("m", [start("x", 3), dense], ["x"], [("d", 1)]))


MHA = {"num_heads": 2, "key_dim": 4, "value_dim": 3}
MHA_WEIGHTS = [(5, 2, 4), (2, 4), (5, 2, 4), (2, 4), (5, 2, 3), (2, 3), (2, 3, 6), (6,)]


@pytest.mark.parametrize(
    ("class_name", "config", "weights", "inputs", "expected"),
    [
        # query and output for each of 7, key and value for each of 3; 7 x 3 scores, two products
        (
            "MultiHeadAttention",
            MHA,
            MHA_WEIGHTS,
            [(7, 5), (3, 5)],
            7 * 40 + 3 * 40 + 3 * 30 + 7 * 36 + 7 * 3 * 2 * (4 + 3),
        ),
        ("MultiHeadAttention", MHA, MHA_WEIGHTS, [(7, 5)], 7 * 146 + 49 * 2 * 7),
        ("MultiHeadAttention", MHA, MHA_WEIGHTS, [(None, 5)], None),
        (
            "MultiHeadAttention",
            {**MHA, "attention_axes": [2]},
            MHA_WEIGHTS,
            [(2, 7, 5)],
            14 * 146 + 2 * 49 * 2 * 7,
        ),
        (
            "GroupQueryAttention",
            {"head_dim": 4, "num_query_heads": 6, "num_key_value_heads": 2, "use_bias": False},
            [(5, 6, 4), (5, 2, 4), (5, 2, 4), (6, 4, 5)],
            [(7, 5), (3, 5)],
            7 * 240 + 3 * 80 + 7 * 3 * 6 * 8,
        ),
        ("Attention", {}, [], [(7, 5), (3, 5)], 7 * 3 * 5 * 2),
        ("Attention", {"use_scale": True}, [()], [(7, 5), (3, 4), (3, 5)], 7 * 3 * (5 + 4)),
        ("AdditiveAttention", {}, [(5,)], [(7, 5), (3, 5)], 7 * 3 * 5 * 2),
        ("Attention", {}, [], [(None, 5), (3, 5)], None),
        ("Dot", {"axes": 2}, [], [(7, 5), (3, 5)], 105),
        ("Matmul", {}, [], [(2, 7, 5), (2, 5, 3)], 210),
        ("Matmul", {}, [], [(2, 7, 5), (1, 5, 3)], 210),
        ("Matmul", {}, [], [(7, 5)], None),
        ("Dot", {"axes": [1, 1]}, [], [(5,), (5,)], 5),
    ],
)
def test_products_of_attentions(class_name, config, weights, inputs, expected):
    assert macs(class_name, config, weights, None, inputs[0], inputs[1:]) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_what_keras_writes(library, tmp_path):
    keras = pytest.importorskip(library)
    layers = keras.layers

    def total(inputs, outputs):
        found = set()
        for suffix in (".h5", ".keras") if library == "keras" else (".h5",):
            path = tmp_path / f"m{suffix}"
            keras.Model(inputs, outputs).save(path)
            counts = model_cost.macs(registry.open_model(path))
            assert None not in counts.values()
            found.add(sum(counts.values()))
        (one,) = found
        return one

    x, t = layers.Input((6,)), layers.Input((6,))
    sub = keras.Sequential([layers.Input((6,)), layers.Dense(5), layers.Dense(6)])
    outer = keras.Model(t, layers.Dense(6)(sub(sub(t))))
    assert total(x, outer(outer(x))) == 2 * (2 * 60 + 36)
    q, v = layers.Input((7, 5)), layers.Input((3, 5))
    expected = 7 * 40 + 3 * 40 + 3 * 30 + 7 * 30 + 7 * 3 * 2 * 7
    assert total([q, v], layers.MultiHeadAttention(2, 4, value_dim=3)(q, v)) == expected
    by_name = layers.MultiHeadAttention(2, 4, value_dim=3)(q, key=v, value=v)
    assert total([q, v], by_name) == expected
    assert total([q, v], layers.Attention()([q, v])) == 210
    assert total([q, v], layers.AdditiveAttention()([q, v])) == 210
    assert total([q, v], layers.Dot(axes=2)([q, v])) == 105
    if library == "keras":
        scores = keras.ops.matmul(q, keras.ops.transpose(v, (0, 2, 1)))
        assert total([q, v], keras.ops.matmul(keras.ops.softmax(scores), v)) == 210

"""Factors moved between layers: nothing changes, and ranges are alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toy_runtime import toy_runtime
from toys import dense, toy_model

from modelcut import steps
from modelcut.errors import RecipeError
from modelcut.graph.architecture import Architecture
from modelcut.model.model import Layer, Model, Origin, Source, Tensor
from modelcut.steps.base import Context

CrossLayer = steps.find("equalize", "cross_layer")


def uneven(activation="relu"):
    """Two layers; what makes the channels has ranges of 0.01 to 100."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(6, 8)).astype("float32") * np.geomspace(0.01, 100, 8, dtype="float32")
    second = rng.normal(size=(8, 3)).astype("float32")
    config = {
        "class_name": "Sequential",
        "config": {"name": "toy", "layers": [dense("a", 8, activation=activation), dense("b", 3)]},
    }
    arrays = {
        "a": (first, rng.normal(size=8).astype("float32")),
        "b": (second, np.zeros(3, "float32")),
    }
    return toy_model(arrays, config)


def ranges(model):
    a, b = (model.layers[i].by_role["kernel"].pull()[0] for i in (0, 1))
    return np.abs(a).max(axis=0), np.abs(b).max(axis=1)


@pytest.mark.parametrize("fields", [{}, {"by": "outputs"}, {"balance": 1.0}])
def test_the_outputs_are_the_same_to_the_bit(fields):
    model = uneven()
    runtime = toy_runtime(model)
    outcome = CrossLayer(**fields).apply(model, Context(runtime=runtime))
    rows = runtime._rows
    before, after = (runtime.open(m).predict(rows)[0] for m in (model, outcome.model))
    assert before.tobytes() == after.tobytes()
    assert set(outcome.facts["equalized"]) == {"a"}
    assert outcome.facts["equalized"]["a"]["readers"] == ["b"]
    changed = {tensor.name for tensor in outcome.model.tensors if tensor.edits}
    assert changed == {"a/kernel", "a/bias", "b/kernel"}


def test_ranges_are_alike():
    model = uneven()
    made, read = ranges(model)
    assert made.max() / made.min() > 1000
    after = CrossLayer().apply(model, Context()).model
    made, read = ranges(after)
    ratio = made / read
    assert ratio.max() / ratio.min() <= 4.01, "within a power of two on both sides"


@pytest.mark.parametrize("activation", ["sigmoid", "relu6", "softmax", "elu"])
def test_what_is_not_linear_or_relu_is_left_alone(activation):
    model = uneven(activation)
    outcome = CrossLayer().apply(model, Context())
    assert "is not linear or ReLU" in outcome.skipped["a/kernel"]
    assert not any(tensor.edits for tensor in outcome.model.tensors)


def network(layers, weights, functional=None):
    """A model of these layers: {name: {role: values}}."""
    root = functional or {
        "class_name": "Sequential",
        "config": {"name": "toy", "layers": layers},
    }
    architecture = Architecture.parse(json.dumps(root), "2.4.0", "toy")
    made = []
    for node in architecture.nodes:
        parts = weights.get(node.path[-1], {})
        norm = "gamma" in parts
        tensors = []
        for role, values in parts.items():
            kind = "kernel" if "kernel" in role else "norm" if norm else role
            deep = node.class_name.startswith("Depthwise")
            out = None if kind != "kernel" else values.ndim - (2 if deep else 1)
            source = None if kind != "kernel" or deep else values.ndim - 2
            tensors.append(
                Tensor(f"{node.path[-1]}/{role}", role, kind, values.shape, values.dtype,
                       Source(values.copy), out, source, key=role)
            )  # fmt: skip
        made.append(Layer(node.path, node.class_name, node.config, tuple(tensors), node))
    return Model(tuple(made), architecture, Origin(node.path and __import__("pathlib").Path("t.h5"),
                 "hdf5", "keras2", "Keras 2.4.0"))  # fmt: skip


def test_a_batch_normalization_makes_the_channels_and_a_flatten_repeats_them():
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype("float32")  # noqa: E731
    layers = [
        {"class_name": "Conv2D", "config": {"name": "conv", "filters": 4, "kernel_size": [3, 3],
         "use_bias": False, "batch_input_shape": [None, 6, 6, 2]}},
        {"class_name": "BatchNormalization", "config": {"name": "norm", "axis": [3]}},
        {"class_name": "ReLU", "config": {"name": "relu"}},
        {"class_name": "Flatten", "config": {"name": "flat"}},
        dense("out", 3),
    ]  # fmt: skip
    gain = np.array([0.01, 1, 3, 50], "float32")
    weights = {
        "conv": {"kernel": draw(3, 3, 2, 4)},
        "norm": {"gamma": gain, "beta": draw(4), "moving_mean": draw(4),
                 "moving_variance": np.ones(4, "float32")},
        "out": {"kernel": draw(64, 3), "bias": draw(3)},
    }  # fmt: skip
    model = network(layers, weights)
    outcome = CrossLayer().apply(model, Context())
    after = {t.name: t.pull()[0] for t in outcome.model.tensors if t.edits}
    assert set(after) == {"norm/gamma", "norm/beta", "out/kernel"}
    factors = gain / after["norm/gamma"]
    assert np.log2(factors).tolist() == np.rint(np.log2(factors)).tolist()
    np.testing.assert_array_equal(
        after["out/kernel"], weights["out"]["kernel"] * np.tile(factors, 16)[:, None]
    )
    np.testing.assert_array_equal(after["norm/beta"] * factors, weights["norm"]["beta"])


def test_a_residual_sum_has_one_factor_for_all_that_make_it():
    def layer(name, config, *inbound):
        kind = config.pop("class")
        return {
            "class_name": kind, "name": name, "config": {"name": name, **config},
            "inbound_nodes": [[[each, 0, 0, {}] for each in inbound]] if inbound else [],
        }  # fmt: skip

    layers = [
        layer("in", {"class": "InputLayer", "batch_input_shape": [None, 5]}),
        layer("a", {"class": "Dense", "units": 4}, "in"),
        layer("b", {"class": "Dense", "units": 4}, "a"),
        layer("sum", {"class": "Add"}, "a", "b"),
        layer("out", {"class": "Dense", "units": 2}, "sum"),
    ]
    root = {
        "class_name": "Functional",
        "config": {"name": "toy", "layers": layers, "input_layers": [["in", 0, 0]],
                   "output_layers": [["out", 0, 0]]},
    }  # fmt: skip
    rng = np.random.default_rng(2)
    sizes = {"a": (5, 4), "b": (4, 4), "out": (4, 2)}
    weights = {
        name: {"kernel": rng.normal(size=shape).astype("float32") * [[1.0]],
               "bias": rng.normal(size=shape[1]).astype("float32")}
        for name, shape in sizes.items()
    }  # fmt: skip
    weights["a"]["kernel"] *= np.array([0.01, 1, 10, 100])
    weights = {n: {r: v.astype("float32") for r, v in p.items()} for n, p in weights.items()}
    model = network([], weights, root)
    outcome = CrossLayer().apply(model, Context())
    assert outcome.facts["equalized"].keys() == {"a, b"}
    x = rng.normal(size=(10, 5)).astype("float32")

    def run(values):
        a = x @ values["a/kernel"] + values["a/bias"]
        total = a + (a @ values["b/kernel"] + values["b/bias"])
        return total @ values["out/kernel"] + values["out/bias"]

    before, after = ({t.name: t.pull()[0] for t in m.tensors} for m in (model, outcome.model))
    assert not np.array_equal(before["b/kernel"], after["b/kernel"])
    assert run(before).tobytes() == run(after).tobytes()


def test_a_file_without_an_architecture_is_refused():
    model = uneven()
    bare = Model(model.layers, None, model.origin)
    with pytest.raises(RecipeError, match="follow one another"):
        CrossLayer().apply(bare, Context())

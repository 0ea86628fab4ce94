"""Features that are not what a network's own first layers expect."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toys import toy_model

from modelcut.graph.architecture import Architecture
from modelcut.job.expected import Expected, Seen, expectations


def seen(expected, *batches):
    found = Seen([expected])
    for batch in batches:
        found.look([np.asarray(batch, np.float32)])
    return found.warnings()


BYTES = np.random.default_rng(0).integers(0, 256, (40, 8)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, -1.0])
def test_features_that_are_scaled_twice(offset):
    layer = Expected(0, "rescaling", 1 / 255 if not offset else 1 / 127.5, offset)
    assert seen(layer, BYTES[:20], BYTES[20:]) == []
    (line,) = seen(layer, BYTES / 255)
    assert "scaled twice" in line
    assert "'rescaling'" in line
    assert "0 to 255" in line
    (line,) = seen(layer, BYTES * 257)
    assert "scaled as in training" in line
    assert seen(layer, np.zeros((30, 8))) == []  # nothing can be told of constants


def test_features_unlike_those_that_were_adapted_to():
    rng = np.random.default_rng(1)
    mean, std = rng.uniform(50, 200, 8), rng.uniform(5, 20, 8)
    layer = Expected(0, "norm", mean=mean, variance=std**2, axes=(-1,))
    like = rng.normal(mean, std, (100, 8))
    assert seen(layer, like[:50], like[50:]) == []
    (line,) = seen(layer, like / 255)
    assert "7 of 8 features are on average more than 5 standard deviations" in line
    assert seen(layer, like[:, ::-1])  # columns in another order
    (line,) = seen(Expected(0, "norm", mean=mean * 0, variance=std**2, axes=(-1,)), like * 1e-4)
    assert "hardly vary" in line
    assert seen(layer, like[:5] / 255) == []  # too few to tell


def functional(*entries, feeds):
    layers = [
        {"class_name": "InputLayer", "name": "in", "inbound_nodes": [],
         "config": {"name": "in", "batch_input_shape": [None, 4, 4, 3]}}
    ]  # fmt: skip
    for (kind, config), source in zip(entries, feeds, strict=True):
        name = kind.lower()
        layers.append(
            {"class_name": kind, "name": name, "config": {"name": name, **config},
             "inbound_nodes": [[[source, 0, 0, {}]]]}
        )  # fmt: skip
    return {
        "class_name": "Functional",
        "config": {
            "name": "m", "layers": layers, "input_layers": [["in", 0, 0]],
            "output_layers": [[layers[-1]["name"], 0, 0]],
        },
    }  # fmt: skip


def model_of(root, weights=None):
    from dataclasses import replace

    made = toy_model(weights or {"dense": (np.ones((2, 2), "float32"), None)})
    text = json.dumps(root)
    return replace(made, architecture=Architecture.parse(text, "2.15.0", "m"))


def test_layers_at_the_input_are_found_through_those_that_keep_values():
    rescaling = ("Rescaling", {"scale": 1 / 255, "offset": 0.0})
    root = functional(
        ("RandomFlip", {}), rescaling, ("Flatten", {}), feeds=("in", "randomflip", "rescaling")
    )
    (found,) = expectations(model_of(root))
    assert (found.index, found.layer, found.scale) == (0, "rescaling", 1 / 255)
    behind = functional(("Dense", {"units": 3}), rescaling, feeds=("in", "dense"))
    assert expectations(model_of(behind)) == []


def test_a_layer_in_a_submodel_and_one_that_says_its_mean():
    inner = functional(("Normalization", {"mean": [1, 2, 3], "variance": [4, 4, 4], "axis": -1}),
                       feeds=("in",))  # fmt: skip
    entry = {"class_name": "Functional", "name": "base", "config": inner["config"],
             "inbound_nodes": [[["in", 0, 0, {}]]]}  # fmt: skip
    outer = functional(feeds=())
    outer["config"]["layers"].append(entry)
    outer["config"]["output_layers"] = [["base", 0, 0]]
    (found,) = expectations(model_of(outer))
    assert found.layer == "base/normalization"
    assert found.mean.tolist() == [1, 2, 3]
    assert found.axes == (-1,)


def test_odd_configurations_are_left_alone():
    for config in ({"scale": "x"}, {"scale": [1, 2]}, {"scale": 0}, {}):
        root = functional(("Rescaling", config), feeds=("in",))
        assert expectations(model_of(root)) == []
    for config in ({"mean": "x", "variance": 1}, {"mean": [1, 2], "variance": [1]}):
        root = functional(("Normalization", config), feeds=("in",))
        assert expectations(model_of(root)) == []
    assert expectations(toy_model({"a": (np.ones((2, 2), "float32"), None)})) == []

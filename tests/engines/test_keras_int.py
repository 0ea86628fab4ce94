"""Keras opens what modelcut wrote as its own integer layers, and has what it would have made."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from keras.quantizers import Int4QuantizationConfig

import modelcut

ROWS = np.random.default_rng(0).integers(0, 20, (16, 7))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    keras.utils.set_random_seed(0)
    given = keras.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(20, 9, name="table")(given)
    x = layers.EinsumDense("abc,cde->abde", (7, 3, 5), bias_axes="e", name="split")(x)
    x = layers.EinsumDense("abde,def->abf", (7, 6), bias_axes="f", name="join")(x)
    x = layers.EinsumDense("abx,xy->aby", (7, 11), name="wide")(x)
    x = layers.Flatten()(layers.Conv1D(4, 3, name="conv")(x))
    x = layers.Dense(150, activation="relu", name="big")(x)
    x = layers.Dense(5, use_bias=False, name="narrow")(x)
    model = keras.Model(given, layers.Dense(3, activation="softmax", name="out")(x))
    path = tmp_path_factory.mktemp("network") / "network.keras"
    model.save(path)
    return path


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({}, "int8"),
        ({"bits": 4, "block": "none"}, Int4QuantizationConfig(block_size=-1)),
        ({"bits": 4}, "int4"),
    ],
)
def test_as_keras_quantizes_it(fields, config, network, tmp_path):
    small, back = tmp_path / "small.keras", tmp_path / "back.h5"
    modelcut.quantize(network, small, method="keras_int", **fields)
    found, theirs = (keras.models.load_model(path) for path in (small, network))
    theirs.quantize(config) if isinstance(config, str) else theirs.quantize(config=config)
    # Of several contracted axes modelcut cuts no blocks: such a layer has a scale for each output.
    skipped = "join" if fields == {"bits": 4} else ""
    for layer in found.layers:
        if layer.name != skipped:
            same(layer, theirs.get_layer(layer.name))
    wanted = outputs_of(theirs)
    if not skipped:
        np.testing.assert_allclose(outputs_of(found), wanted, rtol=1e-4, atol=1e-6)
    # And back, of modelcut's file and of Keras' own.
    theirs.save(tmp_path / "theirs.keras")
    for path, model in ((small, found), (tmp_path / "theirs.keras", theirs)):
        modelcut.quantize(path, back, method="keras_int", bits="float", force=True)
        again = keras.models.load_model(back)
        assert again.get_layer("big").kernel.dtype == "float32"
        # int8 layers round what goes in, too.
        near = {"atol": 0.02} if not fields else {"rtol": 1e-4, "atol": 1e-6}
        if path is small or not skipped:
            expected = outputs_of(model)
            np.testing.assert_allclose(outputs_of(again), expected, **near)


def outputs_of(model):
    return np.asarray(model(ROWS))  # without the tracing that `predict` does


def same(layer, other):
    """The same variables, up to a code where a weight lies half-way between two."""
    assert layer.dtype_policy == other.dtype_policy
    for mine, its in zip(layer.weights, other.weights, strict=True):
        assert (mine.shape, mine.dtype) == (its.shape, its.dtype), mine.path
        a, b = np.asarray(mine), np.asarray(its)
        if a.dtype == np.float32:
            np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=mine.path)
        else:
            assert np.mean(a != b) < 0.002, mine.path


def test_codes_of_calibrated_weights_are_those_that_are_computed_with(network, tmp_path):
    """Linear weights of 4 bits, in both integer forms, give the outputs of their floats."""
    plain, small = tmp_path / "plain.keras", tmp_path / "small.keras"
    linear = {"quantize": "linear", "bits": 4, "range": "mse"}
    modelcut.run({"steps": [linear]}, network, plain)
    ints = {"quantize": "keras_int", "bits": 4, "exclude": ["table"]}
    modelcut.run({"steps": [linear, ints]}, network, small)
    outputs = [outputs_of(keras.models.load_model(path)) for path in (plain, small)]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
    assert small.stat().st_size < network.stat().st_size


def test_an_embedding_is_rounded_once(network, tmp_path, modelcut):
    found = []
    for call in (
        ("quantize", network, "--method", "keras_int", "--bits", 4, "-o", tmp_path / "once.keras"),
        ("quantize", network, "--bits", 4, "--keras-int", 4, "-o", tmp_path / "after.keras"),
    ):
        said = modelcut(*call)
        assert said.code == 0, said
        table = keras.models.load_model(call[-1]).get_layer("table")
        found.append(table.get_weights())
    for once, after in zip(*found, strict=True):
        np.testing.assert_array_equal(once, after)


def test_an_embedding_that_is_rounded_twice_is_told(network, tmp_path):
    steps = [{"quantize": "linear", "bits": 4}, {"quantize": "keras_int", "bits": 4}]
    report = modelcut.run({"steps": steps}, network, tmp_path / "twice.keras", dry_run=True)
    assert [text for text in report.warnings if "table" in text and "rounded twice" in text]
    steps[0]["exclude"] = ["role:embedding?"]
    report = modelcut.run({"steps": steps}, network, tmp_path / "once.keras", dry_run=True)
    assert not [text for text in report.warnings if "rounded twice" in text]

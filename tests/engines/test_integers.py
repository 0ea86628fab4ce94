"""Simulated integers: where values are rounded, as LiteRT rounds them, and trained for."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import modelcut
from modelcut import steps
from modelcut.data import DataOptions
from modelcut.engines.keras import integers
from modelcut.engines.keras.network import KerasNetwork
from modelcut.engines.litert.network import LiteRTNetwork
from modelcut.errors import InputError, UsageError
from modelcut.formats import registry
from modelcut.job import simulated
from modelcut.steps.base import Context

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(240, 64)).round(2).astype("float32")
IMAGES = ROWS.reshape(-1, 8, 8, 1)


def residual(library):
    """Folded and loose normalizations, a submodel, a sum, a pool, an SE gate, two outputs."""
    layers = library.layers
    inner = library.Sequential(
        [library.Input((6, 6, 4)), layers.Conv2D(4, 1, name="inner"), layers.ReLU(6.0)], name="sub"
    )
    given = library.Input((8, 8, 1), name="given")
    x = layers.Conv2D(4, 3, use_bias=False, name="first")(given)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="folded")(x))
    y = layers.Add(name="sum")([x, inner(x)])
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(y)
    y = layers.Multiply(name="gated")(
        [y, layers.Conv2D(4, 1, activation="sigmoid", name="gate")(gate)]
    )
    y = layers.MaxPooling2D(name="pool")(layers.BatchNormalization(name="loose")(y))
    y = layers.Flatten(name="flat")(y)
    one = layers.Dense(3, activation="softmax", name="classes")(y)
    two = layers.Dense(1, name="number")(layers.Dense(5, activation="swish", name="swish")(y))
    return library.Model(given, [one, two])


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_values_are_rounded_once_where_litert_rounds_them(library):
    library.utils.set_random_seed(0)
    network = KerasNetwork(residual(library), "", None, library)
    rows = {network.inputs[0].name: IMAGES}
    plain = network.predict(rows)
    found = integers.simulate(
        network, 8, [[tf.constant(IMAGES[:100])], [tf.constant(IMAGES[100:])]]
    )
    assert set(found.ranges()) == {
        "first:0",  # the input; then, with normalization and ReLU, what the convolution gives
        "sub/inner:0",
        "sum:0 2",  # the other one has been rounded for `inner`
        "mean:0",
        "gate:0",
        "gate:0 activation",  # what the sigmoid gives has a range of its own
        "loose:0",
        "pool:0",
        "classes:0 activation",
        "swish:0 activation",
        "number:0",
        "output 1",
    }
    assert list(found.inside) == ["loose"]  # a normalization that is not folded is two operators
    assert found.ranges()["first:0"] == (float(IMAGES.min()), float(IMAGES.max()))
    rounded = network.predict(rows)
    assert set(np.unique(rounded[0] * 256 % 1)) == {0}
    low, high = found.ranges()["output 1"]
    steps_up = rounded[1] * 255 / (high - low)
    np.testing.assert_allclose(steps_up, np.rint(steps_up), atol=1e-3)
    for one, other in zip(plain, rounded, strict=True):
        assert 0 < np.abs(one - other).max() < 0.1 * np.ptp(one) + 0.02


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, given):
            return given

    own = Own()
    own.build((None, 4))
    network = KerasNetwork(own, "", None, keras)
    with pytest.raises(InputError, match="subclassed"):
        integers.simulate(network, 8, [[tf.zeros((1, 4))]])


def test_a_normalization_is_folded_without_changing_a_code():
    kernel = RNG.normal(size=(3, 3, 2, 5)).astype("float32")
    factor = RNG.normal(size=5).astype("float32")
    rounded = integers.kernel_on_levels(tf.constant(kernel), -1).numpy()
    folded = integers.kernel_on_levels(tf.constant(kernel * factor), -1).numpy()
    np.testing.assert_allclose(folded, rounded * factor, rtol=1e-5, atol=1e-7)
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    codes = rounded / scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert np.abs(rounded - kernel).max() <= 0.5001 * scale.max()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Rows, and a network that loses much in few bits: outputs of one layer are far apart."""
    folder = tmp_path_factory.mktemp("integers")
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Reshape((8, 8, 1), name="shape"),
            layers.Conv2D(6, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dropout(0.1, name="noise"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", name="last"),
        ]
    )
    labels = (ROWS @ RNG.normal(size=(64, 3))).argmax(axis=1)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(ROWS, labels, epochs=4, verbose=0)
    norm = model.get_layer("norm")
    gamma, beta, mean, variance = norm.get_weights()
    # One channel of six that is a hundred times as large, and that the next layer reads so.
    spread = np.array([60, 1, 1, 1, 1, 1], "float32")
    norm.set_weights([gamma * spread, beta * spread, mean, variance])
    last = model.get_layer("last")
    kernel, bias = last.get_weights()
    last.set_weights([kernel / np.tile(spread, 36)[:, None], bias])
    model.save(folder / "model.keras")
    table = np.column_stack([ROWS, labels])
    np.savetxt(folder / "rows.csv", table, fmt="%g", delimiter=",")
    return folder


def measured(work, path, **more):
    report = modelcut.evaluate(path, work / "rows.csv", data={"header": False}, **more)
    return report.evaluation


def test_training_wins_back_what_few_bits_lose(work, tmp_path):
    model = registry.open_model(work / "model.keras")
    before = measured(work, work / "model.keras", activations=4, calibrate=work / "rows.csv")
    assert before.simulated["change"]["accuracy_drop"] > 0.05
    out = tmp_path / "out.keras"
    report = modelcut.finetune(
        work / "model.keras",
        out,
        train=work / "rows.csv",
        test=work / "rows.csv",
        epochs=8,
        batch_size=20,
        learning_rate=0.003,
        activations={"bits": 4},
        data={"header": False},
    )
    found = report.evaluation.simulated
    assert found["activation_bits"] == 4
    assert found["metrics"]["accuracy"] > before.simulated["metrics"]["accuracy"] + 0.04
    assert "4 bits (simulated)" in found["engine"]
    ranges = report.steps[0].facts["activations"]["ranges"]
    assert list(ranges) == ["shape:0", "noise:0", "last:0 activation"]
    # No layer is new in the file, and its kernels are floats.
    again = registry.open_model(out)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    kernel = next(t for t in again.tensors if t.name == "conv/kernel").pull()[0]
    assert not np.array_equal(integers.kernel_on_levels(tf.constant(kernel), -1).numpy(), kernel)
    json.dumps(report.to_dict())


def test_kernels_on_a_grid_stay_on_it_and_the_others_get_8_bits(work):
    model = registry.open_model(work / "model.keras")
    grid = steps.find("quantize", "linear")(bits=4, include=["last"])
    model = grid.apply(model, Context()).model
    found = {t.name: t.pull() for t in simulated.in_integers(model).tensors}
    before = {t.name: t.pull() for t in model.tensors}
    assert found["last/kernel"][1].label == "int4"
    np.testing.assert_array_equal(found["last/kernel"][0], before["last/kernel"][0])
    kernel = before["conv/kernel"][0]
    wanted = integers.kernel_on_levels(tf.constant(kernel), -1).numpy()
    np.testing.assert_allclose(found["conv/kernel"][0], wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found["norm/gamma"][0], before["norm/gamma"][0])


def test_what_cannot_be_simulated_is_refused(work):
    model, rows = work / "model.keras", work / "rows.csv"
    with pytest.raises(UsageError, match="needs samples"):
        modelcut.evaluate(model, rows, activations=8)
    with pytest.raises(UsageError, match="4 to 8 bits"):
        modelcut.evaluate(model, rows, activations=3, calibrate=rows)
    with pytest.raises(UsageError, match="is for --activations"):
        modelcut.evaluate(model, rows, calibrate=rows)


@pytest.mark.slow
def test_the_simulation_errs_as_much_as_an_export(tmp_path, command_line):
    demo = Path(modelcut.__file__).parent / "demo"
    model, rows = demo / "digits.h5", demo / "digits_train.csv"
    out = tmp_path / "digits.tflite"
    said = command_line(
        "export", model, "-o", out, "--type", "int8", "--samples", 256,
        "--calibrate", rows, "--scale", "1/16", "--no-report",
    )  # fmt: skip
    assert said.code == 0, said.err
    table = np.loadtxt(demo / "digits_test.csv", delimiter=",", skiprows=1)[:, :-1]
    images = (table / 16).astype("float32")
    read = registry.open_model(model)
    loaded = keras.models.load_model(model, compile=False)
    images = images.reshape(-1, *loaded.inputs[0].shape[1:])
    lite = LiteRTNetwork(out)
    theirs = lite.predict({lite.inputs[0].name: images})[0]
    name = KerasNetwork(loaded, "", None, keras).inputs[0].name
    plain = KerasNetwork(loaded, "", None, keras).predict({name: images})[0]
    found = simulated.Simulation(read, 8, rows)
    options = DataOptions(scale=1 / 16)
    network = KerasNetwork(loaded, "", None, keras)
    rounding = found.rounding(options, network.inputs)
    for tensor in simulated.in_integers(read).tensors:
        if tensor.kind == "kernel":
            layer, _, role = tensor.name.rpartition("/")
            getattr(loaded.get_layer(layer), role).assign(tensor.pull()[0])
    integers.simulate(network, 8, [[tf.constant(part) for part in rounding.samples]])
    mine = network.predict({name: images})[0]
    ratio = np.square(mine - plain).mean() / np.square(theirs - plain).mean()
    assert 1 / 3 < ratio < 3

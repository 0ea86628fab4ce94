"""Dead weights go, and the network gives what it gave."""

from __future__ import annotations

import numpy as np
import pytest
from toy_engine import ToyNetwork
from toys import toy_model

from modelcut import formats, steps
from modelcut.engines import open_network
from modelcut.errors import RecipeError
from modelcut.graph import links
from modelcut.step import Context


def dead(model, **fields):
    return steps.find("prune", "dead")(**fields).apply(model, Context())


def values(model):
    return {tensor.name: tensor.pull()[0] for tensor in model.tensors}


def holes(rng, shape, share):
    return (rng.normal(size=shape) * (rng.random(shape) > share)).astype("float32")


@pytest.fixture
def by_hand():
    """Two hidden layers: unit 0 of `one` is constant, unit 1 unread; `two` has one that ripples."""
    one = np.array([[0, 1, 2, 3], [0, 4, 5, 6]], "float32")
    two = np.array([[1, 2, 0], [0, 0, 0], [0, 0, 7], [3, 0, 0]], "float32")
    three = np.array([[1, -1], [2, 2], [0, 0]], "float32")
    return toy_model(
        {
            "one": (one, np.array([0.5, 1, 1, 1], "float32")),
            "two": (two, np.array([0.25, -1, 1], "float32")),
            "three": (three, np.zeros(2, "float32")),
        }
    )


def test_an_example_worked_by_hand(by_hand):
    outcome = dead(by_hand)
    found = values(outcome.model)
    # Unit 0 of `one` gives 0.5, its weights 1 and 2 go into the biases of `two`; unit 1 of `two` is
    # then constant as well, relu(-1 + 2 · 0.5) = 0, and unit 2 of `two` is read by nobody, so that
    # unit 2 of `one` is not, either.
    np.testing.assert_array_equal(found["one/kernel"], [[0, 0, 0, 3], [0, 0, 0, 6]])
    np.testing.assert_array_equal(found["one/bias"], [0, 0, 0, 1])
    np.testing.assert_array_equal(found["two/kernel"], [[0] * 3, [0] * 3, [0] * 3, [3, 0, 0]])
    np.testing.assert_array_equal(found["two/bias"], [0.75, 0, 0])
    np.testing.assert_array_equal(found["three/kernel"], [[1, -1], [0, 0], [0, 0]])
    assert outcome.facts["constant_units"] == {"one": 1, "two": 1}
    assert outcome.facts["unread_units"] == {"one": 3, "two": 2}
    again = dead(outcome.model)
    assert again.facts.keys() <= {"barriers"}
    for name, part in values(again.model).items():
        np.testing.assert_array_equal(part, found[name])


def test_outputs_stay(by_hand):
    rng = np.random.default_rng(0)
    deep = toy_model(
        {
            name: (holes(rng, (m, n), 0.9), rng.normal(size=n).astype("float32"))
            for name, m, n in (("a", 20, 16), ("b", 16, 12), ("c", 12, 9), ("d", 9, 3))
        }
    )
    for model, width in ((by_hand, 2), (deep, 20)):
        x = rng.normal(size=(50, width)).astype("float32")
        after = dead(model).model
        np.testing.assert_allclose(
            ToyNetwork(after).forward(x), ToyNetwork(model).forward(x), atol=1e-6
        )
        fewer = sum(np.count_nonzero(v) for v in values(after).values())
        assert fewer < sum(np.count_nonzero(v) for v in values(model).values())


def test_restrictions_hold_and_biases_that_are_shared_take_nothing_up(by_hand):
    quantized = by_hand
    for step in (
        steps.find("quantize", "huffman")(bits=3),
        steps.find("quantize", "huffman")(values=3, include=["role:bias"]),
    ):
        quantized = step.apply(quantized, Context()).model
    outcome = dead(quantized)
    for tensor in outcome.model.tensors:
        part, encoding = tensor.pull()
        assert encoding.kinds == tensor.kinds
        np.testing.assert_array_equal(encoding.project(part), part)
    found, before = values(outcome.model), values(quantized)
    assert found["two/kernel"][0].any()  # 0.5 has nowhere to go
    assert set(found["two/bias"].tolist()) <= {*before["two/bias"].tolist(), 0.0}
    x = np.random.default_rng(1).normal(size=(50, 2)).astype("float32")
    np.testing.assert_array_equal(
        ToyNetwork(outcome.model).forward(x), ToyNetwork(quantized).forward(x)
    )


def test_what_is_excluded_stays(by_hand):
    outcome = dead(by_hand, exclude=["two"])
    found, before = values(outcome.model), values(by_hand)
    for role in ("kernel", "bias"):
        np.testing.assert_array_equal(found[f"two/{role}"], before[f"two/{role}"])
    assert outcome.skipped["two/kernel"] == "excluded by 'two'"
    assert not found["one/kernel"][:, 1].any()


def convolutional(path, padding):
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, padding=padding, activation="relu", name="first"),
            layers.MaxPooling2D(),
            layers.Conv2D(10, 3, padding=padding, name="second"),
            layers.BatchNormalization(),
            layers.Activation("tanh"),
            layers.AveragePooling2D(2, padding=padding),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(30, activation="sigmoid"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            holes(rng, w.shape, 0.93) if w.ndim > 1 else rng.random(w.shape) + 0.5
            for w in model.get_weights()
        ]
    )
    model.layers[0].kernel.assign(model.layers[0].kernel * (np.arange(8) > 2))
    model.save(path)
    return model


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_convolutions_through_pooling_and_flatten(tmp_path, padding):
    path = tmp_path / "cnn.keras"
    convolutional(path, padding)
    opened = formats.open_model(path)
    outcome = dead(opened)
    x = np.random.default_rng(0).normal(size=(20, 12, 12, 1)).astype("float32")
    given = []
    for model in (opened, outcome.model):
        with formats.scratch_file(model, formats.WriteOptions()) as (scratch, writer):
            network = open_network(scratch, "keras3", suffix=formats.engine_suffix(writer))
        given.append(network.predict({network.inputs[0].name: x})[0])
    np.testing.assert_allclose(*given, atol=1e-6)
    found, before = values(outcome.model), values(opened)
    # A constant that reaches a convolution padded with zeros is none at its borders.
    folded = not found["second/kernel"][:, :, :3].any()
    assert before["second/kernel"][:, :, :3].any()
    assert folded == (padding == "valid")
    assert sum(map(np.count_nonzero, found.values())) < sum(map(np.count_nonzero, before.values()))
    assert outcome.facts["unread_units"]


def test_what_is_not_known_is_a_barrier(tmp_path):
    import keras

    layers = keras.layers
    start = keras.Input((6,))
    a = layers.Dense(5, name="read_twice")(start)
    b = layers.Dense(5, name="merged")(a)
    c = layers.Add()([a, b])
    d = layers.Dense(5, activation="softmax", name="mixes")(c)
    e = layers.Dense(5, name="before_norm")(d)
    f = layers.LayerNormalization()(e)
    g = layers.Dense(5, name="free")(f)
    keras.Model(start, layers.Dense(3, name="last")(g)).save(tmp_path / "m.keras")
    model = formats.open_model(tmp_path / "m.keras")
    found, barriers = links(model)
    assert [(link.before.name, link.after.name) for link in found] == [("free", "last")]
    assert "read by several" in barriers["read_twice"]
    assert "merged" in barriers["merged"]
    assert "activation mixes channels" in barriers["mixes"]
    assert "LayerNormalization" in barriers["before_norm"]
    assert "the model's" in barriers["last"]


def test_bare_weights_are_refused(by_hand):
    from dataclasses import replace

    with pytest.raises(RecipeError, match="holds no architecture"):
        dead(replace(by_hand, architecture=None))

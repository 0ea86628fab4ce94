"""`prune: dead`: what goes, what must stay, and that the network computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from toys import MODELS, toy_model

from modelcut import steps
from modelcut.errors import RecipeError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.recipe.recipe import parse
from modelcut.recipe.yaml_text import loads
from modelcut.steps.base import Context

Dead, Magnitude = (steps.find("prune", name) for name in ("dead", "magnitude"))


def cut(model, **settings):
    """The outcome, and the values after it by name."""
    outcome = Dead(**settings).apply(model, Context())
    return outcome, {tensor.name: tensor.pull()[0] for tensor in outcome.model.tensors}


def network(*layers):
    """Dense layers with ReLU, the last without: kernels and biases."""
    arrays = {
        f"d{i}": tuple(np.asarray(a, "float32") for a in pair) for i, pair in enumerate(layers)
    }
    return toy_model(arrays)


def test_a_unit_that_nothing_reads_goes_and_what_only_it_read():
    model = network(
        ([[1, 2], [3, 4]], [5, 6]),
        ([[1, 0], [0, 7]], [8, 9]),  # the second unit is all that reads the second input
        ([[1], [0]], [2]),  # which the output does not read
    )
    outcome, found = cut(model)
    np.testing.assert_array_equal(found["d0/kernel"], [[1, 0], [3, 0]])
    np.testing.assert_array_equal(found["d0/bias"], [5, 0])
    np.testing.assert_array_equal(found["d1/kernel"], [[1, 0], [0, 0]])
    np.testing.assert_array_equal(found["d1/bias"], [8, 0])
    np.testing.assert_array_equal(found["d2/kernel"], [[1], [0]])
    assert outcome.facts["layers"] == {
        "d0": {"units": 2, "not read": 1, "silent": 0},
        "d1": {"units": 2, "not read": 1, "silent": 0},
    }
    assert outcome.skipped["d2/kernel"] == "nothing of it is dead"
    assert outcome.warnings == ()


def test_a_unit_that_gives_zero_goes_and_one_that_gives_a_constant_stays():
    model = network(
        ([[0, 0, 1], [0, 0, 1]], [-1, 2, 3]),
        ([[5, 0], [6, 1], [0, 1]], [0, 1]),
        ([[1], [1]], [2]),
    )
    _, found = cut(model)
    np.testing.assert_array_equal(found["d0/bias"], [0, 2, 3])
    np.testing.assert_array_equal(found["d1/kernel"], [[0, 0], [6, 1], [0, 1]])


def test_silence_spreads():
    model = network(
        ([[0, 1], [0, 1]], [0, 1]),
        ([[4, 0], [0, 1]], [-1, 1]),  # the first unit hears only what is silent
        ([[3], [1]], [2]),
    )
    _, found = cut(model)
    np.testing.assert_array_equal(found["d1/kernel"], [[0, 0], [0, 1]])
    np.testing.assert_array_equal(found["d1/bias"], [0, 1])
    np.testing.assert_array_equal(found["d2/kernel"], [[0], [1]])


def test_what_is_not_aimed_at_stays():
    model = network(([[1, 2], [3, 4]], [5, 6]), ([[1], [0]], [2]))
    _, found = cut(model, exclude=["role:bias"])
    np.testing.assert_array_equal(found["d0/kernel"], [[1, 0], [3, 0]])
    np.testing.assert_array_equal(found["d0/bias"], [5, 6])


def test_a_network_without_dead_units_is_left_alone(toy):
    outcome, _ = cut(toy)
    assert all(outcome.skipped.values())
    assert not outcome.facts["layers"]
    assert all(not tensor.edits for tensor in outcome.model.tensors)


def test_bare_weights_are_refused():
    model = registry.open_model(MODELS / "keras3_cnn.weights.h5")
    with pytest.raises(RecipeError, match="weights only, and no architecture"):
        Dead().apply(model, Context())


def test_encodings_hold(toy):
    recipe = [
        {"prune": "magnitude", "sparsity": 0.95},
        {"quantize": "cluster", "bits": 2},
        {"prune": "dead"},
    ]
    model = toy
    for index, step in enumerate(parse(loads(yaml.safe_dump({"steps": recipe}), "r")).steps):
        model = step.apply(model, Context(index)).model
    changed = 0
    for tensor in model.tensors:
        values, encoding = tensor.pull()
        assert encoding.kinds == tensor.kinds
        np.testing.assert_array_equal(encoding.project(values), values)
        changed += sum(edit.step == 2 for edit in tensor.edits)
    assert changed


def test_kernels_that_do_not_fit_together_are_left_alone():
    model = network(([[1, 2], [3, 4]], [5, 6]), ([[1], [0], [0]], [2]))
    outcome, _ = cut(model)
    assert all(outcome.skipped.values())
    assert not outcome.facts["layers"]


def lenet(k):
    return k.Sequential(
        [
            k.Input((12, 12, 2)),
            k.layers.Conv2D(7, 3, activation="relu", padding="same"),
            k.layers.MaxPooling2D(),
            k.layers.Conv2D(6, 3, activation="relu"),
            k.layers.Dropout(0.5),
            k.layers.AveragePooling2D(2),
            k.layers.Flatten(),
            k.layers.Dense(20, activation="relu"),
            k.layers.Dense(4, activation="softmax"),
        ]
    )


def normalized(k):
    x = k.Input((9, 3))
    y = k.layers.Conv1D(8, 3, use_bias=False)(x)
    y = k.layers.BatchNormalization(beta_initializer="ones")(y)
    y = k.layers.ReLU()(y)
    y = k.layers.Conv1D(8, 2)(y)
    y = k.layers.ReLU(threshold=0.5, negative_slope=0.3)(y)  # does not keep zeros
    y = k.layers.Conv1D(8, 2, activation="tanh")(y)
    y = k.layers.GlobalMaxPooling1D()(y)
    return k.Model(x, k.layers.Dense(3)(y))


def joined(k):
    x = k.Input((6,))
    a = k.layers.Dense(9, activation="relu")(x)
    b = k.layers.Dense(9, activation="relu")(a)
    c = k.layers.Dense(5, activation="gelu")(k.layers.Add()([a, b]))
    d = k.layers.Dense(5, activation="softmax")(a)  # mixes its channels
    e = k.layers.Concatenate()([c, k.layers.Dense(8, activation="relu")(d)])
    return k.Model(x, [k.layers.Dense(2)(e), c])


def called_twice(k):
    x, y = k.Input((6,)), k.Input((6,))
    shared = k.layers.Dense(6, activation="relu", name="shared")
    first = k.layers.Dense(6, activation="relu")(x)
    drop = k.layers.Dropout(0.3)
    ends = [shared(drop(first)), shared(drop(y))]
    out = [k.layers.Dense(3)(k.layers.Activation("relu")(end)) for end in ends]
    return k.Model([x, y], out)


def inside(k):
    inner = k.Input((5,))
    h = k.layers.Dense(7, activation="relu")(inner)
    encoder = k.Model(inner, k.layers.Dense(6, activation="relu")(h), name="encoder")
    x = k.Input((5,))
    h = k.layers.Dense(7, activation="relu")(encoder(k.layers.Dense(5)(x)))
    return k.Model(x, k.layers.Dense(2)(h))


@pytest.mark.parametrize("make", [lenet, normalized, joined, called_twice, inside])
def test_the_network_computes_the_same(make, tmp_path):
    import keras

    keras.utils.set_random_seed(3)
    model = make(keras)
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:  # biases of both signs
        if len(weight.shape) == 1:
            weight.assign(weight + rng.normal(0, 0.3, weight.shape))
    model.save(tmp_path / "m.keras")
    rows = [rng.normal(size=(16, *x.shape[1:])).astype("float32") for x in model.inputs]
    given = rows if len(rows) > 1 else rows[0]
    gone = 0
    for sparsity in (0.8, 0.9, 0.97):
        opened = registry.open_model(tmp_path / "m.keras")
        pruned = Magnitude(sparsity=sparsity, scope="global").apply(opened, Context()).model
        outcome = Dead().apply(pruned, Context(1))
        for name, one in (("pruned", pruned), ("dead", outcome.model)):
            path = tmp_path / f"{name}.keras"
            registry.for_output(path, one).write(one, path, WriteOptions())
        gone += sum(int((t.pull()[0] != 0).sum()) for t in pruned.tensors)
        gone -= sum(int((t.pull()[0] != 0).sum()) for t in outcome.model.tensors)
        found = [
            np.concatenate(
                [np.ravel(o) for o in keras.tree.flatten(keras.saving.load_model(p)(given))]
            )
            for p in (tmp_path / "pruned.keras", tmp_path / "dead.keras")
        ]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert gone

"""A user's own classes: trusted where the user's file defines them, in files that Keras wrote."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from toys import dense, keras_archive

import modelcut as api
from modelcut import engines
from modelcut.engines.keras import variables
from modelcut.errors import InputError, UnsafeError
from modelcut.graph import scan

OWN = """
import subprocess
import keras
from subprocess import Popen, run
from keras.layers import Dense

class Gate(keras.layers.Layer):
    def __init__(self, n, **more):
        super().__init__(**more)
        self.n = n
        self.value = keras.layers.Dense(n)
        self.gate = keras.layers.Dense(n, activation="sigmoid")

    def build(self, shape):
        self.value.build(shape)
        self.gate.build(shape)
        self.built = True

    def call(self, x):
        return self.value(x) * self.gate(x)

    def get_config(self):
        return {**super().get_config(), "n": self.n}

@keras.saving.register_keras_serializable(package="mine")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(name="k", shape=(shape[-1], shape[-1]))
        self.offset = self.add_weight(name="o", shape=(shape[-1],))

    def call(self, x):
        return x @ self.kernel + self.offset

@keras.saving.register_keras_serializable(package="mine")
def bent(x):
    return x * keras.ops.sigmoid(1.5 * x)

class Net(keras.Model):
    def __init__(self, n=1, **more):
        super().__init__(**more)
        self.n = n
        self.first = keras.layers.Dense(8, activation="relu")
        self.gate = Gate(8)
        self.last = keras.layers.Dense(n)

    def call(self, x):
        return self.last(self.gate(self.first(x)))

    def get_config(self):
        return {**super().get_config(), "n": self.n}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files that Keras wrote of the user's own classes, the user's module, and rows."""
    folder = tmp_path_factory.mktemp("own")
    module = folder / "own_layers.py"
    module.write_text(OWN)
    own = engines.load_custom_objects(str(module))
    keras = engines.imported("keras")
    keras.utils.set_random_seed(3)
    layers = keras.layers

    def save(name, *middle):
        start = keras.Input((8,))
        x = start
        for layer in middle:
            x = layer(x)
        keras.Model(start, layers.Dense(1)(x)).save(folder / f"{name}.keras")

    with engines.quiet():
        save("gate", own["Gate"](8))
        save("scale", own["Scale"](), layers.Dense(4, activation=own["bent"]))
        net = own["Net"]()
        net(np.zeros((2, 8), "float32"))
        net.save(folder / "net.keras")
        words = np.array([["a red cat"], ["a blue dog"]])
        text = layers.TextVectorization(output_sequence_length=4)
        text.adapt(words)
        start = keras.Input((1,), dtype="string")
        x = layers.Flatten()(layers.Embedding(9, 4)(text(start)))
        keras.Model(start, layers.Dense(1)(x)).save(folder / "text.keras")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 9)).round(3)
    head = ",".join([*"abcdefgh", "label"])
    lines = [head, *(",".join(map(str, row)) for row in rows)]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return SimpleNamespace(
        folder=folder, module=module, own=own, rows=rows[:, :8].astype("float32")
    )


def predict(made, path, rows):
    with engines.quiet():
        return np.asarray(api.load(path, custom_objects=made.own)(rows))


@pytest.mark.parametrize("name", ["gate", "scale", "net"])
def test_files_of_own_classes_are_run_with_them_alone(name, made, tmp_path, modelcut):
    path, out = made.folder / f"{name}.keras", tmp_path / "o.keras"
    test = ["--test", made.folder / "t.csv"]
    said = modelcut("prune", path, "--threshold", "0", "-o", out, *test)
    assert said.code == 3, said
    assert "--custom-objects" in said.err
    said = modelcut(
        "prune", path, "--threshold", "0", "-o", out, *test, "--custom-objects", made.module, "-q"
    )
    assert said.code == 0, said
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["evaluation"]["agreement"] is not None
    np.testing.assert_array_equal(predict(made, out, made.rows), predict(made, path, made.rows))
    assert type(api.load(out, custom_objects=made.own)).__name__ == (
        "Net" if name == "net" else "Functional"
    )


def test_weights_of_own_classes_come_out_in_their_places(made, tmp_path, modelcut):
    """Shown by a Keras that loads the .h5: one class is refused, the other one the same."""
    said = modelcut("pack", made.folder / "scale.keras", "-o", tmp_path / "o.mcut", "-q")
    assert said.code == 0, said
    out = tmp_path / "o.h5"
    assert modelcut("unpack", tmp_path / "o.mcut", "-o", out, "-q").code == 0
    rows = made.rows
    expected = predict(made, made.folder / "scale.keras", rows)
    np.testing.assert_array_equal(predict(made, out, rows), expected)
    refused = modelcut("prune", made.folder / "gate.keras", "--threshold", "0", "-o", out)
    assert refused.code == 2, refused


def test_a_vocabulary_lives_on_in_an_h5(made, tmp_path, modelcut):
    path, out = made.folder / "text.keras", tmp_path / "o.h5"
    assert modelcut("prune", path, "--threshold", "0", "-o", out, "-q").code == 0
    tf = engines.imported("tensorflow")
    rows = tf.constant([["a red cat"], ["red dog"], ["none of these"]])
    np.testing.assert_array_equal(predict(made, out, rows), predict(made, path, rows))
    back = tmp_path / "o.keras"
    assert modelcut("prune", out, "--threshold", "0", "-o", back, "-q").code == 0
    np.testing.assert_array_equal(predict(made, back, rows), predict(made, path, rows))


def test_training_finds_the_parts_of_a_layer(made, tmp_path, modelcut):
    """The file lists gate before value, the engine value before gate; both have zero biases."""
    path, out = made.folder / "gate.keras", tmp_path / "o.keras"
    said = modelcut(
        "finetune", path, "--train", made.folder / "t.csv", "--epochs", "2", "--keep", "last",
        "-o", out, "--custom-objects", made.module, "-q",
    )  # fmt: skip
    assert said.code == 0, said
    before, after = (api.load(p, custom_objects=made.own).layers[1] for p in (path, out))
    for part in ("gate", "value"):
        moved = np.asarray(getattr(after, part).kernel) - np.asarray(getattr(before, part).kernel)
        assert 0 < np.abs(moved).max() < 0.05
    assert np.abs(np.asarray(after.gate.kernel) - np.asarray(before.value.kernel)).max() > 0.1


def test_what_a_module_defines_is_the_users(made):
    assert set(made.own) == {"Gate", "Scale", "Net", "bent", "Dense"}
    assert "mine>Scale" in engines.names_of(made.own)
    assert "mine>bent" in engines.names_of(made.own)
    assert engines.load_custom_objects(str(made.module))["Gate"] is made.own["Gate"]


def entry(class_name, module, registered=None, **config):
    return {
        "class_name": class_name,
        "module": module,
        "registered_name": registered or class_name,
        "config": {"name": "x", **config},
    }


@pytest.mark.parametrize(
    "layer",
    [
        entry("Popen", "subprocess", args="id"),
        entry("Gate", "elsewhere", "theirs>Gate"),
        entry("Other", "own_layers"),
        entry("Lambda", "keras.layers", function="x"),
        entry("Gate", "own_layers", inner={"class_name": "Lambda", "config": {}}),
        entry("Gate", "own_layers", inner=entry("Popen", "subprocess")),
        entry("function", "os", "system"),
    ],
    ids=lambda layer: layer["class_name"],
)
def test_nothing_else_in_the_file_is_trusted(layer, made, tmp_path, modelcut):
    path = keras_archive(tmp_path / "m.keras", [layer, dense("d", 1)], {})
    text = json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}})
    with pytest.raises(UnsafeError):
        scan.check(
            scan.findings(text, "", where="m"),
            where="m",
            trust=False,
            custom=engines.names_of(made.own),
        )
    assert modelcut("eval", path, "--test", made.folder / "t.csv", "--custom-objects",
                    made.module).code in (2, 3)  # fmt: skip


def test_the_users_classes_are_trusted_whatever_module_the_file_names():
    text = json.dumps({"class_name": "Sequential", "config": {"layers": [entry("Gate", "train")]}})
    scan.check(scan.findings(text, "", where="m"), where="m", trust=False, custom={"Gate"})
    with pytest.raises(UnsafeError, match="layer 'x': class Gate"):
        scan.check(scan.findings(text, "", where="m"), where="m", trust=False, custom={"Other"})
    with pytest.raises(UnsafeError):
        scan.check(scan.findings(text, "", where="m"), where="m", trust=False, custom={""})


class Variable:
    """As much of a variable as the search for it looks at."""

    def __init__(self, path, values):
        self.path, self.values = path, np.asarray(values, "float32")

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


def test_parts_with_the_same_values_are_not_told_apart():
    def layer(*parts):
        weights = [
            Variable(f"m/{part}/{role}", values)
            for part, kernel in parts
            for role, values in (("kernel", kernel), ("bias", [0.0, 0.0]))
        ]
        return SimpleNamespace(name="g", trainable_weights=weights, non_trainable_weights=[])

    one, two = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
    files = [("g/b/kernel", two), ("g/b/bias", [0, 0]), ("g/a/kernel", one), ("g/a/bias", [0, 0])]
    place = variables.Place(
        ("g",), tuple((n, lambda v=v: np.asarray(v, "float32")) for n, v in files)
    )
    model = SimpleNamespace(layers=[layer(("dense", one), ("dense_1", two))])
    found = variables.find(model, [place], "m")
    assert {name: variable.path for name, variable in found.items()} == {
        "g/b/kernel": "m/dense_1/kernel",
        "g/b/bias": "m/dense_1/bias",
        "g/a/kernel": "m/dense/kernel",
        "g/a/bias": "m/dense/bias",
    }
    third = [("g/c/kernel", [[9, 9], [9, 9]]), ("g/c/bias", [0, 0])]
    files = [*third, *((n, one if "kernel" in n else v) for n, v in files)]
    place = variables.Place(
        ("g",), tuple((n, lambda v=v: np.asarray(v, "float32")) for n, v in files)
    )
    parts = layer(("x", one), ("y", one), ("z", [[9, 9], [9, 9]]))
    with pytest.raises(InputError, match="the same values"):
        variables.find(SimpleNamespace(layers=[parts]), [place], "m")

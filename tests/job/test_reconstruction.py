"""Autoencoders: the labels are what goes in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modelcut.data import DataOptions, InputSpec
from modelcut.data.csv import Csv
from modelcut.errors import UsageError
from modelcut.job.inference import Evaluator
from modelcut.job.targets import Wanted, plan

NAMES = "abcdef"


class Mirror:
    """A network that gives back what it is given, and a constant."""

    engine, loss, fixed_batch = "toy", "mse", None

    def __init__(self, shape=(6,), out=None, off=0.5):
        from modelcut.engines import OutputSpec

        self.inputs = (InputSpec("in", shape),)
        self.outputs = (OutputSpec("out", out or shape, None),)
        self.off = off

    def predict(self, inputs, *, exact=False):
        return [next(iter(inputs.values())) + self.off]


@pytest.fixture
def table(tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 6)).round(3)
    path = tmp_path / "rows.csv"
    np.savetxt(path, values, delimiter=",", header=",".join(NAMES), comments="", fmt="%g")
    return path, values


def test_the_inputs_are_the_labels(table):
    path, values = table
    options = DataOptions(label="input", scale=2)
    [batch] = Csv.open(path, options, [InputSpec("in", (2, 3))]).batches(99)
    np.testing.assert_allclose(batch.inputs["in"], 2 * values.reshape(20, 2, 3), rtol=1e-6)
    np.testing.assert_allclose(batch.labels, 2 * values, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (None, 2)])
def test_the_error_is_that_of_the_reconstruction(shape, table):
    path, _ = table
    evaluator = Evaluator.open(Mirror(shape), path, DataOptions(label="input"))
    [found], _ = evaluator.run()
    assert found.task == "regression"
    assert found.metrics["rmse"] == pytest.approx(0.5, rel=1e-5)
    assert found.metrics["mae"] == pytest.approx(0.5, rel=1e-5)


def test_a_label_column_is_left_out(table):
    path, values = table
    labelled = path.with_name("labelled.csv")
    both = np.c_[values, np.arange(20)]
    np.savetxt(labelled, both, delimiter=",", header=f"{','.join(NAMES)},label", comments="")
    table = Csv.open(labelled, DataOptions(label="input"), [InputSpec("in", (6,))])
    assert len(table.labels) == 6
    # Where nothing is judged, labels may be missing whatever they are called.
    for name in (path, labelled):
        options = DataOptions(label="label")
        [batch] = Csv.open(name, options, [InputSpec("in", (6,))], labelled=False).batches(99)
        assert batch.labels is None
        np.testing.assert_allclose(batch.inputs["in"], values, rtol=1e-6)


def test_a_column_of_that_name_is_meant(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,input\n1,2\n3,4\n")
    table = Csv.open(path, DataOptions(label="input"), [InputSpec("in", (1,))])
    assert table.labels == [1]


def test_outputs_that_are_not_like_the_inputs(table):
    path, _ = table
    options = DataOptions(label="input")
    for network, task, words in (
        (Mirror(out=(3,)), "auto", "cannot be compared"),
        (Mirror(), "multiclass", "is a regression"),
    ):
        csv = Csv.open(path, options, network.inputs)
        with pytest.raises(UsageError, match=words):
            plan(network, csv, options, Wanted(task))


@pytest.mark.slow
def test_keras_says_the_same(table, tmp_path, modelcut):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    path, values = table
    layers = [keras.Input((6,)), keras.layers.Dense(2), keras.layers.Dense(6)]
    network = keras.Sequential(layers)
    network.compile("adam", "mse")
    network.save(tmp_path / "m.keras")
    wanted = float(network.evaluate(values, values, verbose=0))
    data = ["--label", "input"]
    said = modelcut("eval", tmp_path / "m.keras", "--test", path, *data, "--json")
    assert said.code == 0, said
    found = json.loads(said.out)["evaluation"]["after"]["metrics"]
    # Keras has one mean of all squares; ours is the mean over the outputs, as scikit-learn's.
    each = [output["rmse"] for output in found["per_output"]]
    assert np.mean(np.square(each)) == pytest.approx(wanted, rel=1e-4)
    assert found["rmse"] == pytest.approx(np.mean(each))
    more = ["--epochs", "30", "--batch-size", "4", "--learning-rate", "0.02", "--json"]
    said = modelcut(
        "finetune", tmp_path / "m.keras", "-o", tmp_path / "o.keras",
        "--train", path, "--test", path, *data, *more,
    )  # fmt: skip
    assert said.code == 0, said
    after = json.loads(said.out)["evaluation"]["after"]["metrics"]
    assert after["rmse"] < 0.9 * found["rmse"]
    said = modelcut(
        "export", tmp_path / "m.keras", "-o", tmp_path / "m.tflite", "--type", "int8",
        "--calibrate", path, "-q",
    )  # fmt: skip
    assert said.code == 0, said

"""Networks of mixed precision, with a state, or with a batch size of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modelcut.engines.keras.network import in_float32

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5"),
]


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "rows.csv"
    both = np.c_[rng.normal(size=(40, 6)).round(3), rng.integers(0, 3, 40)]
    np.savetxt(path, both, delimiter=",", header="a,b,c,d,e,f,label", comments="", fmt="%g")
    return path


def made(module, path, kind):
    keras = pytest.importorskip(module)
    keras.utils.set_random_seed(0)
    first = {"batch_shape": (4, 3, 2)} if kind == "stateful" else {"shape": (6,)}
    policy = "mixed_float16" if kind == "mixed" else "float32"
    layers = [keras.layers.Input(**first)] if module == "keras" else []
    more = {} if layers else {"batch_input_shape": (4, 3, 2) if kind == "stateful" else (None, 6)}
    if kind == "stateful":
        layers.append(keras.layers.LSTM(5, stateful=True, name="memory", **more))
    else:
        layers.append(keras.layers.Dense(8, activation="relu", dtype=policy, **more))
    layers.append(keras.layers.Dense(3, activation="softmax", dtype="float32"))
    keras.Sequential(layers).save(path)
    return path


@pytest.mark.parametrize("module", ["keras", "tf_keras"])
def test_mixed_precision_becomes_a_tflite(module, rows, tmp_path, modelcut):
    path = made(module, tmp_path / "m.h5", "mixed")
    said = modelcut("export", path, "-o", tmp_path / "m.tflite", "--test", rows, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["output"]["litert"]["instead_of"] == ["mixed_float16"]
    assert any("computes in mixed_float16" in line for line in report["warnings"])
    assert report["evaluation"]["agreement"]["max_difference"] < 0.01


@pytest.mark.parametrize("module", ["keras", "tf_keras"])
def test_a_state_is_refused_in_words(module, rows, tmp_path, modelcut):
    path = made(module, tmp_path / "m.h5", "stateful")
    said = modelcut("export", path, "-o", tmp_path / "m.tflite")
    assert said.code == 2
    assert "the layer 'memory' is stateful" in said.err
    train = ["finetune", path, "-o", tmp_path / "o.h5", "--train", rows, "--epochs", "1"]
    said = modelcut(*train, "--batch-size", "8")
    assert said.code == 2
    assert "stateful and takes batches of 4 samples, not 8 (--batch-size 4)" in said.err
    assert modelcut(*train, "--batch-size", "4", "-q").code == 0
    taught = [*train[:-1], "3", "--distill", "{weight: 0.5}", "--force"]
    assert modelcut(*taught, "--batch-size", "4", "-q").code == 0


def test_only_mixed_policies_are_replaced():
    class Policy:
        def __init__(self, name=None, source=None):
            self.name = name

    with in_float32(Policy) as replaced:
        found = [Policy(name).name for name in ("mixed_float16", "mixed_bfloat16", "float64", None)]
    assert found == ["float32", "float32", "float64", None]
    assert replaced == ["mixed_float16", "mixed_bfloat16"]
    assert Policy("mixed_float16").name == "mixed_float16"

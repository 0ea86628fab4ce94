"""The engines run what Keras quantized itself, bare layers of tfmot, and operations in `.h5`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from toys import MODELS

from modelcut import engines
from modelcut.formats import base, registry
from modelcut.job import check
from modelcut.job.request import Trust

DATA = Path(__file__).parents[1] / "data"
QUANTIZED = np.load(DATA / "quantized" / "expected.npz")
RUN = sorted(name for name in QUANTIZED.files if name != "rows")


def predicted(path, rows):
    model = registry.open_model(path)
    check.check_runnable(model, Trust())
    with registry.plain_file(model) as (file, suffix):
        network = engines.open_network(file, model.origin.dialect, suffix=suffix)
    return network.predict({network.inputs[0].name: rows})[0]


def converted(path, folder):
    out = folder / f"out{'.keras' if path.suffix == '.h5' else '.h5'}"
    model = registry.open_model(path)
    registry.for_output(out, model).write(model, out, base.WriteOptions())
    return out


@pytest.mark.parametrize("name", RUN)
def test_as_keras_did_before_it_saved(name, tmp_path):
    path = DATA / "quantized" / name
    np.testing.assert_allclose(
        predicted(path, QUANTIZED["rows"]), QUANTIZED[name], rtol=1e-4, atol=1e-5
    )
    if "lora" not in name:
        there = converted(path, tmp_path)
        np.testing.assert_allclose(
            predicted(there, QUANTIZED["rows"]), QUANTIZED[name], rtol=1e-4, atol=1e-5
        )


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_what_keras_cannot_load_is_told_without_false_hope(tmp_path, modelcut):
    (tmp_path / "t.csv").write_text("a,b,c,d,e,f,label\n1,2,3,4,5,6,0\n2,1,2,1,2,1,1\n")
    path = DATA / "quantized" / "gptq.keras"
    said = modelcut("eval", path, "--test", tmp_path / "t.csv")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "(modelcut can still pack it; leave out --test)" in said.err


@pytest.mark.parametrize("name", ["pruned_nested.h5", "pruned_nested.keras", "quantized.h5"])
def test_without_the_wrappers_of_tfmot(name, tmp_path):
    expected = np.load(DATA / "tfmot" / "expected.npz")
    kind = "nested" if "nested" in name else "quantized"
    rows = expected["nested_rows" if kind == "nested" else "plain_rows"]
    path = DATA / "tfmot" / name
    for one in (path, converted(path, tmp_path)):
        np.testing.assert_allclose(predicted(one, rows), expected[kind], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["keras3_cnn.keras", "tf_keras_cnn.keras"])
def test_an_unzipped_folder(name, tmp_path):
    with zipfile.ZipFile(MODELS / name) as archive:
        archive.extractall(tmp_path / "model")
    recorded = np.load(MODELS / f"{Path(name).stem}.npz")
    rows = next(recorded[key] for key in recorded.files if key.startswith("input"))
    expected = next(recorded[key] for key in recorded.files if key.startswith("output"))
    found = predicted(tmp_path / "model", rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_operations_in_an_h5_file(tmp_path):
    keras = engines.imported("keras")
    given = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(4)(given)
    both = keras.ops.add(keras.layers.Add()([hidden, given]), 1)  # a layer and an operation
    part = keras.ops.where(keras.ops.greater(both, 0.5), both, 0.5 * keras.ops.tanh(both))
    joined = keras.ops.concatenate([keras.layers.Softmax()(part), part[:, 1:3]], axis=-1)
    model = keras.Model(given, keras.layers.Dense(2)(joined))
    model.save(tmp_path / "m.h5")
    rows = np.random.default_rng(0).random((5, 4), np.float32)
    expected = model(rows).numpy()
    np.testing.assert_allclose(predicted(tmp_path / "m.h5", rows), expected, rtol=1e-5)
    there = converted(tmp_path / "m.h5", tmp_path)
    np.testing.assert_allclose(predicted(there, rows), expected, rtol=1e-5)
    found = keras.models.load_model(there)  # plain Keras opens it
    np.testing.assert_allclose(found(rows).numpy(), expected, rtol=1e-5)


def test_a_submodel_is_edited_around_what_keras_quantized(modelcut, tmp_path):
    """A legacy file lists all that a submodel trains first, which is not the same any more."""
    keras = engines.imported("keras")
    layers = keras.layers
    given = keras.Input((4, 6))
    hidden = layers.TimeDistributed(layers.Dense(5), name="each")(given)
    hidden = layers.Dense(8, name="a", activation="relu")(hidden)
    inner = keras.Model(given, layers.Flatten()(layers.Dense(9, name="b")(hidden)), name="inner")
    start = keras.Input((4, 6), name="x")
    model = keras.Model(start, layers.Dense(3, name="out")(inner(start)))
    inner.get_layer("b").kernel.assign(np.outer(np.arange(1, 9) / 9, np.arange(1, 10) / 9))
    inner.get_layer("a").quantize("int8")
    inner.get_layer("each").layer.quantize("int8")
    model.get_layer("out").enable_lora(2)
    model.save(tmp_path / "m.h5")
    said = modelcut(
        "factorize", tmp_path / "m.h5", "--include", "b", "--rank", "1", "-o", tmp_path / "o.h5"
    )
    assert said.code == 0, said.err
    assert "inner/b_factor/kernel" in {
        t.name for t in registry.open_model(tmp_path / "o.h5").tensors
    }
    rows = np.random.default_rng(0).random((5, 4, 6), np.float32)
    expected = model(rows).numpy()
    np.testing.assert_allclose(predicted(tmp_path / "o.h5", rows), expected, rtol=1e-3, atol=1e-4)

"""The engines run the golden files as the Keras that wrote them did."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from toys import MODELS

from modelcut import engines
from modelcut.errors import InputError, UsageError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.graph.keras.final import final_layer
from modelcut.job import check
from modelcut.job.request import Trust

GOLDEN = sorted(
    path
    for path in MODELS.iterdir()
    if path.suffix in (".h5", ".keras") and ".weights" not in path.name
)
SUFFIX = {"hdf5": ".h5", "keras_zip": ".keras"}


def assert_output_is_as_the_architecture_says(network, model):
    """`final_layer` decides before an engine starts what the engine will say."""
    found = final_layer(model.architecture.root)
    if found is None:
        return
    (output,) = network.outputs
    layer, activation = found
    assert activation == output.activation
    assert model.architecture.shapes()[(layer,)] == output.shape


def assert_predicts_as_recorded(path, name):
    model = registry.open_model(path)
    network = engines.open_network(
        path, model.origin.dialect, suffix=SUFFIX[model.origin.format], trust=False
    )
    assert_output_is_as_the_architecture_says(network, model)
    recorded = np.load(MODELS / f"{name}.npz")
    arrays = [recorded[name] for name in sorted(recorded.files) if name.startswith("input")]
    inputs = {spec.name: array for spec, array in zip(network.inputs, arrays, strict=True)}
    expected = [recorded[name] for name in sorted(recorded.files) if name.startswith("output")]
    found = network.predict(inputs)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_predictions_are_those_of_the_writer(path):
    assert_predicts_as_recorded(path, path.stem)


def converted(path, folder):
    out = folder / f"out{'.keras' if path.suffix == '.h5' else '.h5'}"
    model = registry.open_model(path)
    registry.for_output(out, model).write(model, out, WriteOptions())
    return out


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_so_they_are_in_the_other_format(path, tmp_path):
    out = converted(path, tmp_path)
    check.check_runnable(registry.open_model(out), Trust())
    assert_predicts_as_recorded(out, path.stem)


@pytest.mark.parametrize(
    "name", ["tf_keras_cnn.h5", "tf_keras_cnn.keras", "keras3_cnn.h5", "keras3_nested.keras"]
)
def test_plain_keras_loads_the_other_format_compiled_as_before(name, tmp_path):
    library = import_module("keras" if name.startswith("keras3") else "tf_keras")
    with engines.quiet():
        before = library.models.load_model(MODELS / name)
        after = library.models.load_model(converted(MODELS / name, tmp_path))
    assert bool(getattr(after, "optimizer", None)) == ("cnn" in name)
    if "cnn" in name:
        assert after.optimizer.get_config() == before.optimizer.get_config()


def test_a_file_that_the_engine_cannot_load(tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot load"):
        engines.open_network(path, "keras3")


def test_custom_objects(tmp_path):
    (tmp_path / "mine.py").write_text("def swoosh(x): return x\nclass Mine: pass\n_hidden = 1\n")
    found = engines.load_custom_objects(str(tmp_path / "mine.py"))
    assert set(found) == {"swoosh", "Mine"}
    with pytest.raises(UsageError):
        engines.load_custom_objects(str(tmp_path / "gone.py"))

"""Factorized files of every era are read again as what they say they are; no engine is started."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toys import MODELS, legacy

from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.steps import find
from modelcut.steps.base import Context

GOLDEN = sorted(p for p in MODELS.iterdir() if p.suffix in (".h5", ".keras") and
                ".weights" not in p.name)  # fmt: skip


def written(path, out, family, method, **fields):
    """The facts of a step, and the written file's layers: name -> (class, role -> values)."""
    with registry.open_model(path) as model:
        outcome = find(family, method)(**fields).apply(model, Context())
        wanted = {tensor.name: tensor.pull()[0] for tensor in outcome.model.tensors}
        registry.of_model(model).write(outcome.model, out, WriteOptions())
    with registry.open_model(out) as again:
        found = {tensor.name: tensor.pull()[0] for tensor in again.tensors}
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        layers = {
            layer.name: (layer, {role: t.pull()[0] for role, t in layer.by_role.items()})
            for layer in again.layers
        }
    return outcome, layers


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files(path, tmp_path):
    outcome, _ = written(path, tmp_path / f"auto{path.suffix}", "factorize", "auto", energy=0.5)
    assert outcome.facts["layers"] or "sequential" not in path.name
    for family, method in (("fold", "batchnorm"), ("simplify", "identity")):
        written(path, tmp_path / f"{method}{path.suffix}", family, method)


def keras1(path, entry, kernel, shape):
    entry = {**entry, "config": {"activation": "relu", "bias": True, "W_regularizer": None,
                                 "init": "glorot_uniform", **entry["config"]}}  # fmt: skip
    entry["config"]["batch_input_shape"] = [None, *shape]
    name = entry["config"]["name"]
    filters = entry["config"]["nb_filter"]
    weights = {f"{name}_W": kernel, f"{name}_b": np.ones(filters, "float32")}
    config = {"class_name": "Sequential", "config": [entry]}
    legacy(path, {name: weights}, config, "1.2.2")
    return path


def conv1(**more):
    shared = {"name": "c", "border_mode": "same", "nb_filter": 8}
    return {"class_name": "Convolution2D", "config": {
        **shared, "nb_row": 3, "nb_col": 3, "subsample": [2, 1], **more}}  # fmt: skip


@pytest.mark.parametrize("order", ["tf", "th"])
@pytest.mark.parametrize("method", ["channel", "spatial", "tucker2"])
def test_convolutions_of_keras_1(method, order, tmp_path):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 6, 8)).astype("float32")
    stored = kernel if order == "tf" else kernel.transpose(3, 2, 0, 1)
    shape = [9, 9, 6] if order == "tf" else [6, 9, 9]
    path = keras1(
        tmp_path / "k1.h5", conv1(dim_ordering=order), np.ascontiguousarray(stored), shape
    )
    outcome, layers = written(path, tmp_path / "out.h5", "factorize", method, rank=2)
    assert list(layers) == ["c_factor", *(["c_factor2"] if method == "tucker2" else []), "c"]
    kernels = []
    for layer, values in layers.values():
        found = values["kernel"]
        kernels.append(found if order == "tf" else found.transpose(2, 3, 1, 0))
        config = layer.config
        assert kernels[-1].shape == (config["nb_row"], config["nb_col"],
                                     kernels[-1].shape[2], config["nb_filter"])  # fmt: skip
        assert layer.class_name == "Convolution2D"
    from test_chains import product

    error = np.linalg.norm(product(method, kernels, kernel.shape) - kernel) / np.linalg.norm(kernel)
    fact = outcome.facts["layers"]["c"]
    assert fact["error"] == pytest.approx(error, rel=1e-5)
    assert fact["macs"]["before"] == 5 * 9 * kernel.size
    strides = [layer.config["subsample"] for layer, _ in layers.values()]
    assert np.prod(strides, axis=0).tolist() == [2, 1]
    assert [layer.config["bias"] for layer, _ in layers.values()][:-1] == [False] * (
        len(layers) - 1
    )
    assert layers["c"][0].config["activation"] == "relu"
    assert layers["c_factor"][0].config["batch_input_shape"] == [None, *shape]
    assert "batch_input_shape" not in layers["c"][0].config


def test_of_keras_1_what_it_lacks_is_skipped_with_the_reason(tmp_path):
    kernel = np.ones((3, 3, 6, 8), "float32")
    path = keras1(tmp_path / "k1.h5", conv1(dim_ordering="tf"), kernel, [9, 9, 6])
    with registry.open_model(path) as model:
        skipped = find("factorize", "cp")(rank=1).apply(model, Context()).skipped
    assert skipped["c/kernel"] == "is of Keras 1, which has no depthwise convolution"


def test_a_line_of_keras_1(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(5, 1, 6, 8)).astype("float32")
    config = {"name": "c", "nb_filter": 8, "filter_length": 5, "border_mode": "valid",
              "subsample_length": 2}  # fmt: skip
    entry = {"class_name": "Convolution1D", "config": config}
    path = keras1(tmp_path / "k1.h5", entry, kernel, [20, 6])
    outcome, layers = written(path, tmp_path / "out.h5", "factorize", "tucker2", rank=2)
    assert [layer.config["filter_length"] for layer, _ in layers.values()] == [1, 5, 1]
    assert [layer.config["subsample_length"] for layer, _ in layers.values()] == [1, 2, 1]
    assert layers["c_factor2"][1]["kernel"].shape == (5, 1, 2, 2)
    assert outcome.facts["layers"]["c"]["macs"]["before"] == 8 * kernel.size


def test_a_layer_of_the_authors_own_class_by_a_known_name_stays(tmp_path):
    with registry.open_model(MODELS / "keras3_sequential.keras") as model:
        assert model.architecture is not None
        root = json.loads(model.architecture.text)
        for entry in root["config"]["layers"]:
            if entry["class_name"] == "Dense":
                entry["registered_name"] = "mine>Dense"
        own = model.architecture.with_root(root)
        from modelcut.model import edit

        changed = edit.in_architecture(model, model.layers, own)
        outcome = find("factorize", "svd")(energy=0.5).apply(changed, Context())
    assert not outcome.facts["layers"]
    assert any("author's own" in why for why in outcome.skipped.values())


def test_an_embedding_gets_no_field_that_it_lacks(tmp_path):
    config = {"name": "e", "input_dim": 40, "output_dim": 24, "batch_input_shape": [None, 5]}
    entry = {"class_name": "Embedding", "config": config}
    kernel = np.random.default_rng(0).normal(size=(40, 24)).astype("float32")
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": [entry]}}
    legacy(tmp_path / "e.h5", {"e": {"e/embeddings:0": kernel}}, model, "2.4.0")
    _, layers = written(tmp_path / "e.h5", tmp_path / "o.h5", "factorize", "svd", rank=3)
    (name,) = layers.keys() - {"e"}
    made = layers[name][0]
    assert made.class_name == "Embedding"
    assert {**made.config, "name": "e", "output_dim": 24} == config

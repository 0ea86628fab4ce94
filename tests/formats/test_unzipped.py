"""Keras' other ways to lay a model out: an unzipped folder, weights in shards, operations."""

from __future__ import annotations

import json
import zipfile

import h5py
import numpy as np
import pytest
from toys import MODELS

from modelcut import safety
from modelcut.errors import InputError, UnsafeError
from modelcut.formats import registry
from modelcut.graph import scan
from modelcut.graph.keras import operations
from modelcut.job import digest


def values_of(path):
    return {tensor.name: tensor.pull()[0].tobytes() for tensor in registry.open_model(path).tensors}


def unzipped(folder, name="keras3_cnn.keras"):
    with zipfile.ZipFile(MODELS / name) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", ["keras3_cnn.keras", "keras3_text.keras", "tf_keras_cnn.keras"])
def test_an_unzipped_file_is_read_and_written_zipped(name, modelcut, tmp_path):
    folder, out = unzipped(tmp_path / "model", name), tmp_path / "out.keras"
    assert values_of(folder) == values_of(MODELS / name)
    assert modelcut("prune", "--sparsity", "0.5", folder, "-o", out).code == 0
    other = tmp_path / "other.keras"
    assert modelcut("prune", "--sparsity", "0.5", MODELS / name, "-o", other).code == 0
    assert values_of(out) == values_of(other)
    with zipfile.ZipFile(out) as mine, zipfile.ZipFile(MODELS / name) as theirs:
        assert set(mine.namelist()) == set(theirs.namelist())


def test_a_folder_is_not_replaced_by_a_saved_model(modelcut, tmp_path):
    folder = unzipped(tmp_path / "model")
    said = modelcut("prune", "--sparsity", "0.5", folder, "--in-place")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "is an unzipped .keras model" in said.err
    assert values_of(folder) == values_of(MODELS / "keras3_cnn.keras")


def test_a_folder_that_leads_out_is_refused(tmp_path):
    folder = unzipped(tmp_path / "model")
    (folder / "more").symlink_to("/etc")
    with pytest.raises(UnsafeError, match="is a link"):
        registry.open_model(folder)


def test_a_folder_without_metadata_is_refused(tmp_path):
    folder = unzipped(tmp_path / "model")
    (folder / "metadata.json").unlink()
    with pytest.raises(InputError, match=r"has no metadata\.json"):
        registry.open_model(folder)


def sharded(folder):
    """The weights of a golden file as Keras cuts them: a layer's variables in two shards."""
    groups, shards = {}, {}
    with h5py.File(MODELS / "keras3_cnn.weights.h5") as old:

        def cut(name, item):
            if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
                group, _, number = name.rpartition("/")
                shard = f"w_{int(number) % 2:05}.weights.h5"
                if shard not in shards:
                    shards[shard] = h5py.File(folder / shard, "w")
                shards[shard].require_group(group).attrs["name"] = old[group].attrs["name"]
                shards[shard][name] = item[()]
                groups.setdefault(f"/{group}", []).append(shard)

        old.visititems(cut)
    for file in shards.values():
        file.close()
    weights = {group: sorted(set(names)) for group, names in groups.items()}
    path = folder / "w.weights.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weights}))
    return path


def test_shards_are_one_file(modelcut, tmp_path):
    path = sharded(tmp_path)
    safety.check_path(path)
    whole = MODELS / "keras3_cnn.weights.h5"
    assert values_of(path) == values_of(whole)
    model = registry.open_model(path)
    assert model.origin.weights_only
    assert model.origin.writer == "Keras 3"
    parts = [path, tmp_path / "w_00000.weights.h5", tmp_path / "w_00001.weights.h5"]
    assert digest.size(path) == sum(part.stat().st_size for part in parts)
    for suffix in (".weights.h5", ".mcut"):
        assert modelcut("prune", "--sparsity", "0.5", path, "-o", tmp_path / f"o{suffix}").code == 0
        one, two = values_of(tmp_path / f"o{suffix}"), values_of(whole)
        assert one.keys() == two.keys()
        assert one != two
    before = digest.blake3(path)
    with h5py.File(parts[2], "r+") as file:
        file["layers/dense/vars/1"][0] = 7
    assert digest.blake3(path) != before


def test_a_shard_that_is_missing_or_elsewhere(tmp_path):
    path = sharded(tmp_path)
    (tmp_path / "w_00001.weights.h5").unlink()
    with pytest.raises(InputError, match=r"'w_00001.weights.h5' is missing"):
        registry.open_model(path)
    for name, error in (("../w.h5", UnsafeError), ("/w.h5", UnsafeError), (3, InputError)):
        path.write_text(json.dumps({"weight_map": {"/vars": name}}))
        with pytest.raises(error):
            registry.open_model(path)
    for text in ("[]", "{}", "no"):
        path.write_text(text)
        with pytest.raises(InputError):
            registry.open_model(path)


def test_a_weight_in_two_shards_is_refused(tmp_path):
    path = sharded(tmp_path)
    with h5py.File(tmp_path / "w_00001.weights.h5", "r+") as file:
        file["layers/dense/vars/0"] = np.zeros(3)
    with pytest.raises(InputError, match="is in another shard too"):
        registry.open_model(path)


def test_a_shard_that_contains_itself_is_refused(tmp_path):
    path = sharded(tmp_path)
    with h5py.File(tmp_path / "w_00001.weights.h5", "r+") as file:
        file["layers/one"] = file["layers/two"] = file["layers"]
    with pytest.raises(InputError, match="contains itself"):
        registry.open_model(path)


@pytest.mark.parametrize(
    ("name", "writer"),
    [("keras3_cnn.weights.h5", "Keras 3"), ("tf_keras_cnn.weights.h5", "Keras 2 or 3")],
)
def test_who_wrote_bare_weights(name, writer):
    assert registry.open_model(MODELS / name).origin.writer == writer


def operation(name, config, source):
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
    calls = [{"args": [tensor, 1], "kwargs": {}}]
    return {"class_name": name, "config": {"name": "op", **config}, "inbound_nodes": calls}


def test_operations_are_told_from_layers_of_the_same_name():
    module = operations.module_of
    assert module(operation("Add", {}, "x")) == "keras.src.ops.numpy"
    assert module(operation("Relu", {}, "x")) == "keras.src.ops.nn"
    assert module(operation("Add", {"trainable": True, "dtype": "float32"}, "x")) == ""
    assert module(operation("Mine", {}, "x")) == ""
    assert module({**operation("Add", {}, "x"), "module": "mine"}) == ""
    old = {"class_name": "Merge", "config": {"name": "a"}, "inbound_nodes": [[["x", 0, 0]]]}
    assert module(old) == ""
    assert module({"class_name": "Softmax", "config": {"name": "a"}}) == ""


def test_harmless_operations_only():
    def findings(name):
        model = {"class_name": "Functional", "config": {"layers": [operation(name, {}, "x")]}}
        return [finding.kind for finding in scan.scan(model)]

    assert findings("Relu") == findings("GetItem") == findings("Slice") == []
    assert findings("Map") == findings("WhileLoop") == ["code"]
    assert findings("Mine") == ["custom"]


def test_modules_are_named_for_a_keras_file():
    model = {"layers": [operation("Relu", {}, "x"), {"class_name": "Dense", "config": {}}]}
    one, two = operations.with_modules(model)["layers"]
    assert (one["module"], one["registered_name"]) == ("keras.src.ops.nn", "Relu")
    assert "module" not in two

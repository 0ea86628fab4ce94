"""Models in wrappers of the TensorFlow Model Optimization toolkit: the wrappers come off."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from toys import keras_archive

from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.formats.keras import tfmot

FILES = Path(__file__).parents[1] / "data" / "tfmot"
PRUNED = ["pruned_nested.h5", "pruned_nested.keras"]
LAYERS = ["x", "inner/conv", "inner/norm", "flat", "one", "two", "both", "out"]


@pytest.mark.parametrize("name", PRUNED)
def test_pruning_wrappers_come_off(name):
    model = registry.open_model(FILES / name)
    owners = {layer.name: layer for layer in model.layers if layer.tensors}
    assert set(owners) == {"inner/conv", "inner/norm", "one", "two", "out"}
    assert [layer.name for layer in model.layers if layer.name in LAYERS]
    assert owners["one"].class_name == "Dense"
    assert [t.role for t in owners["inner/norm"].tensors] == [
        "gamma", "beta", "moving_mean", "moving_variance"
    ]  # fmt: skip
    for tensor in (owners["one"].by_role["kernel"], owners["inner/conv"].by_role["kernel"]):
        assert (tensor.pull()[0] == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert model.origin.warnings[0] == (
        "7 prune_low_magnitude wrappers of tfmot were taken off, as strip_pruning does"
    )
    assert "prune_low_magnitude" not in model.architecture.text.replace("tfmot", "")


def test_both_formats_hold_the_same():
    one, two = (registry.open_model(FILES / name) for name in PRUNED)
    first = {t.name: t.pull()[0].tobytes() for t in one.tensors}
    assert first == {t.name: t.pull()[0].tobytes() for t in two.tensors}


def test_the_quantizing_wrappers_come_off_with_a_word():
    model = registry.open_model(FILES / "quantized.h5")
    assert {layer.name for layer in model.layers if layer.tensors} == {"one", "two", "out"}
    activations = {layer.path[-1]: layer.config.get("activation") for layer in model.layers}
    assert [activations[name] for name in ("one", "two", "out")] == ["relu", "linear", "softmax"]
    assert "ranges are left out" in model.origin.warnings[0]
    calls = {layer.path[-1]: layer.node.inbound for layer in model.layers if layer.node}
    assert calls["one"] == (("x",),)  # past the layer that quantizes the input
    assert calls["both"] == (("one", "two"),)


@pytest.mark.parametrize("name", [*PRUNED, "quantized.h5"])
def test_packing_works_and_the_report_says_so(name, modelcut, tmp_path):
    said = modelcut("pack", FILES / name, "-o", tmp_path / "p.mcut", "--report")
    assert said.code == 0
    assert "taken off" in json.loads((tmp_path / "p.report.json").read_text())["warnings"][0]
    back = tmp_path / f"b{Path(name).suffix}"
    assert modelcut("unpack", tmp_path / "p.mcut", "-o", back).code == 0
    model = registry.open_model(back)
    assert model.origin.warnings == ()
    before = registry.open_model(FILES / name)
    assert {t.name: t.pull()[0].tobytes() for t in model.tensors} == {
        t.name: t.pull()[0].tobytes() for t in before.tensors
    }


def test_what_lies_beside_the_weights_of_a_stripped_archive_is_kept(tmp_path, modelcut):
    inner = {"class_name": "Dense", "config": {"name": "d", "units": 3}}
    lookup = {"class_name": "StringLookup", "config": {"name": "v", "vocabulary": None}}
    wrapper = {"class_name": "PruneLowMagnitude", "config": {"name": "p", "layer": inner}}
    base = "layers/prune_low_magnitude"
    weights = {
        f"{base}/layer/vars/0": np.ones((4, 3), np.float32),
        f"{base}/layer/vars/1": np.ones(3, np.float32),
        f"{base}/vars/0": np.ones((4, 3), np.float32),
    }
    asset = "assets/layers/string_lookup/vocabulary.txt"
    path = tmp_path / "m.keras"
    keras_archive(path, [lookup, wrapper], weights, assets=[(asset, "a\nb")], version="2.15.0")
    assert modelcut("pack", path, "-o", tmp_path / "p.mcut", "-q").code == 0
    assert modelcut("unpack", tmp_path / "p.mcut", "-o", tmp_path / "b.keras", "-q").code == 0
    with zipfile.ZipFile(tmp_path / "b.keras") as archive:
        assert archive.read(asset) == b"a\nb"
    assert modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5", "-q").code == 0
    layers = registry.open_model(tmp_path / "o.h5").architecture.root["config"]["layers"]
    assert layers[0]["config"]["vocabulary"] == ["a", "b"]


def edited(path, edit):
    shutil.copy(FILES / "quantized.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config["config"])
        text = json.dumps(config)
        file.attrs["model_config"] = text
    return path


def test_what_cannot_be_taken_off_is_refused(modelcut, tmp_path):
    def cluster(config):
        config["layers"][2]["class_name"] = "ClusterWeights"

    def own_config(config):
        inner = config["layers"][2]["config"]["layer"]["config"]
        inner["kernel_constraint"] = {
            "module": "tensorflow_model_optimization.x",
            "class_name": "C",
        }

    def empty(config):
        config["layers"][2]["config"]["layer"] = None

    def twice(config):
        nodes = config["layers"][1]["inbound_nodes"]
        config["layers"][1]["inbound_nodes"] = nodes * 2

    for edit, words in (
        (cluster, "strip_clustering"),
        (own_config, "than modelcut can remove"),
        (empty, "is empty"),
        (twice, "called more than once"),
    ):
        said = modelcut("inspect", edited(tmp_path / "m.h5", edit))
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert words in said.err


def test_a_quantized_keras_file_is_refused():
    text = json.dumps({"class_name": "QuantizeWrapperV2"})
    stripped = tfmot.Stripped("", {"quant_a": "a"})
    with pytest.raises(InputError, match="does not tell apart"):
        tfmot.store_names(text, stripped, "2.15.0", "m.keras")


def test_a_file_without_wrappers_is_untouched():
    text = '{"class_name": "Sequential", "config": {"layers": []}}'
    assert tfmot.strip(text, "m.h5") == tfmot.Stripped(text)
    named = '{"class_name": "Sequential", "config": {"name": "PruneLowMagnitude", "layers": []}}'
    assert tfmot.strip(named, "m.h5") == tfmot.Stripped(named)

"""Classes that modelcut does not know: roles by paths, and what another format cannot hold."""

from __future__ import annotations

import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from toys import dense, keras_archive, legacy

from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.formats.keras import hdf5_file


def values(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def own(class_name, name, **config):
    return {
        "class_name": class_name,
        "module": "mine",
        "registered_name": class_name,
        "config": {"name": name, **config},
    }


GATE = {
    "layers/gate/gate/vars/0": values(4, 4),
    "layers/gate/gate/vars/1": values(4),
    "layers/gate/value/vars/0": values(4, 4),
    "layers/gate/value/vars/1": values(4),
    "layers/dense/vars/0": values(4, 1),
    "layers/dense/vars/1": values(1),
}


@pytest.fixture
def in_one_line():
    """Checks that a command was refused in one line."""

    def check(said, code, words):
        assert said.code == code, said
        assert said.err.startswith("modelcut: "), said
        assert said.err.count("\n") == 1, said
        assert words in said.err

    return check


@pytest.fixture
def gate(tmp_path):
    return keras_archive(tmp_path / "gate.keras", [own("Gate", "g"), dense("d", 1)], GATE)


def test_roles_are_the_paths_that_the_file_has(gate, tmp_path):
    model = registry.open_model(gate)
    kinds = {tensor.name: tensor.kind for tensor in model.tensors}
    assert kinds == {
        "g/gate/kernel": "kernel",
        "g/gate/bias": "bias",
        "g/value/kernel": "kernel",
        "g/value/bias": "bias",
        "d/kernel": "kernel",
        "d/bias": "bias",
    }
    registry.for_output(tmp_path / "o.keras", model).write(
        model, tmp_path / "o.keras", WriteOptions()
    )
    with zipfile.ZipFile(tmp_path / "o.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        for place, expected in GATE.items():
            np.testing.assert_array_equal(file[place], expected)


def test_what_numbered_weights_are(tmp_path):
    inside = {
        "att/query_dense/vars/0": ((4, 2, 3), "kernel"),
        "att/query_dense/vars/1": ((2, 3), "bias"),
        "lstm/cell/vars/0": ((4, 12), "kernel"),
        "lstm/cell/vars/1": ((3, 12), "recurrent_kernel"),
        "lstm/cell/vars/2": ((12,), "bias"),
        "gru/cell/vars/0": ((4, 9), "kernel"),
        "gru/cell/vars/1": ((3, 9), "recurrent_kernel"),
        "gru/cell/vars/2": ((2, 9), "bias"),
        "rnn/cell/vars/0": ((3, 3), "kernel"),
        "rnn/cell/vars/1": ((3, 3), "recurrent_kernel"),
        "mix/vars/0": ((3, 3), "kernel"),
        "mix/vars/1": ((3, 3), "weight1"),
        "conv/vars/0": ((3, 3, 4, 2), "kernel"),
        "conv/vars/1": ((1, 1, 8, 5), "pointwise_kernel"),
        "norm/vars/0": ((4,), "weight0"),
        "embedding/vars/0": ((9, 4), "embeddings"),
        "blocks/dense_1/vars/0": ((4, 5), "kernel"),
        "vars/0": ((4,), "weight0"),
        "vars/scale_table": ((4, 7), "scale_table"),
    }
    weights = {f"layers/block/{place}": values(*shape) for place, (shape, _) in inside.items()}
    path = keras_archive(tmp_path / "m.keras", [own("Block", "b")], weights)
    roles = {tensor.key: tensor.role for tensor in registry.open_model(path).tensors}
    for place, (_, role) in inside.items():
        group = "/".join(part for part in place.split("/")[:-1] if part != "vars")
        assert roles[f"layers/block/{place}"] == (f"{group}/{role}" if group else role)


def test_kernels_inside_are_pruned_and_what_is_left_alone_is_said(tmp_path, modelcut):
    more = {"layers/gate/vars/0": values(4), "layers/gate/vars/1": values(4, 6)}
    path = keras_archive(tmp_path / "m.keras", [own("Gate", "g"), dense("d", 1)], {**GATE, **more})
    out = tmp_path / "o.keras"
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", out)
    assert said.code == 0, said
    report = json.loads((tmp_path / "o.report.json").read_text())
    rows = {row["name"]: row for layer in report["layers"] for row in layer["tensors"]}
    for name in ("g/gate/kernel", "g/value/kernel"):
        assert rows[name]["after"]["nonzeros"] == 8
    assert rows["g/weight1"]["after"]["nonzeros"] == 24
    warnings = [line for line in report["warnings"] if "does not know this class" in line]
    assert len(warnings) == 1
    assert "g (Gate)" in warnings[0]
    assert "role:weight1" in warnings[0]
    assert "does not know this class" in said.out + said.err
    included = modelcut("prune", path, "--sparsity", "0.5", "--include", "role:weight1",
                        "--include", "role:*kernel", "-o", out, "-q")  # fmt: skip
    assert included.code == 0, included
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert not [line for line in report["warnings"] if "does not know this class" in line]


def sublayers(class_name="Gate"):
    return [own(class_name, "g"), dense("d", 1)], GATE, (), "of a class that modelcut does not know"


def in_a_submodel():
    inner = {
        "class_name": "Sequential",
        "module": "keras",
        "config": {
            "name": "s",
            "layers": [own("Scale", "x"), dense("d", 4)],
            "build_input_shape": [None, 4],
        },
    }
    base = "layers/sequential/layers"
    weights = {f"{base}/scale/vars/0": values(4), f"{base}/dense/vars/0": values(4, 4)}
    return [inner], {**weights, f"{base}/dense/vars/1": values(4)}, (), "does not know"


def normalization(inside):
    layer = {"class_name": "Normalization", "config": {"name": "n", "axis": [-1]}}
    base = "layers/time_distributed/layer" if inside else "layers/normalization"
    if inside:
        layer = {"class_name": "TimeDistributed", "config": {"name": "t", "layer": layer}}
    weights = {f"{base}/vars/{i}": values(4) for i in (0, 1)} | {f"{base}/vars/2": np.int32(3)}
    return [layer], weights, (), "does not take its mean" if inside else ""


def lora():
    weights = {"layers/dense/vars/0": values(4, 3), "layers/dense/vars/1": values(3)}
    return [dense("d", 3, lora_rank=2)], weights, (), "LoRA"


def vocabulary(text, *, layer=None, asset="vocabulary.txt", why="", **config):
    layer = layer or "StringLookup"
    snake = {"StringLookup": "string_lookup", "IntegerLookup": "integer_lookup"}[layer]
    entry = {"class_name": layer, "config": {"name": "v", "vocabulary": None, **config}}
    weights = {"layers/dense/vars/0": values(4, 3), "layers/dense/vars/1": values(3)}
    return [entry, dense("d", 3)], weights, ((f"assets/layers/{snake}/{asset}", text),), why


REFUSED = {
    "sublayers": sublayers(),
    "in a submodel": in_a_submodel(),
    "inner normalization": normalization(True),
    "lora": lora(),
    "inverse frequencies": vocabulary("a", output_mode="tf_idf", why="inverse document"),
    "no vocabulary": vocabulary("a", asset="other.txt", why="cannot be carried over"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_h5_cannot_hold_is_refused_before_work(name, tmp_path, modelcut, in_one_line):
    layers, weights, assets, words = REFUSED[name]
    path = keras_archive(tmp_path / "m.keras", layers, weights, assets=assets)
    out = tmp_path / "o.h5"
    in_one_line(modelcut("prune", path, "--sparsity", "0.5", "-o", out), 2, words=words)
    packed = tmp_path / "m.mcut"
    assert modelcut("pack", path, "-o", packed, "-q").code == 0
    in_one_line(modelcut("unpack", packed, "-o", out), 2, words=words)
    assert not out.exists()
    assert modelcut("unpack", packed, "-o", tmp_path / "o.keras", "-q").code == 0


NAMES = ["g/gate/kernel", "g/gate/bias", "g/value/kernel", "g/value/bias"]
LEGACY = {
    "g": {name: values(4, 4) if "kernel" in name else values(4) for name in NAMES},
    "d": {"d/kernel": values(4, 1), "d/bias": values(1)},
}


@pytest.mark.parametrize("whole", [True, False])
def test_roles_in_an_h5_are_paths_where_names_are_not_enough(whole, tmp_path):
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": [own("Gate", "g")]}}
    config["config"]["layers"].append(dense("d", 1))
    legacy(tmp_path / "m.h5", LEGACY, config if whole else None, "3.15.0" if whole else None)
    names = [tensor.name for tensor in registry.open_model(tmp_path / "m.h5").tensors]
    assert names == [*NAMES, "d/kernel", "d/bias"]


def test_encodings_kept_under_former_names_are_found(tmp_path, modelcut):
    """An earlier modelcut called the kernels `g/kernel` and `g/kernel'`."""
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": [own("Gate", "g")]}}
    config["config"]["layers"].append(dense("d", 1))
    legacy(tmp_path / "m.h5", LEGACY, config, "3.15.0")
    said = modelcut("prune", tmp_path / "m.h5", "--sparsity", "0.5", "-o", tmp_path / "o.h5")
    assert said.code == 0, said
    model = registry.open_model(tmp_path / "o.h5")
    kept = {tensor.name: tensor.encoding for tensor in model.tensors}
    assert "sparse" in kept["g/value/kernel"].kinds
    former = {"g/kernel": kept["g/gate/kernel"], "g/kernel'": kept["g/value/kernel"]}
    former["d/kernel"] = kept["d/kernel"]
    shutil.copy(tmp_path / "o.h5", tmp_path / "former.h5")
    with h5py.File(tmp_path / "former.h5", "r+") as file:
        del file["modelcut/encodings"]
        hdf5_file.put_encodings(file, former)
    again = {t.name: t.encoding for t in registry.open_model(tmp_path / "former.h5").tensors}
    assert again == kept


def test_weights_of_the_layer_itself_go_into_an_h5(tmp_path):
    weights = {f"layers/scale/vars/{i}": v for i, v in enumerate((values(4, 4), values(4)))}
    path = keras_archive(tmp_path / "m.keras", [own("Scale", "s")], weights)
    model = registry.open_model(path)
    out = tmp_path / "o.h5"
    registry.for_output(out, model).write(model, out, WriteOptions())
    with h5py.File(out) as file:
        group = file["model_weights/s"]
        names = [name.decode() for name in group.attrs["weight_names"]]
        for name, expected in zip(names, weights.values(), strict=True):
            np.testing.assert_array_equal(group[name], expected)


@pytest.mark.parametrize(
    ("layer", "text", "expected"),
    [
        ("StringLookup", "\n[UNK]\nred\nblue", ["", "[UNK]", "red", "blue"]),
        ("IntegerLookup", "-1\n7\n42", [-1, 7, 42]),
    ],
)
def test_a_vocabulary_is_carried_in_the_architecture(layer, text, expected, tmp_path, modelcut):
    layers, weights, assets, _ = vocabulary(text, layer=layer)
    path = keras_archive(tmp_path / "m.keras", layers, weights, assets=assets)
    assert modelcut("pack", path, "-o", tmp_path / "m.mcut", "-q").code == 0
    for source in (path, tmp_path / "m.mcut"):
        command = "unpack" if source.suffix == ".mcut" else "pack"
        out = tmp_path / "o.h5"
        if command == "pack":
            model = registry.open_model(source)
            registry.for_output(out, model).write(model, out, WriteOptions())
        else:
            assert modelcut("unpack", source, "-o", out, "--force", "-q").code == 0
        entry = registry.open_model(out).architecture.root["config"]["layers"][0]
        assert entry["config"]["vocabulary"] == expected


def test_a_normalization_at_the_top_goes_into_an_h5(tmp_path):
    layers, weights, _, _ = normalization(False)
    model = registry.open_model(keras_archive(tmp_path / "m.keras", layers, weights))
    assert not registry.by_name("hdf5").refusal(model)


def test_a_keras_file_needs_the_vocabulary(tmp_path, modelcut, in_one_line):
    layers, *_ = vocabulary("")
    config = {"class_name": "Sequential", "config": {"name": "toy", "layers": layers}}
    path = tmp_path / "m.h5"
    legacy(path, {"v": {}, "d": {"d/kernel": values(4, 3), "d/bias": values(3)}}, config, "3.15.0")
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.keras")
    in_one_line(said, 2, words="no vocabulary")
    layers[0]["config"]["vocabulary"] = ["a", "b"]
    legacy(path, {"v": {}, "d": {"d/kernel": values(4, 3), "d/bias": values(3)}}, config, "3.15.0")
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.keras", "-q")
    assert said.code == 0, said


def test_weights_beside_those_of_a_class_are_refused(tmp_path, modelcut, in_one_line):
    """The summary that a Discretization of Keras 2 keeps: Keras 2 reads none from a .keras."""
    layer = {"class_name": "Discretization", "config": {"name": "v", "num_bins": 4}}
    config = {"class_name": "Sequential", "config": {"name": "toy", "layers": [layer]}}
    legacy(tmp_path / "m.h5", {"v": {"v/summary:0": values(2, 5)}}, config)
    said = modelcut("prune", tmp_path / "m.h5", "--sparsity", "0.5", "-o", tmp_path / "o.keras")
    in_one_line(said, 2, words="beside those of its class")


def test_a_class_of_its_own_may_list_layers(tmp_path):
    entry = own("Stack", "s", trainable=True, layers=[dense("one", 4), dense("two", 4)])
    weights = {"layers/stack/blocks/dense/vars/0": values(4, 4)}
    model = registry.open_model(keras_archive(tmp_path / "m.keras", [entry], weights))
    assert [tensor.name for tensor in model.tensors] == ["s/blocks/dense/kernel"]


NET = own("Net", "net", width=4)
NET_WEIGHTS = {
    "first/vars/0": values(4, 4),
    "first/vars/1": values(4),
    "blocks/dense/vars/0": values(4, 4),
    "vars/0": values(4),
}


class TestAModelOfItsOwnClass:
    @pytest.fixture
    def path(self, tmp_path):
        return keras_archive(tmp_path / "m.keras", [], NET_WEIGHTS, root=NET)

    def test_is_compressed(self, path, tmp_path, modelcut):
        out, packed = tmp_path / "o.keras", tmp_path / "o.mcut"
        assert modelcut("prune", path, "--sparsity", "0.5", "-o", out, "-q").code == 0
        assert modelcut("pack", out, "-o", packed, "-q").code == 0
        assert modelcut("unpack", packed, "-o", tmp_path / "again.keras", "-q").code == 0
        model = registry.open_model(tmp_path / "again.keras")
        found = {tensor.name: tensor.pull()[0] for tensor in model.tensors}
        assert set(found) == {"first/kernel", "first/bias", "blocks/dense/kernel", "model/weight0"}
        for name in ("first/kernel", "blocks/dense/kernel"):
            assert np.count_nonzero(found[name]) == 8
        assert json.loads(model.origin.configuration) == NET

    def test_cannot_be_an_h5(self, path, tmp_path, modelcut, in_one_line):
        said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5")
        in_one_line(said, 2, words="its author's own")

    def test_has_no_layers_to_split(self, path, tmp_path, modelcut, in_one_line):
        said = modelcut("factorize", path, "--rank", "2", "-o", tmp_path / "o.keras")
        in_one_line(said, 2, words="a class of its author's own")

    def test_is_not_run_unasked(self, path, tmp_path, modelcut, in_one_line):
        (tmp_path / "t.csv").write_text("a,label\n1,2\n")
        said = modelcut("eval", path, "--test", tmp_path / "t.csv")
        in_one_line(said, 3, words="--custom-objects")


def test_what_a_functional_model_of_its_own_class_keeps_beside_its_layers(tmp_path):
    root = own("Net", "net", layers=[dense("d", 4)], build_input_shape=[None, 4])
    weights = {"layers/dense/vars/0": values(4, 4), "layers/dense/vars/1": values(4)}
    beside = {**weights, "extra/vars/0": values(4, 4)}
    model = registry.open_model(keras_archive(tmp_path / "m.keras", [], beside, root=root))
    assert [tensor.name for tensor in model.tensors] == ["d/kernel", "d/bias", "extra/kernel"]
    assert "beside the layers" in registry.by_name("hdf5").refusal(model)
    with pytest.raises(InputError, match="does not belong to any layer"):
        registry.open_model(keras_archive(tmp_path / "m.keras", [dense("d", 4)], beside))

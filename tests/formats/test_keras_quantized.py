"""Files that Keras 3 quantized itself, and those with LoRA: opened, told, kept to the bit."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from modelcut.formats import registry
from modelcut.graph.keras import classes, quantized
from modelcut.graph.keras.saved_order import FORMS, slots
from modelcut.graph.node import node_of
from modelcut.model import cost
from modelcut.model.encoding import Fixed

FILES = Path(__file__).parents[1] / "data" / "quantized"
NAMES = sorted(path.name for path in FILES.iterdir() if path.suffix != ".npz")
NETWORKS = [name for name in NAMES if "attention" not in name]
HELD = {
    "int8": "int8 (Keras)",
    "int4": "int4, 2 a byte (Keras)",
    "int4_blocks": "int4, 2 a byte (Keras)",
    "float8": "float8 when run (Keras)",
    "gptq": "gptq int4, 2 a byte (Keras)",
    "awq": "awq int4, 2 a byte (Keras)",
    "attention": "int8 (Keras)",
}


def values_of(path):
    return {tensor.name: tensor.pull()[0] for tensor in registry.open_model(path).tensors}


def raw_weights(path):
    """All weights of a file as they are in it, by place."""
    found = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith(("optimizer", "modelcut")):
            found[name] = (item.dtype.str, item[()].tobytes())

    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member:
            h5py.File(member).visititems(add)
    else:
        with h5py.File(path) as file:
            file.visititems(add)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_each_opens_and_tells_how_its_kernels_are_held(name):
    model = registry.open_model(FILES / name)
    kernels = [t for t in model.tensors if t.role.rpartition("/")[2] == "kernel"]
    assert len(kernels) in (3, 5)
    stem = name.partition(".")[0]
    if stem != "lora":
        assert {t.encoding.label for t in kernels} == {HELD[stem]}
        assert {t.kind for t in model.tensors} <= {"kernel", "attention", "bias", "state"}
    elif name == "lora.h5":
        labels = [t.encoding.label for t in kernels]
        assert labels == ["base of LoRA (Keras)", "dense", "base of LoRA (Keras)"]
    else:  # Keras has merged the factors
        assert {t.encoding.label for t in kernels} == {"dense"}


@pytest.mark.parametrize("name", NAMES)
def test_packed_and_unpacked_to_the_bit(name, modelcut, tmp_path):
    packed, back = tmp_path / "p.mcut", tmp_path / f"back{Path(name).suffix}"
    assert modelcut("pack", FILES / name, "-o", packed).code == 0
    said = modelcut("inspect", packed)
    assert said.out.count("(Keras)") == modelcut("inspect", FILES / name).out.count("(Keras)")
    assert modelcut("unpack", packed, "-o", back).code == 0
    assert raw_weights(back) == raw_weights(FILES / name)


@pytest.mark.parametrize("name", NETWORKS)
def test_multiplications_are_those_of_the_kernels_as_they_were(name):
    counts = cost.macs(registry.open_model(FILES / name))
    assert counts == {"hidden": 30, "narrow": 20, "out": 12}


def test_an_attention_counts_as_if_it_were_not_quantized():
    counts = cost.macs(registry.open_model(FILES / "attention.keras"))
    # Four projections of 4 x 6 for 3 positions, and two products of 3 x 3 x 6.
    assert counts == {"mha": 4 * 3 * (4 * 6) + 2 * 3 * 3 * 6, "each": 3 * 4 * 2}


@pytest.mark.parametrize("name", ["int8.keras", "int4_blocks.keras"])
def test_the_other_format_has_the_order_of_keras_own_file(name, modelcut, tmp_path):
    out, theirs = tmp_path / "out.h5", FILES / name.replace(".keras", ".h5")
    (tmp_path / "copy.yaml").write_text("steps: []\n")
    assert modelcut("run", FILES / name, "-r", tmp_path / "copy.yaml", "-o", out).code == 0
    with h5py.File(out) as mine, h5py.File(theirs) as other:
        for layer in ("hidden", "narrow", "out"):
            names = [
                [n.decode() if isinstance(n, bytes) else n for n in group.attrs["weight_names"]]
                for group in (mine[f"model_weights/{layer}"], other[f"model_weights/{layer}"])
            ]
            assert names[0] == names[1]
    # Keras drew other numbers for its second file; back in the first format all are the same.
    again = tmp_path / "again.keras"
    assert modelcut("run", out, "-r", tmp_path / "copy.yaml", "-o", again).code == 0
    assert raw_weights(again) == raw_weights(FILES / name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("int8.keras", "quantized by Keras (int8)"),
        ("int8.h5", "quantized by Keras (int8)"),
        ("float8.keras", "quantized by Keras (float8 when run)"),
        ("gptq.keras", "quantized by Keras (gptq int4, 2 a byte)"),
        ("lora.h5", "LoRA adds a product"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("prune", "--sparsity", "0.5"),
        ("quantize", "--bits", "4"),
        ("factorize", "--energy", "0.1"),
    ],
)
def test_steps_leave_such_layers_alone_and_say_so(name, reason, command, modelcut, tmp_path):
    out = tmp_path / f"out{Path(name).suffix}"
    said = modelcut(*command, FILES / name, "-o", out, "--report")
    assert said.code == 0, said.err
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert report["steps"][0]["left_alone"]["hidden/kernel"].startswith(reason)
    before, after = values_of(FILES / name), values_of(out)
    if name != "lora.h5":  # one of its layers is plain
        assert report["warnings"]
        assert raw_weights(out) == raw_weights(FILES / name)
    assert before["hidden/kernel"].tobytes() == after["hidden/kernel"].tobytes()


def test_a_merged_kernel_is_edited_like_any_other(modelcut, tmp_path):
    said = modelcut("prune", "--sparsity", "0.5", FILES / "lora.keras", "-o", tmp_path / "o.keras")
    assert said.code == 0
    assert (values_of(tmp_path / "o.keras")["hidden/kernel"] == 0).mean() > 0.3


@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        ("lora.h5", "o.keras", "'hidden' (Dense) has LoRA enabled"),
        ("lora.keras", "o.h5", "'hidden' (Dense) has LoRA enabled"),
    ],
)
def test_what_the_other_format_cannot_hold_is_refused(name, out, words, modelcut, tmp_path):
    said = modelcut("prune", "--sparsity", "0.5", FILES / name, "-o", tmp_path / out)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert words in said.err
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gptq.keras", "hidden and 2 more: Keras left kernel_zero out"),
        ("awq.keras", "hidden and 2 more: Keras left kernel_zero out"),
        ("attention.keras", "mha: the configuration does not say that it is quantized (int8)"),
    ],
)
def test_what_keras_cannot_load_again_is_a_warning(name, words):
    warnings = registry.open_model(FILES / name).origin.warnings
    assert [w.partition(", so that")[0] for w in warnings] == [words]


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        ({"config": {"mode": "int8", "source_name": "float32"}}, "int8"),
        ({"config": {"mode": "int4/128"}}, "int4"),
        ({"config": {"name": "int8_from_float32"}}, "int8"),
        ({"config": {"mode": "gptq/8/-1"}}, "gptq"),
        ("int8_from_mixed_bfloat16", "int8"),
        ("float32", ""),
        ({"config": {"name": "mixed_float16"}}, ""),
        ({"config": {"mode": 8}}, ""),
        ({"config": None}, ""),
        (None, ""),
    ],
)
def test_the_mode_in_a_dtype_policy(dtype, mode):
    assert quantized.mode({"dtype": dtype}) == mode


def test_every_form_of_a_layer_is_consistent():
    """Each weight has a place of its own in a `.keras` file, without gaps."""
    for mode in ("int8", "int4", "int4/8", "float8", "gptq/4/-1", "gptq/8/16", "awq/4/-1"):
        for kind, more in (("Dense", {"units": 3}), ("Embedding", {}), ("EinsumDense", {})):
            config = {"name": "a", "dtype": {"config": {"mode": mode}}, "lora_rank": 2, **more}
            node = node_of({"class_name": kind, "config": config}, ("a",))
            for form in range(FORMS):
                found = slots(node, form)
                places = sorted(int(s.places[0].rpartition("/")[2]) for s in found if s.places)
                assert places == list(range(len(places)))
                assert len({slot.spec.role for slot in found}) == len(found)
                assert found == sorted(found, key=lambda slot: slot.frozen)


def test_plain_layers_have_one_form():
    for kind in ("Dense", "LSTM", "Conv2D", "MultiHeadAttention"):
        assert not quantized.is_changed(kind, {"units": 3, "dtype": "float32"})
        assert classes.weights(kind, {"units": 3})


def test_a_quantized_layer_with_a_weight_too_few_is_refused(modelcut, tmp_path):
    damaged = tmp_path / "damaged.h5"
    with h5py.File(FILES / "int8.h5") as old, h5py.File(damaged, "w") as new:
        for key, value in old.attrs.items():
            new.attrs[key] = value
        old.copy("model_weights", new)
        names = new["model_weights/hidden"].attrs["weight_names"]
        new["model_weights/hidden"].attrs["weight_names"] = names[:-1]
    said = modelcut("inspect", damaged)
    assert said.code == 2
    assert "should have 3 weights (bias, kernel, kernel_scale), the file has 2" in said.err


def test_an_encoding_of_keras_is_dense_to_all_others():
    fixed = Fixed(held="int8")
    assert fixed.kinds == ("dense",)
    assert fixed.record() == {"kind": "dense", "precision": ""}
    values = np.arange(-3, 4, dtype=np.int8)
    assert fixed.project(values) is values

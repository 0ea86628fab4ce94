"""Kernels as the integers of Keras 3's own layers, in `.keras` files; nothing runs a network."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from modelcut.formats import registry
from modelcut.graph.keras import integers
from modelcut.model import keras_ints
from modelcut.model.encodings.affine import Affine

MODELS = Path(__file__).parents[1] / "data" / "models"
QUANTIZED = MODELS.parent / "quantized"


def values_of(path):
    with registry.open_model(path) as model:
        return {tensor.name: tensor.pull()[0] for tensor in model.tensors}


def policies(path):
    with zipfile.ZipFile(path) as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    return {layer["config"]["name"]: layer["config"].get("dtype") for layer in layers}


@pytest.fixture
def made(modelcut, tmp_path):
    """Runs steps on a file, and returns the output and the report."""

    def run(steps, *more, name="keras3_sequential.keras", out="o.keras"):
        recipe, target = tmp_path / "r.yaml", tmp_path / out
        recipe.write_text(json.dumps({"steps": steps}))
        said = modelcut("run", MODELS / name, "-r", recipe, "-o", target, "--force", *more)
        assert said.code == 0, said.err
        return target, json.loads(target.with_suffix(".report.json").read_text())

    return run


@pytest.mark.parametrize(
    ("bits", "linear"),
    [
        (8, {"bits": 8}),
        (8, {"bits": 5, "per": "tensor"}),
        (4, {"bits": 3}),
        (4, {"bits": 4, "group": 3}),
        (4, {"bits": 4, "group": 5, "symmetric": False}),
        (4, {"bits": 2, "symmetric": False}),
    ],
)
def test_linear_weights_keep_their_codes_and_scales(bits, linear, made, tmp_path):
    steps = [{"quantize": "linear", **linear}]
    plain, _ = made(steps, out="plain.keras")
    small, report = made(steps, "--keras-int", str(bits))
    changes = [row["changes"] for layer in report["layers"] for row in layer["tensors"]]
    assert all(len(change) < 2 or change[1]["peak_error"] == 0 for change in changes)
    back, _ = made([{"quantize": "keras_int", "bits": "float"}], name=small, out="back.keras")
    assert not {str(policy) for policy in policies(back).values()} & {"int8", "int4"}
    wanted, found = values_of(plain), values_of(back)
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=3e-7, atol=1e-9, err_msg=name)


def test_codes_scales_and_policies_lie_where_keras_reads_them(made):
    small, report = made([{"quantize": "linear", "bits": 4}], "--keras-int", "8")
    kernel = values_of(made([{"quantize": "linear", "bits": 4}], out="p.keras")[0])["dense/kernel"]
    with zipfile.ZipFile(small) as archive, archive.open("model.weights.h5") as member:
        group = h5py.File(member)["layers/dense/vars"]
        codes, bias, scale = (group[name][()] for name in "012")
    assert (codes.dtype, codes.shape, bias.shape, scale.shape) == ("int8", (8, 12), (12,), (12,))
    assert np.abs(codes).max() == 7
    np.testing.assert_allclose(codes / scale, kernel, rtol=3e-7)
    assert policies(small)["dense"] == {
        "module": "keras.dtype_policies",
        "class_name": "QuantizedDTypePolicy",
        "config": {"mode": "int8", "source_name": "float32"},
        "registered_name": None,
    }
    rows = {row["name"]: row for layer in report["layers"] for row in layer["tensors"]}
    assert rows["dense/kernel"]["encoding"] == "int4 in a Keras int8 layer"


def test_the_file_is_told_verified_and_packed(made, modelcut, tmp_path):
    small, _ = made([], "--keras-int", "4", name="keras3_text.keras")
    assert "int4, 2 a byte (Keras)" in modelcut("inspect", small).out
    assert modelcut("verify", small).code == 0
    packed, back = tmp_path / "p.mcut", tmp_path / "back.keras"
    assert modelcut("pack", small, "-o", packed).code == 0
    assert modelcut("unpack", packed, "-o", back).code == 0
    wanted, found = values_of(small), values_of(back)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    # The step's result in a packed file is floats on the grid, and integers when it is unpacked.
    direct, _ = made([], "--keras-int", "4", name="keras3_text.keras", out="d.mcut")
    there = tmp_path / "there.keras"
    assert modelcut("unpack", direct, "-o", there).code == 0
    found = values_of(there)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


def test_what_stays_in_floats_is_named_with_the_reason(made):
    _, report = made([], "--keras-int", "8", name="keras3_cnn.keras")
    left = report["steps"][-1]["left_alone"]
    assert left["conv2d/kernel"] == "Keras has no integers for a Conv2D: it stays in floats"
    assert "dense/kernel" not in left


def test_what_was_pruned_stays_zero(made):
    steps = [{"prune": "magnitude", "sparsity": 0.5}]
    zeros = values_of(made(steps, out="p.keras")[0])["dense/kernel"] == 0
    small, _ = made(steps, "--keras-int", "4")
    back, _ = made([{"quantize": "keras_int", "bits": "float"}], name=small, out="b.keras")
    assert (values_of(back)["dense/kernel"][zeros] == 0).all()


@pytest.mark.parametrize(
    ("model", "out", "more", "words"),
    [
        ("tf_keras_sequential.h5", "o.keras", (), "only layers of Keras 3 hold integers"),
        ("keras3_sequential.keras", "o.h5", (), "name the output .keras"),
        ("keras3_cnn.keras", "o.keras", ("--keep-optimizer",), "Keras trains no integers"),
        ("keras3_cnn.weights.h5", "o.h5", (), "only layers of Keras 3 hold integers"),
    ],
)
def test_what_has_no_such_layers_is_refused_in_a_line(model, out, more, words, modelcut, tmp_path):
    command = ("quantize", "--bits", "8", "--keras-int", "8", *more)
    said = modelcut(*command, MODELS / model, "-o", tmp_path / out)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert words in said.err
    assert not (tmp_path / out).exists()


def test_another_number_of_bits_is_refused(modelcut, tmp_path):
    said = modelcut("quantize", MODELS / "keras3_cnn.keras", "--keras-int", "5", "-o", tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "'5' is not 8 or 4" in said.err


@pytest.mark.parametrize("name", ["int8.keras", "int4.keras", "int4_blocks.keras"])
def test_files_that_keras_quantized_become_floats(name, modelcut, tmp_path):
    out = tmp_path / "o.h5"
    said = modelcut("quantize", "--method", "keras_int", "--bits", "float", QUANTIZED / name,
                    "-o", out)  # fmt: skip
    assert said.code == 0, said.err
    found, stored = values_of(out), values_of(QUANTIZED / name)
    assert found["hidden/kernel"].shape == (6, 5)
    assert found["hidden/kernel"].dtype == np.float32
    assert "hidden/kernel_scale" not in found
    if name == "int8.keras":
        expected = stored["hidden/kernel"] / stored["hidden/kernel_scale"]
        np.testing.assert_array_equal(found["hidden/kernel"], expected.astype("float32"))


@pytest.mark.parametrize("scale", [np.zeros(5), np.full(4, 0.5), np.full(5, np.nan)])
def test_scales_of_a_damaged_file(scale, modelcut, tmp_path):
    broken = tmp_path / "broken.keras"
    with zipfile.ZipFile(QUANTIZED / "int8.keras") as old, zipfile.ZipFile(broken, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "model.weights.h5":
                (tmp_path / "w.h5").write_bytes(data)
                with h5py.File(tmp_path / "w.h5", "a") as file:
                    del file["layers/dense/vars/2"]
                    file["layers/dense/vars/2"] = scale.astype("float32")
                data = (tmp_path / "w.h5").read_bytes()
            new.writestr(name, data)
    said = modelcut("quantize", "--method", "keras_int", "--bits", "float", broken,
                    "-o", tmp_path / "o.h5")  # fmt: skip
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "fit its codes" in said.err or "NaN or infinite" in said.err


@pytest.mark.parametrize(
    ("equation", "shape", "scales"),
    [
        ("abc,cd->abd", (4, 5), (1, 1, 5)),
        ("abc,cde->abde", (4, 3, 5), (1, 1, 3, 5)),
        ("abde,def->abf", (3, 5, 6), (1, 1, 6)),
        ("ab,cb->ac", (7, 4), (1, 7)),
    ],
)
def test_scales_of_an_einsum_lie_as_its_outputs_do(equation, shape, scales):
    layout = integers.layout("EinsumDense", {"equation": equation}, shape)
    wide = [1 if axis in layout.contracted else n for axis, n in enumerate(shape)]
    scale = np.arange(1.0, 1 + np.prod(wide)).reshape(wide)
    assert layout.of_layer(scale).shape == scales
    np.testing.assert_array_equal(layout.of_kernel(layout.of_layer(scale)), scale)
    rng = np.random.default_rng(0)
    given, letters = equation.partition("->")[0].split(",")
    sizes = dict(zip(letters, shape, strict=True))
    x = rng.normal(size=[sizes.get(letter, 2) for letter in given])
    kernel = rng.normal(size=shape)
    direct = np.einsum(equation, x, kernel * scale)
    np.testing.assert_allclose(np.einsum(equation, x, kernel) * layout.of_layer(scale), direct)


def test_an_equation_that_keras_does_not_quantize_stays():
    found = integers.layout("EinsumDense", {"equation": "...x,xy->...y"}, (4, 5))
    assert "Keras' own quantize fails" in found


def test_grids_that_keras_cannot_hold_are_not_kept():
    dense = integers.layout("Dense", {}, (6, 5))
    column, row = np.ones((1, 5), "f4"), np.ones((6, 1), "f4")
    zero = np.zeros((1, 5), "i4")
    assert keras_ints.kept(Affine(8, column), dense, 8) is not None
    assert keras_ints.kept(Affine(8, row), dense, 8) is None
    assert keras_ints.kept(Affine(8, column, zero), dense, 8) is None
    assert keras_ints.kept(Affine(8, column), dense, 4) is None
    assert keras_ints.kept(Affine(4, np.ones((2, 5), "f4"), None, 3, 0), dense, 8) is None
    assert keras_ints.kept(Affine(4, np.ones((6, 2), "f4"), None, 3, 1), dense, 4) is None
    table = integers.layout("Embedding", {}, (6, 5))
    assert keras_ints.kept(Affine(8, row), table, 8) is not None
    turned = integers.layout("EinsumDense", {"equation": "ab,cb->ac"}, (7, 4))
    assert keras_ints.kept(Affine(4, np.ones((7, 1), "f4")), turned, 4) is None

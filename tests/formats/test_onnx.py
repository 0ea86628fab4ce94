"""`.onnx` files: one written here byte by byte is read; others are made where tf2onnx is."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec

import numpy as np
import pytest
from toys import MODELS

from modelcut.errors import InputError, UnsafeError
from modelcut.formats import registry
from modelcut.formats.onnx import schema
from modelcut.formats.saved_model.proto import put_blob, put_integer

W = np.arange(12, dtype="<f4").reshape(4, 3) - 5
CNN = MODELS / "keras3_cnn.keras"
needs_onnx = pytest.mark.skipif(
    not (find_spec("tf2onnx") and find_spec("onnxruntime")),
    reason='pip install "modelcut[onnx]"',
)


def text(number, value):
    return put_blob(number, value.encode())


def tensor(name, values, **more):
    dims = b"".join(b"\x08" + put_integer(1, n)[1:] for n in values.shape)
    data = dims + put_integer(2, more.get("kind", 1)) + text(8, name)
    return put_blob(5, data + put_blob(9, values.tobytes()) + more.get("extra", b""))


def interface(number, name, *shape):
    axes = b"".join(
        put_blob(1, text(2, n) if isinstance(n, str) else put_integer(1, n)) for n in shape
    )
    kind = put_blob(1, put_integer(1, 1) + put_blob(2, axes))
    return put_blob(number, text(1, name) + put_blob(2, kind))


def node(kind, inputs, output, domain=""):
    names = b"".join(text(1, name) for name in inputs) + text(2, output)
    return put_blob(1, names + text(4, kind) + (text(7, domain) if domain else b""))


def model(*, first=None, domain="", extra=b""):
    graph = node("MatMul", ["x", "net/dense/kernel"], "h", domain) + node("Softmax", ["h"], "y")
    graph += text(2, "net") + (first or tensor("net/dense/kernel", W))
    graph += interface(11, "x", "batch", 4) + interface(12, "y", "batch", 3)
    opset = put_blob(8, put_integer(2, 15))
    return put_integer(1, 8) + text(2, "by hand") + put_blob(7, graph) + opset + extra


def alone(graph):
    """A file with this graph and no other."""
    return put_integer(1, 8) + text(2, "by hand") + graph + put_blob(8, put_integer(2, 15))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "m.onnx").write_bytes(model())
    return tmp_path / "m.onnx"


def test_it_is_read(path):
    with registry.open_model(path) as found:
        (layer,) = found.layers
        assert (layer.path, [t.name for t in layer.tensors]) == (
            ("net/dense",),
            ["net/dense/kernel"],
        )
        assert layer.class_name == "MatMul"
        values, _ = layer.tensors[0].pull()
        np.testing.assert_array_equal(values, W)
        facts = registry.facts(found)["onnx"]
    assert facts["opset"] == 15
    assert facts["operators"] == {"MatMul": 1, "Softmax": 1}
    assert facts["constants"] == {"float32": 48}
    assert facts["inputs"][0]["shape"] == [-1, 4]
    assert (facts["outputs"][0]["name"], facts["outputs"][0]["bytes"]) == ("y", 12)


def test_what_says_how_it_was_made_is_added_at_the_end(path):
    schema.append_metadata(path, "modelcut", json.dumps({"history": [1]}))
    with registry.open_model(path) as found:
        assert found.origin.provenance == {"history": [1]}
        assert found.layers


def test_no_file_stays_open(path):
    before = len(os.listdir("/proc/self/fd"))
    kept = [registry.open_model(path) for _ in range(20)]
    for each in kept:
        next(iter(each.tensors)).pull()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("cut", [1, 9, 40, 100])
def test_damage_is_one_error(path, cut):
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"not a model file|damaged"):
        registry.open_model(path)


def test_flipped_bytes_are_read_or_refused(path):
    whole = path.read_bytes()
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0xFF
        path.write_bytes(bytes(data))
        try:
            with registry.open_model(path) as found:
                for each in found.tensors:
                    each.pull()
        except (InputError, UnsafeError):
            continue


OUTSIDE = tensor("w", W, extra=put_integer(14, 1))
BRANCH = put_blob(5, put_blob(6, OUTSIDE))


@pytest.mark.parametrize(
    "extra",
    [
        put_blob(7, put_blob(1, text(4, "Constant") + put_blob(5, OUTSIDE))),
        put_blob(7, put_blob(1, text(4, "If") + BRANCH)),
        put_blob(7, put_blob(15, put_blob(1, OUTSIDE[2:]))),
        put_blob(25, put_blob(7, text(4, "If") + BRANCH)),
        put_blob(25, put_blob(11, OUTSIDE)),
    ],
    ids=["constant", "branch", "sparse", "function", "default"],
)
def test_no_tensor_anywhere_is_in_another_file(path, extra):
    path.write_bytes(model(extra=extra) if extra[0] != 0x3A else alone(extra))
    with pytest.raises(UnsafeError, match="another file"):
        registry.open_model(path)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (model(first=tensor("w", W, extra=put_integer(14, 1))), UnsafeError, "another file"),
        (model(first=tensor("w", W[:2]).replace(b"\x08\x02", b"\x08\x07")), InputError, "holds 24"),
    ],
)
def test_values_must_be_in_the_file(path, data, error, words):
    path.write_bytes(data)
    with pytest.raises(error, match=words):
        registry.open_model(path)


def test_an_operator_of_others_is_not_run(path, modelcut):
    path.write_bytes(model(domain="evil.com"))
    with registry.open_model(path) as found:
        assert "evil.com.MatMul" in found.origin.warnings[0]
        with pytest.raises(UnsafeError):
            registry.check_runnable(found, trust=False)
        assert registry.check_runnable(found, trust=True)


@pytest.mark.parametrize("name", ["keras3_cnn.h5", "keras3_cnn.keras", "version2_blocks.mcut"])
def test_other_files_are_no_onnx(name):
    assert not schema.looks_like_one(MODELS / name)


def test_only_what_keras_3_loads_becomes_one(path, tmp_path, modelcut):
    said = modelcut("prune", MODELS / "tf_keras_cnn.h5", "--threshold", "0", "-o", "never.onnx")
    assert said.code == 2
    assert "only .h5 and .keras files of Keras 3 become .onnx" in said.err
    said = modelcut("prune", path, "--threshold", "0", "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert "an .onnx cannot be edited" in said.err


@pytest.mark.skipif(bool(find_spec("tf2onnx")), reason="tf2onnx is installed")
def test_without_the_extra_it_is_refused_before_work(tmp_path, modelcut):
    said = modelcut("export", CNN, "-o", tmp_path / "o.onnx")
    assert said.code == 2
    assert "not installed (tf2onnx" in said.err
    assert said.err.endswith('(pip install "modelcut[onnx]")\n')
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_keras_exports_it_and_onnxruntime_runs_it(tmp_path):
    from modelcut import engines, quantize

    outs = [tmp_path / name for name in ("one.onnx", "two.onnx")]
    for out in outs:
        quantize(CNN, out, bits=8)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    quantize(CNN, tmp_path / "q.keras", bits=8)
    networks = [
        engines.open_network(tmp_path / "q.keras", "keras3", suffix=".keras"),
        engines.open_network(outs[0], "onnx", suffix=".onnx"),
    ]
    rows = np.random.default_rng(0).normal(size=(5, *networks[0].inputs[0].shape))
    found = [
        network.predict({network.inputs[0].name: rows.astype("float32")})[0] for network in networks
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert networks[1].outputs[0].activation == networks[0].outputs[0].activation

"""A .tflite is made, measured as it ships, and refused in one line where it cannot be.

Each export starts TensorFlow in a process of its own: what can be shown on the golden files of
`tests/data/tflite` is in `tests/formats/test_litert_format.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toys import MODELS

from modelcut import engines
from modelcut.formats import registry
from modelcut.formats.litert import schema as litert_schema

FILES = Path(__file__).parents[1] / "data" / "tflite"
DEMO = Path(engines.__file__).parents[1] / "demo"
SEQUENTIAL = MODELS / "keras3_sequential.h5"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = ["a,b,c,d,e,f,g,h,label"]
    lines += [",".join(f"{v:.3f}" for v in rng.normal(size=8)) + f",{i % 3}" for i in range(40)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "name", ["keras3_sequential", pytest.param("tf_keras_sequential", marks=pytest.mark.slow)]
)
def test_a_float_file_predicts_as_the_writer_did(name, tmp_path, modelcut, rows):
    out = tmp_path / "m.tflite"
    said = modelcut("export", MODELS / f"{name}.h5", "-o", out, "--test", rows, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["evaluation"]["agreement"]["top1"] == 1
    assert report["evaluation"]["agreement"]["max_difference"] < 1e-5
    assert report["output"]["litert"]["type"] == "float32"
    assert report["evaluation"]["after"]["engine"].lower().startswith(("litert", "tf.lite"))
    model = registry.open_model(out)
    recorded = np.load(MODELS / f"{name}.npz")
    network = engines.open_network(out, model.origin.dialect, suffix=".tflite")
    arrays = [recorded[key] for key in sorted(recorded.files) if key.startswith("input")]
    inputs = {spec.name: array for spec, array in zip(network.inputs, arrays, strict=True)}
    expected = next(recorded[key] for key in sorted(recorded.files) if key.startswith("output"))
    np.testing.assert_allclose(network.predict(inputs)[0], expected, rtol=1e-4, atol=1e-5)
    assert model.origin.provenance["history"]
    # Alone, too, it is known to end in probabilities: the loss is the same.
    alone = json.loads(modelcut("eval", out, "--test", rows, "--json").out)["evaluation"]["after"]
    beside = report["evaluation"]["after"]["metrics"]
    assert alone["metrics"]["log_loss"] == pytest.approx(beside["log_loss"])


def test_a_drop_over_the_gate_fails_the_export(tmp_path, modelcut):
    rows = DEMO / "digits_test.csv"
    out = tmp_path / "m.tflite"
    call = ["quantize", DEMO / "digits.h5", "--bits", "2", "-o", out, "--type", "int8"]
    call += ["--io", "int8", "--scale", "1/16", "--calibrate", rows, "--samples", "20", "--c-array"]
    call += ["--layer-errors"]
    said = modelcut(*call, "--test", rows, "--max-accuracy-drop", "0.001", "--json")
    assert said.code == 1, said
    report = json.loads(said.out)
    evaluation = report["evaluation"]
    before, after = (evaluation[side]["metrics"]["accuracy"] for side in ("before", "after"))
    assert before > after
    gate = report["gates"][0]
    assert (gate["name"], gate["held"]) == ("max_accuracy_drop", False)
    assert gate["value"] == pytest.approx(before - after)
    facts = report["output"]["litert"]
    assert facts["calibration_rows"] == 20
    assert "float32" not in facts["constants"]
    assert [entry["dtype"] for entry in facts["inputs"] + facts["outputs"]] == ["int8", "int8"]
    kept = len(facts["grids"]["exact"]) + len(facts["grids"]["folded"])
    assert kept > 1
    assert not facts["grids"]["lost"]
    assert not out.exists(), "the gate failed"
    assert facts["refined"]["samples"] == 15
    assert facts["refined"]["mse_after"] <= facts["refined"]["mse_before"]
    assert not facts["refined"]["why"]
    _check_layer_errors(report["layer_errors"])
    out = tmp_path / "m.failed.tflite"
    graph = litert_schema.parse(out).graphs[0]
    assert {graph.values[i].dtype for i in graph.inputs + graph.outputs} == {"int8"}
    header = out.with_suffix(".h").read_text()
    assert f"LENGTH {out.stat().st_size}\n" in header
    pages = (tmp_path / "m.report.md").read_text()
    assert f"{kept} of {kept} kept to the bit" in pages
    assert "calibrated on 20 rows" in pages


def _check_layer_errors(found):
    """Those of the demo's network with weights of 2 bits, beside the original's."""
    assert (found["samples"], found["reference"], found["why"]) == (20, "", "")
    layers = {row["layer"]: row for row in found["layers"]}
    # The pooling and the flattening give what goes into them: one of them stands for both.
    assert {"conv1", "norm1", "conv2", "pool", "dense1", "digit"} <= set(layers)
    assert "pool" in found["unmatched"].get("flatten", "")
    assert layers["conv1"]["class"] == "Conv2D"
    ratios = [row["sqnr_db"] for row in found["layers"]]
    assert all(-5 < ratio < 25 for ratio in ratios), (ratios, "2 bits")
    assert all(row["mse"] > 0 for row in found["layers"])


def test_a_pruned_kernel_in_the_sparse_form(tmp_path, modelcut):
    out = tmp_path / "m.tflite"
    call = ["prune", FILES / "base.h5", "--include", "wide", "--block", "[4, 1]", "--sparsity"]
    said = modelcut(*call, "0.9", "-o", out, "--sparse", "--json")
    assert said.code == 0, said
    facts = json.loads(said.out)["output"]["litert"]
    assert facts["constants"]["float32 sparse"] < 2048 * 4 // 4
    assert facts["sparse"]["bytes"] == out.stat().st_size < facts["sparse"]["dense_bytes"] - 4096
    assert min(facts["sparse"]["ms"], facts["sparse"]["dense_ms"]) > 0
    said = modelcut("inspect", out)
    assert said.code == 0
    assert "1 constants in LiteRT's sparse form" in said.out


@pytest.mark.slow
def test_int8_is_the_same_every_time(tmp_path, modelcut, rows):
    flags = ["--type", "int8", "--io", "int8", "--calibrate", rows, "--samples", "20"]
    out = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    for path in out:
        assert modelcut("export", SEQUENTIAL, "-o", path, *flags, "-q").code == 0
    assert out[0].read_bytes() == out[1].read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-o", "m.tflite", "--type", "int8"), "--calibrate"),
        (("-o", "m.tflite", "--io", "int8"), "io"),
        (("-o", "m.tflite", "--type", "int3"), "--type"),
        (("-o", "m.h5"), ".tflite"),
        (("-o", "m.tflite", "--type", "int8", "--sparse"), "sparse"),
        (("-o", "m.tflite", "--sparse", "--c-array"), "sparse kernels"),
        (("-o", "m.tflite", "--layer-errors"), "--calibrate"),
    ],
)
def test_bad_usage_is_one_line(flags, words, tmp_path, modelcut, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = modelcut("export", SEQUENTIAL, *flags)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert words in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags", [("--type", "int8"), ("--c-array",), ("--sparse",), ("--layer-errors",)]
)
def test_its_flags_are_for_a_tflite_only(flags, tmp_path, modelcut):
    call = ("prune", SEQUENTIAL, "--sparsity", "0.5", *flags, "-o", tmp_path / "o.h5")
    said = modelcut(*call)
    assert said.code == 2
    assert flags[0] in said.err


def test_a_custom_operator_needs_trust(tmp_path, modelcut):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    sound = (FILES / "float32.tflite").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(sound, 0))
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, b"FlexPyFunc"
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "m.tflite"
    path.write_bytes(builder.Output())
    said = modelcut("eval", path, "--test", FILES / "rows.csv")
    assert said.code == 3
    assert "FlexPyFunc" in said.err
    said = modelcut("eval", path, "--test", FILES / "rows.csv", "--trust")
    assert said.code == 2
    assert said.err.count("\n") == 1


def test_a_tflite_is_not_edited(tmp_path, modelcut):
    path = FILES / "float32.tflite"
    for out in ("o.tflite", "o.h5", "o.keras", "o.mcut", "o.zip", "o"):
        said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / out)
        assert said.code == 2, said
        assert said.err.count("\n") == 1
        assert "start from the Keras file that it was made of" in said.err
    assert modelcut("inspect", path).code == 0


@pytest.mark.slow
def test_a_packed_file_becomes_one_too(tmp_path, modelcut):
    packed, out = tmp_path / "m.mcut", tmp_path / "m.tflite"
    assert modelcut("quantize", SEQUENTIAL, "--bits", "8", "-o", packed, "-q").code == 0
    assert modelcut("export", packed, "-o", out, "-q").code == 0
    assert registry.open_model(out).origin.format == "litert"


@pytest.mark.parametrize("kind", ["int8", "int16x8"])
def test_a_layer_that_has_no_int8_form_is_found_before_any_work(kind, tmp_path, modelcut, rows):
    text = MODELS / "keras3_text.keras"
    flags = ["--type", kind, "--calibrate", rows, "-o", tmp_path / "m.tflite"]
    said = modelcut("export", text, *flags)
    assert said.code == 2
    assert "keras3_text.keras: the layer " in said.err
    assert f"has no {kind} form in LiteRT" in said.err
    assert "--type dynamic takes it" in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())

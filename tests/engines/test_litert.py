"""A .tflite is made, measured as it ships, and refused in one line where it cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toys import MODELS

from modelcut import engines, formats
from modelcut.formats import _tflite

SEQUENTIAL = MODELS / "keras3_sequential.h5"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = ["a,b,c,d,e,f,g,h,label"]
    lines += [",".join(f"{v:.3f}" for v in rng.normal(size=8)) + f",{i % 3}" for i in range(40)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", ["keras3_sequential", "tf_keras_sequential"])
def test_a_float_file_predicts_as_the_writer_did(name, tmp_path, modelcut, rows):
    out = tmp_path / "m.tflite"
    said = modelcut("export", MODELS / f"{name}.h5", "-o", out, "--test", rows, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["evaluation"]["agreement"]["top1"] == 1
    assert report["evaluation"]["agreement"]["max_difference"] < 1e-5
    assert report["output"]["litert"]["type"] == "float32"
    assert report["evaluation"]["after"]["engine"].lower().startswith(("litert", "tf.lite"))
    model = formats.open_model(out)
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


def test_int8_in_and_out_is_the_same_every_time(tmp_path, modelcut, rows):
    flags = ["--type", "int8", "--io", "int8", "--calibrate", rows, "--samples", "20"]
    out = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    said = modelcut("export", SEQUENTIAL, "-o", out[0], *flags, "--test", rows, "--json")
    assert said.code == 0, said
    facts = json.loads(said.out)["output"]["litert"]
    assert facts["calibration_rows"] == 20
    assert facts["constants"]["int8"] > 0
    assert "float32" not in facts["constants"]
    assert modelcut("export", SEQUENTIAL, "-o", out[1], *flags, "-q").code == 0
    assert out[0].read_bytes() == out[1].read_bytes()
    graph = _tflite.parse(out[0]).graphs[0]
    assert {graph.values[i].dtype for i in graph.inputs + graph.outputs} == {"int8"}


def test_a_gate_holds_for_the_file_that_ships(tmp_path, modelcut):
    out = tmp_path / "m.tflite"
    said = modelcut("export", SEQUENTIAL, "-o", out, "--max-bytes", "10", "-q")
    assert said.code == 1
    assert out.stat().st_size > 10


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-o", "m.tflite", "--type", "int8"), "--calibrate"),
        (("-o", "m.tflite", "--io", "int8"), "io"),
        (("-o", "m.tflite", "--type", "int3"), "--type"),
        (("-o", "m.h5"), ".tflite"),
    ],
)
def test_bad_usage_is_one_line(flags, words, tmp_path, modelcut, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = modelcut("export", SEQUENTIAL, *flags)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert words in said.err
    assert not list(tmp_path.iterdir())


def test_its_flags_are_for_a_tflite_only(tmp_path, modelcut):
    said = modelcut(
        "prune", SEQUENTIAL, "--sparsity", "0.5", "--type", "int8", "-o", tmp_path / "o.h5"
    )
    assert said.code == 2
    assert "--type" in said.err


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A file as modelcut makes it, its bytes."""
    from modelcut.engines import litert

    path = tmp_path_factory.mktemp("sound") / "m.tflite"
    request = dict.fromkeys(("custom_objects", "calibrate"))
    request |= {"source": str(SEQUENTIAL), "shown": "m.h5", "dialect": "keras3", "suffix": ".h5"}
    request |= {"trust": False, "target": str(path), "type": "float32", "io": "float32"}
    litert.convert({**request, "samples": 1, "data": {}, "metadata": "x", "provenance": "{}"})
    return path.read_bytes()


def test_truncated_and_random_files_are_refused(sound, tmp_path, modelcut, rows):
    path = tmp_path / "m.tflite"
    rng = np.random.default_rng(0)
    cuts = [sound[: len(sound) * part // 10] for part in (1, 5, 9)]
    for raw in (*cuts, sound[:8] + rng.bytes(4096), sound[:8]):
        path.write_bytes(raw)
        said = modelcut("eval", path, "--test", rows)
        assert said.code == 2, said
        assert said.err.count("\n") == 1, said.err


def test_flipped_bits_never_crash_the_reader(sound, tmp_path):
    from modelcut.errors import ModelcutError

    path = tmp_path / "m.tflite"
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        raw = bytearray(sound)
        for at in rng.integers(8, len(raw), 8):
            raw[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(raw)
        try:
            for tensor in formats.open_model(path).tensors:
                tensor.pull()
        except ModelcutError:
            refused += 1
    assert refused


def test_a_custom_operator_needs_trust(sound, tmp_path, modelcut, rows):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(sound, 0))
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, b"FlexPyFunc"
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "m.tflite"
    path.write_bytes(builder.Output())
    said = modelcut("eval", path, "--test", rows)
    assert said.code == 3
    assert "FlexPyFunc" in said.err
    said = modelcut("eval", path, "--test", rows, "--trust")
    assert said.code == 2
    assert said.err.count("\n") == 1


def test_a_tflite_is_not_edited(sound, tmp_path, modelcut):
    path = tmp_path / "m.tflite"
    path.write_bytes(sound)
    for out in ("o.tflite", "o.h5", "o.keras"):
        said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / out)
        assert said.code == 2, said
        assert said.err.count("\n") == 1
    assert modelcut("inspect", path).code == 0


def test_a_packed_file_becomes_one_too(tmp_path, modelcut):
    packed, out = tmp_path / "m.mcut", tmp_path / "m.tflite"
    assert modelcut("quantize", SEQUENTIAL, "--bits", "8", "-o", packed, "-q").code == 0
    assert modelcut("export", packed, "-o", out, "-q").code == 0
    assert formats.open_model(out).origin.format == "litert"

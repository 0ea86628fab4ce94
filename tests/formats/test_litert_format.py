"""`.tflite` files read, their grids put in, and written as C; nothing here starts TensorFlow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from toys import toy_model

from modelcut import engines
from modelcut.engines.litert import int4
from modelcut.engines.litert import network as litert_network
from modelcut.engines.litert.converter import spread
from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.formats.litert import c_array, kept_scales, tflite
from modelcut.formats.litert import schema as litert_schema
from modelcut.graph.node import Node
from modelcut.job import fold, inspect, provenance
from modelcut.model.encodings.affine import Affine
from modelcut.model.encodings.codebook import Codebook
from modelcut.recipe import recipe, yaml_text

FILES = Path(__file__).parents[1] / "data" / "tflite"
STEPS = (FILES / "steps.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def known():
    """Tensor name -> values and encoding, from the very step that made the grids."""
    steps = recipe.parse(yaml_text.loads(STEPS, "tiny"))
    models = fold.fold(registry.open_model(FILES / "base.h5"), steps, lambda _: None).models
    return {tensor.name: tensor.pull() for tensor in models[-1].tensors}


def kept(kind, known, folder):
    """A golden file with its grids put in, and what is told of it."""
    path = folder / "m.tflite"
    shutil.copy(FILES / f"{kind}.tflite", path)
    encodings = {name: encoding for name, (_, encoding) in known.items()}
    found, lost = kept_scales.find(registry.open_model(FILES / "tiny.h5"), encodings)
    assert not lost
    return path, kept_scales.keep(path, FILES / "float32.tflite", found, lost)


def operators(path):
    """The operators that have kernels, in order, as LiteRT's own schema reads them."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    names = ("first", "deep", "wide", "last")
    found = [o for o in graph.operators if len(o.inputs) == 3]
    assert len(found) == 4
    return dict(zip(names, found, strict=True)), graph, model


def steps_and_scale(known, name):
    """Whole steps from zero, and their size, as the encoding of the step says."""
    values, encoding = known[name]
    zero = (1 << (encoding.width - 1)) - 1 if encoding.zero_point is None else encoding.zero_point
    codes = encoding.codes(values).astype(np.int32) - zero
    return codes, np.broadcast_to(encoding.scale, values.shape)


LAST = {"deep": "depthwise_kernel"}


@pytest.mark.parametrize(
    ("kind", "exact", "folded"),
    [
        ("int8", ["deep", "wide", "last"], ["first"]),
        ("int16x8", ["deep", "wide", "last"], ["first"]),
        ("dynamic", ["wide"], []),
    ],
)
def test_the_grid_of_the_step_stands_in_the_file(kind, exact, folded, known, tmp_path):
    path, told = kept(kind, known, tmp_path)
    full = {name: f"{name}/{LAST.get(name, 'kernel')}" for name in ("first", *LAST, "wide", "last")}
    assert sorted(told.exact) == sorted(full[name] for name in exact)
    assert told.folded == [full[name] for name in folded]
    assert sorted(told.floats) == sorted(full[n] for n in full if n not in (*exact, *folded))
    assert not told.lost
    found, graph, model = operators(path)
    for name in exact:
        kernel = graph.tensors[found[name].inputs[1]]
        codes, scale = steps_and_scale(known, full[name])
        raw = model.buffers[kernel.buffer].data.view(np.int8).reshape(kernel.shape)
        if name == "deep":  # (3, 3, 8, 1) -> (1, 3, 3, 8)
            wanted, each = codes[None, :, :, :, 0], scale[0, 0, :, 0]
        else:
            wanted, each = codes.T, scale[0]
        np.testing.assert_array_equal(raw, wanted)
        np.testing.assert_array_equal(kernel.quantization.scale, each)
        assert not np.any(kernel.quantization.zeroPoint)
    for name in folded:  # times a BatchNorm's: the codes stay, but for a sign
        kernel = graph.tensors[found[name].inputs[1]]
        codes, _ = steps_and_scale(known, full[name])
        raw = model.buffers[kernel.buffer].data.view(np.int8).reshape(kernel.shape)
        np.testing.assert_array_equal(np.abs(raw), np.abs(np.moveaxis(codes, -1, 0)))


@pytest.mark.parametrize(("kind", "width"), [("int8", np.int32), ("int16x8", np.int64)])
def test_the_bias_follows_the_scales(kind, width, known, tmp_path):
    path, _ = kept(kind, known, tmp_path)
    found, graph, model = operators(path)
    for name in ("deep", "wide", "last"):
        source, kernel, bias = (graph.tensors[i] for i in found[name].inputs)
        scale = np.float32(source.quantization.scale[0]) * kernel.quantization.scale
        np.testing.assert_array_equal(bias.quantization.scale, scale)
        floats = known[f"{name}/bias"][0].astype(np.float64)
        codes = model.buffers[bias.buffer].data.view(width)
        np.testing.assert_array_equal(codes, np.rint(floats / scale))


def outputs(path):
    rows = np.loadtxt(FILES / "rows.csv", delimiter=",", skiprows=1, dtype="float32")
    network = engines.open_network(path, "litert", suffix=".tflite")
    return network.predict({network.inputs[0].name: rows.reshape(-1, 8, 8, 1)})[0]


def test_it_predicts_what_the_floats_do(known, tmp_path):
    floats = outputs(FILES / "float32.tflite")
    # Only activations are rounded, and clipped to what was seen in calibrating; and in the file
    # of 4 bits one kernel whose grid has 8.
    for kind, most in {"int16x8": 0.02, "dynamic": 0.05, "int8": 0.1, "int4": 0.5}.items():
        path, _ = kept(kind, known, tmp_path)
        assert 0 < np.abs(floats - outputs(path)).max() < most, kind


def test_what_4_bits_cannot_hold_is_lost_and_said(known, tmp_path):
    _, told = kept("int4", known, tmp_path)
    assert list(told.lost) == ["wide/kernel"]
    assert "beyond int4" in told.lost["wide/kernel"]
    assert len(told.floats) == 3


def test_a_grid_of_4_bits_stands_in_4_bits(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (128, 16)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, 16).astype("float32")
    twin, path = tmp_path / "twin.tflite", tmp_path / "m.tflite"
    shutil.copy(FILES / "float32.tflite", twin)
    file = litert_schema.parse(twin, writable=True)
    _, kernel = next(f for f in kept_scales._kernels(file).values() if f[1].shape == (16, 128))
    kernel.raw.view("<f4")[:] = (codes * scale).T.ravel()
    del file, kernel
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(twin.read_bytes(), 0))
    assert int4.quantized(model, schema) == 1
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    grid = kept_scales.exact_scales(np.ascontiguousarray((codes * scale).T))
    told = kept_scales.keep(path, twin, {"wide/kernel": grid}, {})
    assert told.exact == ["wide/kernel"]
    found, graph, model = operators(path)
    kernel = graph.tensors[found["wide"].inputs[1]]
    assert kernel.type == schema.TensorType.INT4
    raw = model.buffers[kernel.buffer].data
    low, high = (raw << 4).view(np.int8) >> 4, raw.view(np.int8) >> 4
    np.testing.assert_array_equal(np.stack([low, high], 1).reshape(16, 128), codes.T)
    np.testing.assert_array_equal(kernel.quantization.scale, scale)


@pytest.mark.parametrize("most", [1, 3, 7, 15, 127])
def test_a_grid_is_found_by_looking(most):
    rng = np.random.default_rng(most)
    codes = rng.integers(-most, most + 1, (12, 300))
    codes[:, 0] = most
    scale = rng.uniform(1e-4, 3, 12).astype("float32")
    rows = codes.astype("float32") * scale[:, None]
    grid = kept_scales.exact_scales(rows)
    np.testing.assert_array_equal(grid.codes * grid.scale[:, None], rows)
    np.testing.assert_array_equal(grid.codes, codes)
    rows[5, 1:] = rng.normal(size=299)
    assert kept_scales.exact_scales(rows) is None


def test_plain_weights_lie_on_no_grid():
    rng = np.random.default_rng(0)
    assert kept_scales.exact_scales(rng.normal(size=(8, 500)).astype("float32")) is None
    assert kept_scales.exact_scales(np.full((2, 9), np.nan, "float32")) is None
    assert kept_scales.exact_scales(np.zeros((2, 9), "float32")) is None


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        (Affine(8, np.full((1, 1), 0.01, "f4"), np.full((1, 1), 20, "i4")), "is asymmetric"),
        (Affine(4, np.full((4, 1), 0.1, "f4"), None, 4, 0), "group"),
        (Codebook(np.array([-1.7, -0.31, 0.53, 1.1], "f4")), "not multiples of one scale"),
    ],
)
def test_grids_that_litert_has_no_form_for_are_told(encoding, words):
    rng = np.random.default_rng(0)
    if isinstance(encoding, Affine) and encoding.group:
        encoding = Affine(4, rng.uniform(0.1, 0.3, (4, 6)).astype("f4"), None, 4, 0)
    values = encoding.project(rng.normal(size=(16, 6)).astype("f4") * 2)
    found, lost = kept_scales.find(toy_model({"one": (values, None)}), {"one/kernel": encoding})
    assert not found
    assert words in lost["one/kernel"]


def test_a_file_is_read_as_its_interpreter_reads_it():
    from ai_edge_litert.interpreter import Interpreter

    model = registry.open_model(FILES / "int8.tflite")
    tensors = {t.name.rpartition("/")[2] + str(t.shape): t for t in model.tensors}
    assert model.origin.dialect == "litert"
    interpreter = Interpreter(str(FILES / "int8.tflite"))
    seen = 0
    for entry in interpreter.get_tensor_details():
        tensor = tensors.get(f"kernel{tuple(entry['shape'].tolist())}")
        if tensor is None or entry["dtype"] != np.int8:
            continue
        grid = entry["quantization_parameters"]
        at = grid["quantized_dimension"]
        shape = [-1 if i == at else 1 for i in range(len(entry["shape"]))]
        codes = interpreter.get_tensor(entry["index"]).astype("float32")
        np.testing.assert_array_equal(tensor.pull()[0], codes * grid["scales"].reshape(shape))
        seen += 1
    assert seen >= 4


def test_inspect_tells_of_inputs_and_grids(modelcut):
    said = modelcut("inspect", FILES / "int8.tflite")
    assert said.code == 0
    assert "int8 1×8×8×1" in said.out
    assert "FULLY_CONNECTED" in said.out
    assert "int8" in said.out


def test_damaged_files_end_in_one_line(tmp_path, modelcut):
    sound = (FILES / "int8.tflite").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.tflite"
    cuts = [sound[: len(sound) * part // 10] for part in (1, 5, 9)]
    for raw in (*cuts, sound[:8] + rng.bytes(4096), sound[:8]):
        path.write_bytes(raw)
        for call in (("inspect", path), ("eval", path, "--test", FILES / "rows.csv")):
            said = modelcut(*call)
            assert said.code == 2, said
            assert said.err.count("\n") == 1, said.err


def flipped(sound, rng, many):
    raw = bytearray(sound)
    for at in rng.integers(8, len(raw), many):
        raw[at] ^= 1 << int(rng.integers(8))
    return bytes(raw)


def test_flipped_bits_never_crash_the_reader(tmp_path):
    sound = (FILES / "int8.tflite").read_bytes()
    path = tmp_path / "m.tflite"
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        path.write_bytes(flipped(sound, rng, 8))
        try:
            with inspect.look(path):
                pass
        except ModelcutError:
            refused += 1
    assert 0 < refused < 300


def test_flipped_bits_never_end_the_parent(tmp_path, modelcut):
    sound = (FILES / "float32.tflite").read_bytes()
    against, path = tmp_path / "sound.tflite", tmp_path / "m.tflite"
    against.write_bytes(sound)
    rng = np.random.default_rng(2)
    codes = set()
    for _ in range(6):
        path.write_bytes(flipped(sound, rng, 12))
        said = modelcut("eval", path, "--against", against, "--test", FILES / "rows.csv", "-q")
        assert said.code in (0, 2, 3), said
        assert "Traceback" not in said.err
        codes.add(said.code)
    assert 2 in codes


def test_a_loop_without_an_end_is_ended(tmp_path, modelcut, monkeypatch):
    monkeypatch.setattr(litert_network, "ROW_SECONDS", 1)
    rows = tmp_path / "rows.csv"
    rows.write_text("x,label\n0.5,1.0\n")
    said = modelcut("eval", FILES / "endless.tflite", "--test", rows)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "stopped after 1 s of CPU on one row" in said.err


def test_rows_are_spread_over_the_stream():
    def batches(total, size):
        for start in range(0, total, size):
            yield min(size, total - start), lambda row, start=start: start + row

    sizes = ((1000, 64, 10), (1000, 7, 10), (5, 2, 10), (10, 3, 10), (999, 256, 1))
    for total, size, count in sizes:
        rows = spread(batches(total, size), count)
        assert len(rows) == min(total, count)
        assert rows == sorted(set(rows))
        gaps = np.diff([*rows, total])
        assert rows[0] == 0
        assert gaps.max() <= 3 * total / len(rows)


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    """The golden 8-bit file as a C array."""
    path = tmp_path_factory.mktemp("c") / "my-model.v2.h"
    source = FILES / "int8.tflite"
    facts = tflite.describe(litert_schema.parse(source))
    arena = litert_network.arena(source, 1)
    path.write_text("".join(c_array.text(source.read_bytes(), "my-model.v2", facts, arena)))
    return path, arena


def test_the_c_array_compiles_and_is_the_file(header, tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    path, _ = header
    program = tmp_path / "main.c"
    program.write_text(
        f'#include <stdio.h>\n#include "{path}"\n'
        "int main(void) { fwrite(my_model_v2, 1, MY_MODEL_V2_LENGTH, stdout);\n"
        '  fprintf(stderr, "%d %d %d %.9g %d", (int)((unsigned long)my_model_v2 % 16),\n'
        "    MY_MODEL_V2_INPUT_0_BYTES, MY_MODEL_V2_OUTPUT_0_BYTES,\n"
        "    MY_MODEL_V2_INPUT_0_SCALE, MY_MODEL_V2_INPUT_0_ZERO_POINT); return 0; }\n"
    )
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "main"]
    subprocess.run([compiler, *flags, program], check=True)
    ran = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert ran.stdout == (FILES / "int8.tflite").read_bytes()
    graph = litert_schema.parse(FILES / "int8.tflite").graphs[0]
    grid = graph.values[graph.inputs[0]].quantization
    told = ran.stderr.decode().split()
    assert told[:3] == ["0", "64", "4"]
    assert np.float32(told[3]) == grid.scale[0]
    assert int(told[4]) == grid.zero_point[0]
    assert provenance.is_ours(path)
    assert not provenance.is_ours(program.rename(tmp_path / "main.h"))


def test_the_arena_is_one_that_the_micro_interpreter_runs_in(header):
    pytest.importorskip("tflite_micro")
    path, arena = header
    assert f"MY_MODEL_V2_ARENA_BYTES {arena['bytes']}\n" in path.read_text()
    program = (
        "import sys, numpy\n"
        "from tflite_micro.python.tflite_micro.runtime import Interpreter\n"
        "it = Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))\n"
        "it.set_input(numpy.zeros((1, 8, 8, 1), 'int8'), 0)\n"
        "it.invoke()\n"
    )
    for size, runs in ((arena["bytes"], True), (arena["bytes"] * 3 // 4, False)):
        call = [sys.executable, "-c", program, str(FILES / "int8.tflite"), str(size)]
        ended = subprocess.run(call, capture_output=True, check=False)
        assert (ended.returncode == 0) == runs, ended.stderr


def test_what_microcontrollers_do_not_run_has_no_arena():
    pytest.importorskip("tflite_micro")
    arena = litert_network.arena(FILES / "dynamic.tflite", 1)
    assert arena["bytes"] is None
    assert "does not run it" in arena["why"]
    facts = tflite.describe(litert_schema.parse(FILES / "dynamic.tflite"))
    text = "".join(c_array.text(b"0123", "m", facts, arena))
    assert "ARENA_BYTES" not in text
    assert "not measured" in text


def test_names_in_a_c_array_end_no_comment():
    entry = {"name": "*/ int evil; /*", "dtype": "int8", "shape": [1], "bytes": 1}
    facts = {"inputs": [{**entry, "scale": None, "zero_point": None}], "outputs": []}
    text = "".join(c_array.text(b"01", "9 lives", facts, {"bytes": None, "why": "no */"}))
    assert "*/ int" not in text
    assert "model_9_lives[MODEL_9_LIVES_LENGTH]" in text


@pytest.mark.parametrize(
    ("class_name", "config", "named"),
    [
        ("LSTM", {}, "'seq' (LSTM)"),
        ("GRU", {"unroll": False}, "'seq' (GRU)"),
        ("RNN", {"cell": {"class_name": "LSTMCell", "config": {"units": 2}}}, "'seq' (RNN)"),
        ("ConvLSTM2D", {}, "'seq' (ConvLSTM2D)"),
        ("Bidirectional", {"layer": {"class_name": "LSTM", "config": {}}}, "'seq' (LSTM)"),
        ("LSTM", {"unroll": True}, ""),
        ("TimeDistributed", {"layer": {"class_name": "Dense", "config": {}}}, ""),
        ("MultiHeadAttention", {}, ""),
    ],
)
def test_layers_that_become_a_loop_are_found_before_the_converter(class_name, config, named):
    # TensorFlow's converter 2.21 ends in SIGSEGV on LSTM, RNN and ConvLSTM1D, as was tried.
    layer = Node(("seq",), class_name, config)
    model = SimpleNamespace(architecture=SimpleNamespace(nodes=(layer,)))
    litert = registry.by_name("litert")
    for kind in ("int8", "int16x8"):
        found = litert.unconvertible(model, kind)
        assert named in found
        assert bool(found) == bool(named)
    assert not litert.unconvertible(model, "dynamic")

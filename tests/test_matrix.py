"""Every kind of input into every kind of output: it works, or is refused with a way out."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "data"))
import matrix
from toys import MODELS, SAVED_MODELS, contents

from modelcut import engines
from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe

WAYS_OUT = ("name ", "keep to", "start from", "export it")

# What goes into what, written by hand: of each kind of input, in the order of `matrix.OUTPUTS`
# (.h5, .keras, SavedModel, .tar.gz, .zip, .mcut, .tflite).
#   weights   the same weights in another file
#   Keras     a SavedModel that Keras exports, with the same weights and the same outputs
#   LiteRT    a .tflite with the same outputs
#   refused   LiteRT's converter refuses it (text goes into this network)
#   no        refused before any work
KERAS = "weights weights Keras Keras Keras weights LiteRT"
GRAPH = "no no weights weights weights weights LiteRT"
TEXT = "no no weights weights weights weights refused"
WEIGHTS = "weights no no no no weights no"
EXPECTED = {
    "Keras 3 `.h5`": KERAS,
    "Keras 3 `.keras`": KERAS,
    "Keras 2 `.h5`": KERAS,
    "Keras 2 `.keras`": KERAS,
    "Keras 1 `.h5`": WEIGHTS,
    "weights only": WEIGHTS,
    "SavedModel of Keras 2": "weights weights weights weights weights weights LiteRT",
    "SavedModel of Keras 3": GRAPH,
    "SavedModel of a module": TEXT,
    "SavedModel of TensorFlow 1": GRAPH,
    "LiteRT `.tflite`": "no no no no no no no",
    "its `.tar.gz`": "weights weights weights weights weights weights LiteRT",
    "its `.zip`": GRAPH,
    "`.mcut` of Keras 3": KERAS,
    "`.mcut` of a SavedModel": TEXT,
}
CASES = [
    (name, output, said)
    for name, row in EXPECTED.items()
    for output, said in zip(matrix.OUTPUTS.values(), row.split(), strict=True)
]
RECORDED = {
    "Keras 3 `.h5`": MODELS / "keras3_cnn.npz",
    "Keras 3 `.keras`": MODELS / "keras3_cnn.npz",
    "Keras 2 `.h5`": MODELS / "tf_keras_cnn.npz",
    "Keras 2 `.keras`": MODELS / "tf_keras_cnn.npz",
    "SavedModel of Keras 2": SAVED_MODELS / "tf_keras.npz",
    "SavedModel of Keras 3": SAVED_MODELS / "keras3.npz",
    "SavedModel of TensorFlow 1": SAVED_MODELS / "v1.npz",
    "its `.tar.gz`": SAVED_MODELS / "tf_keras.npz",
    "its `.zip`": SAVED_MODELS / "v1.npz",
    "`.mcut` of Keras 3": MODELS / "keras3_cnn.npz",
}
"""Inputs and outputs that the network's writer recorded."""


def values_of(model):
    """The values of all tensors, whatever they are called."""
    return Counter(t.pull()[0].tobytes() for t in model.tensors if t.size > 1)


def convert(path, out):
    return pipeline.run(Job(path, Recipe(()), out, report=False))


# What is in a file, read without modelcut: by h5py, TensorFlow and the LiteRT interpreter.


def stored_values(path, scratch):
    """The values of all weights in a file, optimizers left out."""
    if path.suffix == ".mcut":  # nobody else reads it
        return values_of(registry.open_model(path))
    path = unpacked(path, scratch)
    if path.is_dir():
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        # Keras 3 lists its variables twice, here and under `variables`.
        twice = ("_all_variables/", "_CHECKPOINTABLE")
        names = [n for n in reader.get_variable_to_shape_map() if not n.startswith(twice)]
        found = {name: reader.get_tensor(name) for name in names}
    else:
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {})
            )
    return Counter(
        np.asarray(values).tobytes()
        for name, values in found.items()
        if "optimizer" not in name.lower() and not name.startswith("modelcut/")
        if np.size(values) > 1
    )


def unpacked(path, scratch):
    """The folder in an archive, the HDF5 file in a `.keras`; or the path as it is."""
    if path.suffix not in (".zip", ".gz", ".keras"):
        return path
    scratch.mkdir()
    shutil.unpack_archive(path, scratch, {".gz": "gztar"}.get(path.suffix, "zip"))
    (found,) = [p for p in scratch.rglob("*") if p.name in ("saved_model.pb", "model.weights.h5")]
    return found if path.suffix == ".keras" else found.parent


def record(name):
    """Inputs by name, and the outputs."""
    with np.load(RECORDED[name]) as kept:
        parts = [{n: kept[n] for n in kept.files if n.startswith(k)} for k in ("input", "output")]
    inputs = {name.partition("_")[2]: values for name, values in parts[0].items()}
    return inputs, list(parts[1].values())


def by_tensorflow(folder, inputs):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    names = list(serve.structured_input_signature[1])
    given = inputs if set(names) == set(inputs) else dict(zip(names, inputs.values(), strict=True))
    found = serve(**{name: tf.constant(values) for name, values in given.items()})
    return [values.numpy() for values in found.values()]


def by_litert(path, inputs):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (entry,), (values,) = interpreter.get_input_details(), inputs.values()
    interpreter.allocate_tensors()
    rows = []
    for row in values:
        interpreter.set_tensor(entry["index"], row[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return [np.stack(rows)]


@pytest.fixture(scope="module")
def exported():
    """Exports of Keras by the digest of what was exported: archives need no further one."""
    return {}


@pytest.fixture
def here(monkeypatch, exported):
    """Engines work in this process, and so start TensorFlow once for all cases."""
    from modelcut.engines.litert import converter
    from modelcut.engines.process import child, exporting
    from modelcut.engines.saved_model import exporter

    def export(request):
        source = Path(request["source"])
        key = request["dialect"], hashlib.sha256(source.read_bytes()).hexdigest()
        if key not in exported:
            facts = exporter.export(request)
            exported[key] = facts, contents(Path(request["target"]))
        facts, files = exported[key]
        for name, data in files.items():
            path = Path(request["target"]) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True) if data is None else path.write_bytes(data)
        return facts

    work = {"saved_model.exporter": export, "litert.converter": converter.convert}
    for module in (exporting, converter):
        monkeypatch.setattr(module, "wind", lambda seconds: None)
    monkeypatch.setattr(child, "ask", lambda module, request, **_: work[module](dict(request)))


def test_each_pair_is_a_case():
    assert list(EXPECTED) == list(matrix.INPUTS)
    assert len(CASES) == 105


@pytest.mark.parametrize(("name", "output", "said"), CASES)
def test_it_works_or_is_refused(name, output, said, tmp_path, modelcut, here):
    (tmp_path / "in").mkdir()
    source, out = matrix.INPUTS[name](tmp_path / "in"), tmp_path / output
    shown = {"Keras": "by Keras", "LiteRT": "by LiteRT", "refused": "by LiteRT", "weights": "yes"}
    assert matrix.verdict(source, output) == shown.get(said, said)  # what the README says
    if said == "no":
        got = modelcut("prune", source, "--threshold", "0", "-o", out)
        assert got.code == 2, got
        assert got.err.count("\n") == 1
        assert any(way in got.err for way in WAYS_OUT), got.err
        assert not out.exists()
        return
    if said == "refused":
        with pytest.raises(InputError, match="LiteRT's converter refuses it"):
            convert(source, out)
        assert not out.exists()
        return
    report = convert(source, out)
    files = [p for p in out.rglob("*") if p.is_file()] if out.is_dir() else [out]
    assert report.output.bytes == sum(path.stat().st_size for path in files)
    if said == "LiteRT":
        inputs, expected = record(name)
        found = by_litert(out, inputs)
    else:
        before = stored_values(source, tmp_path / "before")
        assert len(before) >= 1
        assert stored_values(out, tmp_path / "after") == before
        if said == "weights":
            return
        inputs, expected = record(name)
        found = by_tensorflow(unpacked(out, tmp_path / "run"), inputs)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


RUNS = [
    ("Keras 3 `.keras`", "out"),
    ("Keras 3 `.h5`", "out.zip"),
    ("Keras 2 `.h5`", "out.tar.gz"),
    ("Keras 2 `.keras`", "out"),
    ("Keras 3 `.keras`", "out.tflite"),
    ("SavedModel of Keras 3", "out.tflite"),
    ("SavedModel of TensorFlow 1", "out.tflite"),
    ("SavedModel of Keras 2", "out.h5"),
    ("SavedModel of Keras 2", "out.keras"),
    ("Keras 2 `.h5`", "out.keras"),
    ("Keras 2 `.keras`", "out.h5"),
    ("SavedModel of a module", "out.mcut"),
    ("`.mcut` of Keras 3", "out"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "output"), RUNS)
def test_what_comes_out_predicts_the_same(name, output, tmp_path):
    source = matrix.INPUTS[name](tmp_path)
    convert(source, tmp_path / output)
    rng = np.random.default_rng(0)
    found = []
    for path in (source, tmp_path / output):
        model = registry.open_model(path)
        with registry.plain_file(registry.open_model(path)) as (file, suffix):
            network = engines.open_network(file, model.origin.dialect, suffix=suffix)
        if not found:
            given = [_rows(spec, rng) for spec in network.inputs]
        inputs = dict(zip([spec.name for spec in network.inputs], given, strict=True))
        found.append(network.predict(inputs, exact=True))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def _rows(spec, rng):
    shape = (3, *(n or 1 for n in spec.shape))
    if spec.dtype == "string":
        return np.full(shape, b"red")
    return rng.integers(0, 3, shape).astype(spec.dtype) if "int" in spec.dtype else (
        rng.normal(size=shape).astype(spec.dtype)
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Keras 3 `.h5`", "Keras 2 `.h5`"])
def test_an_export_is_the_same_bytes_every_time(name, tmp_path, modelcut):
    source = matrix.INPUTS[name](tmp_path)
    for out in ("one", "two", "one.zip", "two.zip"):
        said = modelcut("prune", source, "--sparsity", "0.5", "-o", tmp_path / out, "-q")
        assert said.code == 0, said
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.slow
def test_what_cannot_be_converted_is_one_error(tmp_path):
    source = matrix.folder_of("module")(tmp_path)
    with pytest.raises(InputError, match="refuses it"):
        convert(source, tmp_path / "module.tflite")
    assert not (tmp_path / "module.tflite").exists()


@pytest.mark.slow
def test_the_signature_that_is_named_becomes_the_tflite(tmp_path, modelcut):
    source, out = matrix.folder_of("module")(tmp_path), tmp_path / "m.tflite"
    said = modelcut("export", source, "--signature", "embeds", "-o", out, "-q")
    assert said.code == 2
    assert said.err.startswith(f"modelcut: {source}: the SavedModel has no signature 'embeds'")
    said = modelcut("export", source, "--signature", "embed", "-o", out, "-q")
    assert said.code == 0, said
    assert [spec.name for spec in engines.open_network(out, "litert").inputs] == ["point"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Keras 3 `.keras`", "Keras 2 `.h5`"])
def test_an_export_keeps_weights_and_encodings(name, tmp_path, modelcut):
    source = matrix.INPUTS[name](tmp_path)
    said = modelcut("quantize", source, "--bits", "4", "-o", tmp_path / "out", "-q")
    assert said.code == 0, said
    said = modelcut("quantize", source, "--bits", "4", "-o", tmp_path / f"o{source.suffix}", "-q")
    assert said.code == 0, said
    one, two = registry.open_model(tmp_path / f"o{source.suffix}"), registry.open_model(
        tmp_path / "out"
    )  # fmt: skip
    assert values_of(one) == values_of(two)
    kinds = Counter(t.encoding.label for t in one.tensors)
    assert kinds == Counter(t.encoding.label for t in two.tensors)
    assert "int4" in kinds
    assert two.origin.provenance["history"][0]["recipe"]["steps"][0]["quantize"] == "linear"

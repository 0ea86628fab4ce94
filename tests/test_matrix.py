"""Every kind of input into every kind of output: it works, or is refused with a way out."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "data"))
import matrix
from toys import contents

from modelcut import engines
from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe

WAYS_OUT = ("name ", "keep to", "start from", "export it")


def values_of(model):
    """The values of all tensors, whatever they are called."""
    return Counter(t.pull()[0].tobytes() for t in model.tensors if t.size > 1)


def convert(path, out):
    return pipeline.run(Job(path, Recipe(()), out, report=False))


@pytest.fixture(params=matrix.INPUTS)
def source(request, tmp_path):
    (tmp_path / "in").mkdir()
    return matrix.INPUTS[request.param](tmp_path / "in")


@pytest.mark.parametrize("output", matrix.OUTPUTS.values())
def test_it_works_or_is_refused(source, output, tmp_path, modelcut):
    said = matrix.verdict(source, output)
    out = tmp_path / output
    if said == "no":
        got = modelcut("prune", source, "--threshold", "0", "-o", out)
        assert got.code == 2, got
        assert got.err.count("\n") == 1
        assert any(way in got.err for way in WAYS_OUT), got.err
        assert not out.exists()
    elif said == "yes":
        report = convert(source, out)
        before, after = registry.open_model(source), registry.open_model(out)
        assert values_of(before) == values_of(after)
        assert report["output"]["bytes"] > 0


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
        with registry.plain_file(model) as (file, suffix):
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

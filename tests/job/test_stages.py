"""The stages of a job, each by itself: check, fold, write, verify, describe."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3
from toys import MODELS

from modelcut import steps
from modelcut.errors import InputError, ModelcutError, UsageError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.job import check, describe, fold, verify, write
from modelcut.job.digest import Digest
from modelcut.job.outputs import Outputs
from modelcut.job.request import Job
from modelcut.metrics.limits import Gates
from modelcut.model.model import Source
from modelcut.recipe.recipe import Head, Recipe

MODEL = MODELS / "keras3_sequential.h5"
HALF = steps.find("prune", "magnitude")(sparsity=0.5, scope="layer")
FOUR_BITS = steps.find("quantize", "linear")(bits=4)


def job(tmp_path, *done, output="o.h5", model=MODEL, **more):
    recipe = more.pop("recipe", Recipe(done))
    return Job(model, recipe, tmp_path / output, **more)


def quiet(line):
    del line


# Check


@pytest.mark.parametrize(
    ("output", "format_", "converts"),
    [("o.h5", "hdf5", False), ("o.keras", "keras_zip", False), ("o.mcut", "mcut", False),
     ("o", "saved_model", True), ("o.tflite", "litert", True)],
)  # fmt: skip
def test_check_opens_the_model_and_finds_the_writer(tmp_path, output, format_, converts):
    checked = check.check(job(tmp_path, output=output))
    assert checked.model.origin.path == MODEL
    assert checked.writer is registry.by_name(format_)
    assert checked.converts is converts
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"coder": "huffman"}, "--coder: "),
        ({"output": "o.mcut", "compression": "best"}, "--compression: "),
        ({"output": "o", "keep_optimizer": True}, "--keep-optimizer: "),
        ({"output": "o.txt"}, "o.txt"),
    ],
)
def test_check_refuses_options_that_the_output_has_no_use_for(tmp_path, more, words):
    with pytest.raises(UsageError, match=words) as caught:
        check.check(job(tmp_path, HALF, **more))
    assert caught.value.hint


def test_check_request_names_what_is_missing(tmp_path):
    gated = Recipe((HALF,), Head(gates=Gates(min_accuracy=0.5)))
    with pytest.raises(UsageError, match="the gate min_accuracy needs test data"):
        check.check_request(job(tmp_path, recipe=gated))
    with pytest.raises(UsageError, match="step 1, prune: taylor: needs training data"):
        check.check_request(job(tmp_path, steps.find("prune", "taylor")(sparsity=0.5)))
    budget = steps.find("quantize", "linear")(budget={"max_accuracy_drop": 0.1})
    with pytest.raises(UsageError, match="step 2, quantize: linear: a budget needs validation"):
        check.check_request(job(tmp_path, HALF, budget))
    with pytest.raises(ModelcutError, match=r"gone\.h5"):
        check.check_request(job(tmp_path, HALF, model=tmp_path / "gone.h5"))


# Fold


def test_fold_applies_the_steps_and_reads_no_tensor(toy):
    def unread():
        raise AssertionError("a tensor was read")

    lazy = toy.with_tensors(
        {tensor.name: replace(tensor, source=Source(unread)) for tensor in toy.tensors}
    )
    said = []
    folded = fold.fold(lazy, Recipe((HALF, FOUR_BITS)), said.append)
    assert said == ["prune: magnitude", "quantize: linear"]
    assert len(folded.models) == 3
    assert folded.models[0] is lazy
    assert len(folded.outcomes) == len(folded.seconds) == 2
    edits = [[len(t.edits) for t in model.tensors if t.kind == "kernel"] for model in folded.models]
    assert edits == [[0] * 3, [1] * 3, [2] * 3]
    last = next(folded.models[-1].tensors)
    assert last.kinds == ("sparse", "affine")
    assert "bias" in folded.outcomes[0].skipped["one/bias"]


def test_fold_gives_each_step_its_number_and_the_seed(toy):
    chance = steps.find("prune", "random")(sparsity=0.5)

    def made(*done, seed=0):
        folded = fold.fold(toy, Recipe(done, Head(seed=seed)), quiet)
        return next(folded.models[-1].tensors).pull()[0]

    np.testing.assert_array_equal(made(chance), made(chance))
    assert (made(chance) != made(chance, seed=1)).any()
    gentle = steps.find("prune", "magnitude")(sparsity=0)
    assert (made(chance) != made(gentle, chance)).any()  # its number is another


# Write, verify


@pytest.fixture
def written(tmp_path):
    """A job that is written and not published."""
    checked = check.check(job(tmp_path, HALF, FOUR_BITS))
    folded = fold.fold(checked.model, checked.job.recipe, quiet)
    with Outputs(checked.job.inputs) as outputs:
        places = write.reserve(checked, outputs)
        draft = write.write(checked, folded, places.model, lambda: {"history": ["made"]})
        yield checked, folded, places, draft


def test_places_are_hidden_files_beside_the_output(written, tmp_path):
    checked, _, places, draft = written
    assert draft.path == places.model
    assert set(places.reports) == {"json", "md", "html"}
    hidden = [places.model, *places.reports.values()]
    assert {path.parent for path in hidden} == {tmp_path}
    assert all(path.name.startswith(".o.") and path.suffix == ".part" for path in hidden)
    assert not checked.job.output.exists()


def test_write_pulls_every_tensor_once_and_tells_what_it_stored(written):
    _, folded, _, draft = written
    names = [tensor.name for tensor in folded.models[-1].tensors]
    assert [name for name, _ in draft.meters] == names
    assert set(draft.written.stored) == set(names)
    assert 0 < sum(draft.written.stored.values()) < draft.path.stat().st_size
    kernels = [name for name in names if name.endswith("kernel")]
    assert {draft.written.encodings[name].kinds for name in kernels} == {("sparse", "affine")}
    for (name, _), meter in draft.meters.items():
        assert [step for step, _ in meter.changes] == ([0, 1] if name in kernels else [])


def test_what_is_written_is_what_the_model_pulls(written):
    _, folded, _, draft = written
    again = registry.open_model(draft.path)
    for meant, found in zip(folded.models[-1].tensors, again.tensors, strict=True):
        np.testing.assert_array_equal(found.pull()[0], meant.pull()[0])
    assert again.origin.provenance["history"] == ["made"]


def test_a_writer_that_cannot_hold_the_model_is_refused(tmp_path):
    checked = check.check(job(tmp_path, model=MODELS / "keras3_cnn.weights.h5"))
    other = replace(checked, writer=registry.by_name("keras_zip"))
    with pytest.raises(UsageError, match=r"o\.h5: "):
        write.write(other, fold.Folded((checked.model,)), tmp_path / "x", dict)
    assert list(tmp_path.iterdir()) == []


def test_verify_gives_the_written_model(written):
    checked, folded, _, draft = written
    again = verify.verify(checked, folded, draft)
    assert again.origin.path == draft.path
    assert [t.name for t in again.tensors] == [t.name for t in folded.models[-1].tensors]


def test_verify_finds_a_file_of_another_model(written, tmp_path):
    checked, folded, _, draft = written
    other = registry.open_model(MODELS / "tf_keras_cnn.h5")
    registry.by_name(other.origin.format).write(other, tmp_path / "x.h5", WriteOptions())
    with pytest.raises(ModelcutError, match=r"o\.h5: the written file does not read back"):
        verify.verify(checked, folded, replace(draft, path=tmp_path / "x.h5"))
    draft.path.write_bytes(draft.path.read_bytes()[:100])
    with pytest.raises(InputError):
        verify.verify(checked, folded, draft)


def test_verify_measures_what_no_writer_pulled():
    model = registry.open_model(MODELS / "keras3_cnn.h5")
    split = steps.find("factorize", "svd")(rank=2)
    folded = fold.fold(model, Recipe((split,)), quiet)
    meters = {}
    verify.measure_rest(folded.models, meters)
    expected = {(t.name, t.key) for each in folded.models for t in each.tensors}
    assert set(meters) == expected
    assert all(meter.before.size for meter in meters.values())


# Describe


def test_describe_tells_of_the_files(written):
    checked, folded, _, draft = written
    passage = describe.passage_of(folded, checked.job.recipe, draft.meters, draft.written)
    with Digest(MODEL, sha256=True) as digest, Digest(draft.path) as printed:
        report = describe.describe(passage, MODEL, draft.path, digest, checked.job.recipe)
        output = describe.output_of(checked.job, checked.writer, draft, printed)
    assert report.input.sha256 == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert report.input.blake3 == blake3(MODEL.read_bytes()).hexdigest()
    assert report.input.bytes == MODEL.stat().st_size
    assert report.sizes.before.file_bytes == MODEL.stat().st_size
    assert report.sizes.after.file_bytes == draft.path.stat().st_size
    assert [stage.stage for stage in report.ledger] == [
        "original", "1 prune: magnitude", "2 quantize: linear",
    ]  # fmt: skip
    assert report.recipe["steps"][0] == {
        "prune": "magnitude", "sparsity": 0.5, "scope": "layer",
    }  # fmt: skip
    assert report.sizes.before.macs == 8 * 12 + 12 * 3
    assert output.path == str(checked.job.output)  # not the hidden name
    assert output.blake3 == blake3(draft.path.read_bytes()).hexdigest()
    assert output.sha256 is None
    assert output.compression == "fast"
    assert report.output is None


def test_warnings_are_of_the_file_the_steps_and_the_values(toy):
    odd = replace(toy, origin=replace(toy.origin, warnings=("the file is odd",)))
    nothing = steps.find("prune", "magnitude")(sparsity=0)
    everything = steps.find("prune", "magnitude")(sparsity=1, scope="layer", include=["one"])
    recipe = Recipe((nothing, everything))
    folded, meters = fold.fold(odd, recipe, quiet), {}
    verify.measure_rest(folded.models, meters)
    found = describe.warnings_of(describe.passage_of(folded, recipe, meters))
    assert found[0] == "the file is odd"
    assert any("removes nothing" in line for line in found)
    assert any(line.startswith("one/kernel: ") for line in found)

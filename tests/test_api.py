"""The functions of the package: each does what its command does, and says errors as exceptions."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from toys import MODELS

import modelcut
from modelcut import steps
from modelcut.errors import ExitCode, ModelcutError, RecipeError, UsageError
from modelcut.recipe.recipe import Recipe
from modelcut.report import render

MODEL = MODELS / "keras3_sequential.h5"
DEMO = Path(modelcut.__file__).parent / "demo"


def test_all_functions_are_typed_and_documented():
    for name in modelcut.__all__:
        function = getattr(modelcut, name)
        assert inspect.getdoc(function), name
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, name
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), name
    assert (Path(modelcut.__file__).parent / "py.typed").exists()


def test_a_step_gives_the_bytes_and_the_report_of_its_command(tmp_path, command_line):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    report = modelcut.prune(MODEL, one, sparsity=0.5, scope="layer", report=True)
    assert (
        command_line("prune", MODEL, "--sparsity", "0.5", "--scope", "layer", "-o", two).code == 0
    )
    assert one.read_bytes() == two.read_bytes()
    theirs = json.loads((tmp_path / "two.report.json").read_text())
    ours = json.loads(render(report, "json"))
    for each in (ours, theirs):
        each["output"]["path"] = ""
        each["steps"][0]["seconds"] = 0
        assert each.pop("seconds")["total"] > 0
        assert each.pop("cpu_seconds")["total"] > 0
        each["recipe"].pop("name", None)
        assert len(each.pop("fingerprint")) == 64  # the output's name is part of it
    assert ours == theirs
    assert (tmp_path / "one.report.md").exists()
    assert report.sizes.after.totals.nonzeros == theirs["sizes"]["after"]["nonzeros"]


@pytest.mark.parametrize(
    "recipe",
    [
        {"steps": [{"quantize": "linear", "bits": 4}]},
        steps.find("quantize", "linear")(bits=4),
        [steps.find("quantize", "linear")(bits=4)],
    ],
    ids=["mapping", "step", "steps"],
)
def test_recipes_of_any_kind(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nsteps:\n  - quantize: linear\n    bits: 4\n")
    modelcut.run(path, MODEL, tmp_path / "file.h5")
    modelcut.run(recipe, MODEL, tmp_path / "given.h5")
    assert (tmp_path / "file.h5").read_bytes() == (tmp_path / "given.h5").read_bytes()


def test_pack_unpack_and_inspect(tmp_path):
    modelcut.quantize(MODEL, tmp_path / "q.h5", bits=4)
    packed = modelcut.pack(tmp_path / "q.h5", tmp_path / "q.mcut", gates={"max_bytes": "1 B"})
    assert not packed.passed
    assert packed.output.path == str(tmp_path / "q.failed.mcut")
    modelcut.unpack(tmp_path / "q.failed.mcut", tmp_path / "again.h5")
    found, again = modelcut.inspect(tmp_path / "q.h5"), modelcut.inspect(tmp_path / "again.h5")
    assert found.provenance == again.provenance != {}
    assert [row.to_dict() for row in found.layers] == [row.to_dict() for row in again.layers]


def test_evaluate_beside_a_reference(tmp_path):
    small = tmp_path / "small.h5"
    rows = (DEMO / "digits_test.csv").read_text().splitlines()[:60]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    modelcut.quantize(DEMO / "digits.h5", small, bits=8)
    gates = {"max_accuracy_drop": 0.5}
    report = modelcut.evaluate(
        small, tmp_path / "t.csv", against=DEMO / "digits.h5", data={"scale": "1/255"}, gates=gates
    )
    assert report.passed
    assert report.evaluation is not None
    assert report.against is not None
    assert report.evaluation.before is not None
    assert report.evaluation.before["rows"] == 59
    assert "<table>" in report._repr_html_()


def test_a_dry_run_writes_nothing(tmp_path):
    report = modelcut.factorize(DEMO / "digits.h5", rank=4, dry_run=True)
    assert report.output is None
    assert report.sizes.after.totals.parameters < report.sizes.before.totals.parameters
    with pytest.raises(UsageError, match="no output named"):
        modelcut.factorize(DEMO / "digits.h5", rank=4)


def test_steps_that_cannot_follow_are_refused_before_the_model_is_opened(tmp_path):
    given = [steps.find("quantize", "linear")(), steps.find("prune", "obs")(sparsity=0.5)]
    with pytest.raises(RecipeError, match=r"step 2 .* cannot follow step 1"):
        modelcut.run(given, tmp_path / "absent.h5", tmp_path / "out.h5")
    with pytest.raises(RecipeError, match=r"step 2 .* cannot follow step 1"):
        modelcut.run(Recipe(tuple(given)), tmp_path / "absent.h5", dry_run=True)


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        (None, {"coder": "range"}, "coder: this option needs an output"),
        (None, {"force": True}, "force: this option needs an output"),
        (None, {"resume": True}, "resume: a dry run"),
        ("o.h5", {"distribute": "mirrored"}, "distribute: a dry run"),
        ("o.h5", {"coder": "range"}, "not a packed file"),
        ("o.mcut", {"compression": "best"}, "--compression"),
        ("o.odd", {}, "unknown output format"),
        ("o.tflite", {"export": {"type": "int8"}}, "needs a calibration set"),
        ("none/o.h5", {}, "its folder does not exist"),
        ("theirs.h5", {}, "modelcut did not write it"),
        ("r.h5", {"report": True}, r"r\.report\.md: exists"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(output, options, message, tmp_path):
    (tmp_path / "theirs.h5").write_text("not a model")
    (tmp_path / "r.report.md").write_text("not a report")
    place = output and tmp_path / output
    with pytest.raises(UsageError, match=message):
        modelcut.prune(MODEL, place, sparsity=0.5, dry_run=True, **options)
    if output == "theirs.h5":
        report = modelcut.prune(MODEL, place, sparsity=0.5, dry_run=True, force=True, report=True)
        assert report.output is None
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.h5", "r.report.md"}


def test_errors_are_one_family(tmp_path):
    out = tmp_path / "o.h5"
    with pytest.raises(RecipeError, match="did you mean 'sparsity'"):
        modelcut.prune(MODEL, out, sparsty=0.5)
    with pytest.raises(ModelcutError) as caught:
        modelcut.prune(tmp_path / "absent.h5", out, sparsity=0.5)
    assert caught.value.exit_code is ExitCode.USAGE
    with pytest.raises(TypeError, match="no option 'foo'"):
        modelcut.run([], MODEL, out, foo=1)
    with pytest.raises(RecipeError, match="max_accuracy_drop"):
        modelcut.prune(MODEL, out, sparsity=0.5, gates={"max_accurcy_drop": 0.1})
    assert not out.exists()


def test_load_gives_a_model_that_runs(tmp_path):
    modelcut.quantize(MODEL, tmp_path / "q.mcut", bits=8)
    one, two = modelcut.load(MODEL), modelcut.load(tmp_path / "q.mcut")
    shape = one.input_shape[1:]
    rows = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    np.testing.assert_allclose(one(rows), two(rows), atol=0.05)

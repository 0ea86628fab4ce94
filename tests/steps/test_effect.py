"""A step that changed nothing, and a file that is smaller by its optimizer state alone."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from toys import MODELS

from modelcut.errors import RecipeError
from modelcut.formats import registry
from modelcut.job.inspect import look
from modelcut.recipe.recipe import parse
from modelcut.recipe.yaml_text import loads
from modelcut.steps import effect
from modelcut.steps.base import Context, Outcome
from modelcut.steps.prune.magnitude import Magnitude

CNN = MODELS / "keras3_cnn.h5"


def reports(path):
    stem = path.with_suffix("")
    return json.loads(stem.with_suffix(".report.json").read_text()), (
        stem.with_suffix(".report.md").read_text()
    )


@pytest.mark.parametrize("call", [("factorize", "--rank", "500"), ("prune", "--method", "dead")])
def test_a_step_that_left_all_alone_is_a_warning_in_every_form(call, tmp_path, modelcut):
    said = modelcut(call[0], CNN, *call[1:], "-o", tmp_path / "o.h5")
    assert said.code == 0, said
    report, page = reports(tmp_path / "o.h5")
    assert report["steps"][0]["tensors_changed"] == 0
    (line,) = [line for line in report["warnings"] if "nothing was changed" in line]
    assert line.startswith("step 1, ")
    assert "warning: step 1, " in said.out
    assert "nothing was changed" in page.split("## Warnings")[1]
    said = modelcut(call[0], CNN, *call[1:], "--dry-run", "--json")
    assert any("nothing was changed" in line for line in json.loads(said.out)["warnings"])


@pytest.mark.parametrize(
    "named", [["--include", "class:Conv2D"], ["--overrides", "{'class:Dense': {rank: 400}}"]]
)
def test_layers_that_were_named_and_left_alone_are_an_error(named, tmp_path, modelcut):
    said = modelcut("factorize", CNN, "--rank", "500", *named, "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "step 1, factorize: svd: nothing was changed: " in said.err
    assert "class:" in said.err
    assert not list(tmp_path.iterdir())


def test_of_several_names_those_without_effect_are_told(tmp_path, modelcut):
    named = ["--include", "class:Conv2D", "--include", "class:Dense"]
    said = modelcut("factorize", CNN, "--rank", "1", *named, "-o", tmp_path / "o.h5")
    assert said.code == 0, said
    report, _ = reports(tmp_path / "o.h5")
    (line,) = [line for line in report["warnings"] if "was changed" in line]
    assert "nothing that 'class:Conv2D' names was changed" in line
    assert "is a convolution of 3×3, which is not a matrix" in line


def test_what_is_not_aimed_at_and_a_search_without_a_result_are_no_matter(toy):
    step = Magnitude(sparsity=0.5)
    assert effect.of_outcome(step, toy, step.apply(toy, Context()), Context()) == ()
    named = Magnitude(sparsity=0.5, include=["one"])
    nothing = Outcome(toy, {}, {"one/kernel": "no"})
    with pytest.raises(RecipeError, match="'one'"):
        effect.of_outcome(named, toy, nothing, Context())
    searched = Outcome(toy, {"budget": {}}, {"one/kernel": "no setting holds the budget"})
    assert effect.of_outcome(named, toy, searched, Context()) == ()


def test_what_the_values_say_counts_too(tmp_path, modelcut):
    """Whether a tensor is finite is seen only when it is read, after all steps are applied."""
    path = tmp_path / "nan.h5"
    path.write_bytes(CNN.read_bytes())
    model = registry.open_model(CNN)
    layer = next(layer for layer in model.layers if layer.class_name == "Dense")
    with h5py.File(path, "r+") as file:
        found = []
        file["model_weights"][layer.name].visititems(
            lambda _, item: found.append(item) if getattr(item, "ndim", 0) == 2 else None
        )
        found[0][0, 0] = np.nan
    call = ("quantize", path, "--bits", "4", "--include", layer.name, "-o", tmp_path / "o.h5")
    said = modelcut(*call)
    assert said.code == 2, said
    assert "nothing was changed" in said.err
    assert not (tmp_path / "o.h5").exists()
    recipe = parse(loads("steps:\n  - quantize: linear\n    bits: 4\n", "r"))
    with look(path, recipe) as (_, report):
        assert not any("was changed" in line for line in report.warnings)


@pytest.fixture
def trained(tmp_path):
    """A model whose optimizer state is most of the file."""
    path = tmp_path / "trained.h5"
    path.write_bytes(CNN.read_bytes())
    state = np.random.default_rng(0).normal(size=100_000).astype("float32")
    with h5py.File(path, "r+") as file:
        file["optimizer_weights"].create_dataset("moments", data=state)
    return path


def test_the_first_lines_tell_how_much_is_optimizer_state(trained, tmp_path, modelcut):
    gates = ("--min-file-ratio", "4", "--max-bytes", "300 kB", "--min-sparsity", "0.4")
    call = ("prune", trained, "--sparsity", "0.5", *gates)
    said = modelcut(*call, "-o", tmp_path / "o.h5")
    assert said.code == 0, said
    report, page = reports(tmp_path / "o.h5")
    spent = report["sizes"]["optimizer"]["bytes"]
    assert 400_000 <= spent <= 402_000
    before, after = trained.stat().st_size, (tmp_path / "o.h5").stat().st_size
    assert report["sizes"]["optimizer"]["file_ratio_without"] == (before - spent) / after
    first, *held = report["notes"]
    assert f"optimizer state, {spent:,} of the original's {before:,} bytes, is left out" in first
    assert f"{spent / (before - after):.0%}" in first
    assert f"the other {before - spent:,} bytes became {after:,}" in first
    assert [line.split()[2] for line in held] == ["max_bytes", "min_file_ratio"]
    assert said.out.startswith(f"note: {first}\nnote: the gate ")
    assert page.index("optimizer state") < page.index("## ")
    assert list(report).index("notes") < list(report).index("input")


def test_nothing_is_said_where_the_state_is_kept_or_there_is_none(trained, tmp_path, modelcut):
    call = ("prune", trained, "--sparsity", "0.5", "--keep-optimizer")
    assert modelcut(*call, "-o", tmp_path / "o.h5", "-q").code == 0
    report, page = reports(tmp_path / "o.h5")
    assert report["notes"] == []
    assert "optimizer" not in report["sizes"]
    assert "optimizer state" not in page
    call = ("prune", trained, "--sparsity", "0.5", "-o", tmp_path / "p.h5", "-q")
    assert modelcut(*call).code == 0
    assert modelcut("quantize", tmp_path / "p.h5", "--bits", "4", "-o", tmp_path / "q.h5").code == 0
    assert reports(tmp_path / "q.h5")[0]["notes"] == []


def test_a_counter_or_two_are_not_pointed_out(trained, tmp_path, modelcut):
    """As of SGD without momentum; but a gate that passed only because of it is."""
    with h5py.File(trained, "r+") as file:
        del file["optimizer_weights"]["moments"]
        file["model_weights"].create_dataset("padding", data=np.zeros(100_000))
    call = ("prune", trained, "--threshold", "0", "-q")
    assert modelcut(*call, "-o", tmp_path / "o.h5").code == 0
    report, page = reports(tmp_path / "o.h5")
    assert 0 < report["sizes"]["optimizer"]["bytes"] < 0.01 * trained.stat().st_size
    assert report["notes"] == []
    assert "optimizer state" not in page.split("## ")[0]
    size = (tmp_path / "o.h5").stat().st_size
    assert modelcut(*call, "--max-bytes", size + 1, "-o", tmp_path / "p.h5").code == 0
    assert len(reports(tmp_path / "p.h5")[0]["notes"]) == 2


def test_a_gate_that_holds_by_the_weights_too_is_not_pointed_out(trained, tmp_path, modelcut):
    gates = ("--min-file-ratio", "0.5", "--max-bytes", "10 MB")
    call = ("prune", trained, "--sparsity", "0.5", *gates, "-o", tmp_path / "o.h5")
    assert modelcut(*call).code == 0
    assert len(reports(tmp_path / "o.h5")[0]["notes"]) == 1


def test_an_optional_pattern_asks_for_nothing(modelcut, tmp_path):
    """So that a recipe for any network warns where its step finds nothing to gain."""
    call = ("factorize", MODELS / "keras3_sequential.h5", "--energy", "0.999")
    said = modelcut(*call, "--include", "class:Dense?", "-o", tmp_path / "o.h5", "--json")
    assert said.code == 0, said
    assert any("nothing was changed" in line for line in json.loads(said.out)["warnings"])
    assert modelcut(*call, "--include", "class:Dense", "-o", tmp_path / "p.h5").code == 2

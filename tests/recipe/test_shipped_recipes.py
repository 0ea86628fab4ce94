"""The recipes for any network run on any network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import MODELS

RECIPES = Path(__file__).parents[2] / "recipes"
GENERIC = ["cutoff", "deep-compression", "half", "int8", "prune", "small"]


@pytest.mark.parametrize("model", ["keras3_sequential.h5", "keras3_cnn.keras"])
@pytest.mark.parametrize("name", GENERIC)
def test_recipes_for_any_network(name, model, tmp_path, modelcut):
    """Without data their gates are not checked, and say so."""
    output = tmp_path / f"o{Path(model).suffix}"
    said = modelcut("run", MODELS / model, "-r", name, "-o", output, "--json")
    assert said.code == 0, said
    gates = json.loads(said.out)["gates"]
    assert gates
    assert {(gate["checked"], gate["reason"]) for gate in gates} == {(False, "no test data")}


def test_an_option_takes_the_place_of_a_gate_under_if_data(tmp_path, modelcut):
    said = modelcut(
        "run", MODELS / "keras3_sequential.h5", "-r", "int8", "--max-accuracy-drop", "0.1",
        "-o", tmp_path / "o.h5",
    )  # fmt: skip
    assert said.code == 2
    assert "max_accuracy_drop needs test data" in said.err


def test_sizes_are_judged_without_data(tmp_path, modelcut):
    said = modelcut(
        "run", MODELS / "keras3_sequential.h5", "-r", "small", "--max-bytes", "10",
        "-o", tmp_path / "o.h5", "--format", "github", "--junit", tmp_path / "j.xml",
    )  # fmt: skip
    assert said.code == 1
    assert "not checked" in said.out
    assert (tmp_path / "j.xml").read_text().count("<skipped message=") == 1


@pytest.mark.parametrize("mark", ["", "?"])
def test_a_pattern_that_may_match_nothing(mark, tmp_path, modelcut):
    said = modelcut(
        "prune", MODELS / "keras3_sequential.h5", "--sparsity", "0.5", "-q",
        "--exclude", f"class:LSTM{mark}", "-o", tmp_path / "o.h5",
    )  # fmt: skip
    assert said.code == (0 if mark else 2), said
    assert mark or "'class:LSTM' matches no layer" in said.err


def test_an_optional_pattern_still_matches(tmp_path, modelcut):
    found = []
    for mark in ("", "?"):
        output = tmp_path / f"o{len(mark)}.keras"
        said = modelcut(
            "prune", MODELS / "keras3_cnn.keras", "--sparsity", "0.5", "-q", "--no-report",
            "--include", f"class:Conv2D{mark}", "-o", output,
        )  # fmt: skip
        assert said.code == 0, said
        found.append(output.stat().st_size)
    assert found[0] <= found[1] <= found[0] + 8  # the recipe is kept in the file


@pytest.mark.slow
def test_faster_halves_the_work_of_the_demo(tmp_path, modelcut):
    demo = RECIPES.parent / "modelcut" / "demo"
    said = modelcut(
        "run", demo / "digits.h5", "-r", RECIPES / "faster.yaml", "--scale", "1/16", "-q",
        "--train", demo / "digits_train.csv", "--calibrate", demo / "digits_train.csv",
        "--test", demo / "digits_test.csv", "-o", tmp_path / "faster.tflite",
    )  # fmt: skip
    assert said.code == 0, said
    report = json.loads((tmp_path / "faster.report.json").read_text())
    sizes = report["sizes"]
    assert 0.4 < sizes["after"]["macs"] / sizes["before"]["macs"] <= 0.5
    assert report["evaluation"]["change"]["accuracy_drop"] < 0.01

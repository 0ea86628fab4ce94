"""`modelcut search` as a user types it, on the model of the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import modelcut as package
from modelcut.arrays.digest import of_bytes

DEMO = Path(package.__file__).parent / "demo"
MODEL, TRAIN, TEST = (DEMO / name for name in ("digits.h5", "digits_train.csv", "digits_test.csv"))
SCALE = ("--scale", "1/16")
LIMIT = ("--max-accuracy-drop", "0.02")

SPACE = """
steps:
  - prune: magnitude
    sparsity: {range: [0.2, 0.6]}
  - choose:
      - {quantize: linear, bits: {choose: [4, 6, 8]}}
      - {quantize: cluster, values: 16}
"""


def test_a_model_and_its_recipe(modelcut, tmp_path):
    space, best = tmp_path / "space.yaml", tmp_path / "best.mcut"
    space.write_text(SPACE)
    options = ("--train", TRAIN, "--test", TEST, *SCALE, *LIMIT)
    said = modelcut("search", MODEL, "-r", space, *options, "-o", best, "--trials", 4, "--json")
    assert said.code == 0, said
    assert all(line.startswith("modelcut: ") for line in said.err.splitlines()), said
    report = json.loads(said.out)
    assert report["search"]["trials"] == 4
    assert report["output"]["bytes"] == best.stat().st_size
    found = json.loads((tmp_path / "best.search.json").read_text())
    assert len(found["trials"]) == 4
    chosen = found["trials"][found["chosen"]]
    assert chosen["values"] == [best.stat().st_size]
    assert chosen["blake3"] == of_bytes(best.read_bytes())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "best.mcut",
        "best.recipe.yaml",
        "best.report.html",
        "best.report.json",
        "best.report.md",
        "best.search.json",
        "space.yaml",
    ]
    again = modelcut("run", MODEL, "-r", tmp_path / "best.recipe.yaml", "-o", tmp_path / "a.mcut",
                     "--test", TEST, "-q")  # fmt: skip
    assert again.code == 0, again
    assert (tmp_path / "a.mcut").read_bytes() == best.read_bytes()


def test_a_space_is_for_a_search(modelcut, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    said = modelcut("recipe", "check", space)
    assert (said.code, "3 values for a search to decide" in said.out) == (0, True), said
    said = modelcut("run", MODEL, "-r", space, "-o", tmp_path / "a.h5")
    assert said.code == 2
    assert "modelcut search" in said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "emptiest"),
        (("--max-accuracy-drop", "0.1"), "--validate FILE.csv"),
        (("--max-accuracy-drop", "0.1", "--train", TRAIN, "--minimize", "size"), "known"),
        (("--max-accuracy-drop", "0.1", "--train", TRAIN, "--time", "soon"), "is no time"),
        (("--max-accuracy-drop", "0.1", "--train", TRAIN, "--test", TRAIN), "is the test data"),
        (("--max-accuracy-drop", "0.1", "--train", TRAIN, "--trials", "many"), "whole number"),
    ],
)
def test_what_is_refused_before_any_work(modelcut, tmp_path, options, words):
    said = modelcut("search", MODEL, "-o", tmp_path / "best.mcut", *options)
    assert said.code == 2, said
    assert words in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--test", "--validate", "--train", "--calibrate"])
def test_samples_that_do_not_fit_are_refused_before_any_work(modelcut, tmp_path, option):
    other = tmp_path / "other.csv"
    other.write_text("a,label\n1,0\n")
    given = {"--train": TRAIN, "--validate": TRAIN, "--test": TEST, option: other}
    options = [word for pair in given.items() for word in pair]
    said = modelcut("search", MODEL, *options, *SCALE, *LIMIT, "-o", tmp_path / "best.mcut")
    assert said.code == 2, said
    assert f"{other}: has 1 feature columns" in said.err
    assert len(said.err.splitlines()) == 1  # no trial was begun
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("best.txt", "unknown output format"),
        pytest.param(
            "best.onnx",
            "what makes it is not installed",
            marks=pytest.mark.skipif(find_spec("tf2onnx") is not None, reason="it is installed"),
        ),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    modelcut, tmp_path, name, words
):
    said = modelcut("search", MODEL, "--train", TRAIN, *SCALE, *LIMIT, "-o", tmp_path / name)
    assert said.code == 2, said
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_search_left_is_discarded(modelcut, tmp_path):
    folder = tmp_path / "best.mcut.search"
    (folder / "states").mkdir(parents=True)
    (folder / "states" / "a.npz").write_bytes(bytes(1000))
    command = ("search", MODEL, "-o", tmp_path / "best.mcut", "--discard")
    said = modelcut(*command)
    assert (said.code, "is no journal of modelcut" in said.err) == (2, True), said
    (folder / "search.json").write_text("{}")
    said = modelcut(*command)
    assert (said.code, "1,002 bytes removed" in said.out) == (0, True), said
    assert not list(tmp_path.iterdir())
    assert "there is none" in modelcut(*command).out


def test_a_recipe_is_made_for_a_model(modelcut, tmp_path):
    said = modelcut("recipe", "new", MODEL, "--goal", "speed")
    assert said.code == 0
    place = tmp_path / "new.yaml"
    place.write_text(said.out)
    said = modelcut("recipe", "check", place, "--model", MODEL)
    assert said.code == 0, said
    assert "step 2 and those after it need data and were not tried on the model" in said.out
    assert modelcut("recipe", "new", MODEL, "--goal", "beauty").code == 2


TRAINED = """
steps:
  - {finetune: straight_through, steps: {choose: [10, 20]}, validation: 0}
  - quantize: cluster
    values: {choose: [16, 32]}
"""


@pytest.mark.slow
def test_arrays_are_split_and_the_recipe_gives_the_same_bytes(modelcut, tmp_path):
    space, train = tmp_path / "space.yaml", tmp_path / "train.npz"
    space.write_text(TRAINED)
    table = np.loadtxt(TRAIN, delimiter=",", skiprows=1)
    header = TRAIN.read_text().splitlines()[0].split(",")
    at = header.index("label")
    x = np.delete(table, at, axis=1).reshape(-1, 8, 8, 1).astype(np.float32)
    np.savez(train, x=x, y=table[:, at].astype(np.int64))
    options = ("--train", train, *SCALE, *LIMIT)
    said = modelcut("search", MODEL, "-r", space, *options, "-o", tmp_path / "best.mcut",
                    "--trials", 2)  # fmt: skip
    assert said.code == 0, said
    report = json.loads((tmp_path / "best.report.json").read_text())
    assert [(gate["name"], gate["checked"]) for gate in report["gates"]] == [
        ("max_accuracy_drop", False)
    ]
    found = json.loads((tmp_path / "best.search.json").read_text())
    assert found["validation"]["samples"] == pytest.approx(len(x) / 5, abs=5)
    again = modelcut("run", MODEL, "-r", tmp_path / "best.recipe.yaml", "--train", train, "-o",
                     tmp_path / "a.mcut", "-q")  # fmt: skip
    assert again.code == 0, again
    assert (tmp_path / "a.mcut").read_bytes() == (tmp_path / "best.mcut").read_bytes()


def _compared(folder):
    """What must be the same of two searches: everything but times."""
    found = json.loads((folder / "best.search.json").read_text())
    trials = [
        {key: value for key, value in trial.items() if key not in ("seconds", "measured", "gates")}
        for trial in found["trials"]
    ]
    made = (folder / "best.mcut").read_bytes(), (folder / "best.recipe.yaml").read_text()
    return trials, found["chosen"], found["front"], *made


SHORT = SPACE + "  - {finetune: straight_through, steps: {choose: [5, 10, 20]}}\n"


@pytest.mark.slow
def test_killed_twice_it_ends_as_if_it_had_not_been(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(SHORT)
    call = [sys.executable, "-m", "modelcut", "search", MODEL, "-r", space, "--train", TRAIN,
            "--test", TEST, *SCALE, *LIMIT, "--trials", "8", "-q", "-o", "best.mcut"]  # fmt: skip
    results = []
    for name, kills in (("whole", ()), ("killed", (2, 5))):
        folder = tmp_path / name
        folder.mkdir()
        done = folder / "best.mcut.search" / "trials.jsonl"
        for many in kills:
            child = subprocess.Popen(call, cwd=folder, start_new_session=True)
            while child.poll() is None and not (
                done.is_file() and done.read_bytes().count(b"\n") >= many
            ):
                time.sleep(0.02)
            time.sleep(0.3)  # into the next trial
            assert child.poll() is None
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            assert not (folder / "best.mcut").exists()
        subprocess.run(call, cwd=folder, check=True)
        results.append(_compared(folder))
        assert not done.parent.exists()
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert not left
    assert results[0] == results[1]

"""What tools that build and test rely on: failed gates, dependencies, JUnit, annotations."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import h5py
import pytest
from toys import MODELS

CNN = MODELS / "keras3_cnn.h5"
PRUNE = ("prune", "magnitude", CNN, "--sparsity", "0.5")
TOO_SMALL = ("--max-bytes", "10 B")
ENOUGH = ("--max-bytes", "1 MB")


def test_a_failed_gate_leaves_the_output_as_it_was(tmp_path, modelcut):
    out, failed, page = (tmp_path / name for name in ("o.h5", "o.failed.h5", "o.report.json"))
    said = modelcut(*PRUNE, *TOO_SMALL, "-o", out)
    assert said.code == 1
    assert not out.exists()
    assert failed.is_file()
    assert "gate failed: max_bytes: " in said.err
    assert f", limit 10 (written to {failed})" in said.err
    report = json.loads(page.read_text())
    assert report["output"]["path"] == str(failed)
    # The next one that passes is the output, and what failed is gone.
    assert modelcut(*PRUNE, *ENOUGH, "-o", out, "-q").code == 0
    assert json.loads(page.read_text())["output"]["path"] == str(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "o.h5",
        "o.report.html",
        "o.report.json",
        "o.report.md",
    ]
    good = out.read_bytes()
    said = modelcut(*PRUNE, "--scope", "global", *TOO_SMALL, "-o", out, "-q")
    assert said.code == 1
    assert out.read_bytes() == good
    assert failed.exists()


def test_a_strangers_file_is_not_replaced_by_what_failed(tmp_path, modelcut):
    (tmp_path / "o.failed.h5").write_bytes(b"mine")
    said = modelcut(*PRUNE, *TOO_SMALL, "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert "o.failed.h5" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["o.failed.h5"]
    assert modelcut(*PRUNE, *ENOUGH, "-o", tmp_path / "o.h5", "--force", "-q").code == 0
    assert (tmp_path / "o.failed.h5").read_bytes() == b"mine"


def test_keep_on_failure_writes_as_asked(tmp_path, modelcut):
    said = modelcut(*PRUNE, *TOO_SMALL, "-o", tmp_path / "o.h5", "--keep-on-failure", "-q")
    assert said.code == 1
    assert (tmp_path / "o.h5").exists()
    assert not (tmp_path / "o.failed.h5").exists()


def test_in_place_keeps_the_input_if_a_gate_fails(tmp_path, modelcut):
    model = tmp_path / "m.h5"
    shutil.copy(CNN, model)
    said = modelcut("prune", model, "--sparsity", "0.5", *TOO_SMALL, "--in-place", "-q")
    assert said.code == 1
    assert model.read_bytes() == CNN.read_bytes()
    assert (tmp_path / "m.failed.h5").exists()


def test_if_changed(tmp_path, modelcut):
    model, out = tmp_path / "m.h5", tmp_path / "o.h5"
    shutil.copy(CNN, model)

    def run(*more, sparsity="0.5"):
        common = ("--sparsity", sparsity, *ENOUGH, "-o", out, "--if-changed")
        said = modelcut("prune", model, *common, *more)
        assert said.code == 0, said
        return "up to date" not in said.out

    assert run()
    before = out.stat()
    model.touch()
    assert not run()
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert run(sparsity="0.6")
    assert not run(sparsity="0.6")
    assert run("--compression", "best", sparsity="0.6")
    with h5py.File(model, "r+") as file:
        file.attrs["more"] = 1
    assert run("--compression", "best", sparsity="0.6")
    assert not run("--compression", "best", sparsity="0.6")
    with h5py.File(out, "r+") as file:
        file.attrs["more"] = 1
    assert run("--compression", "best", "--force", sparsity="0.6")
    same = ("prune", model, "--sparsity", "0.6", "--compression", "best", *ENOUGH, "-o", out)
    report = json.loads(modelcut(*same, "--if-changed", "--json").out)
    assert report["output"]["bytes"] == out.stat().st_size
    failed = ("prune", model, "--sparsity", "0.6", *TOO_SMALL, "-o", out, "--if-changed", "-q")
    assert modelcut(*failed).code == modelcut(*failed).code == 1


@pytest.mark.parametrize(
    "more", [("--dry-run", "--if-changed"), ("--if-changed", "--no-report", "-o", "o.h5")]
)
def test_if_changed_is_refused_where_nothing_tells(more, modelcut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = modelcut(*PRUNE, *more)
    assert said.code == 2
    assert "--if-changed" in said.err


def test_make_tries_again_after_a_failed_gate_and_rests_after_a_good_one(tmp_path):
    """The rule of the page, with names that have spaces."""
    shutil.copy(CNN, tmp_path / "my model.h5")
    recipe = tmp_path / "recipe.yaml"

    def write(limit):
        recipe.write_text(
            f"gates: {{max_bytes: {limit}}}\nsteps: [{{prune: magnitude, sparsity: 0.5}}]\n"
        )

    (tmp_path / "Makefile").write_text(
        "small.h5:\n"
        f'\t{sys.executable} -m modelcut run "my model.h5" -r recipe.yaml -o $@ '
        "-q --depfile small.d\n"
        "-include small.d\n"
    )

    def make():
        done = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    write("10")
    for _ in range(2):
        code, said = make()
        assert code != 0
        assert "gate failed" in said
    write("1 MB")
    assert make()[0] == 0
    code, said = make()
    assert (code, "up to date" in said) == (0, True)
    recipe.touch()
    assert "modelcut" in make()[1]
    assert "my\\ model.h5" in (tmp_path / "small.d").read_text()


def test_junit(tmp_path, modelcut):
    page = tmp_path / "gates.xml"
    gates = (*TOO_SMALL, "--min-sparsity", "0.1")
    for _ in range(2):
        said = modelcut(*PRUNE, *gates, "-o", tmp_path / "o.h5", "-q", "--junit", page)
        assert said.code == 1
    (suite,) = ElementTree.parse(page).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    cases = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert cases["min_sparsity"] is None
    assert "limit 10" in cases["max_bytes"].get("message")
    assert modelcut(*PRUNE, "-o", tmp_path / "o.h5", "-q", "--junit", tmp_path / "o.h5").code == 2
    assert modelcut(*PRUNE, "-o", tmp_path / "p.h5", "-q", "--junit", page).code == 0
    (suite,) = ElementTree.parse(page).getroot()
    assert suite.get("failures") == "0"


def hostile(path):
    """A model whose layer's name is a command of GitHub and markup."""
    name = "::error::<b>&"
    shutil.copy(MODELS / "keras3_sequential.h5", path)
    with h5py.File(path, "r+") as file:
        text = json.loads(file.attrs["model_config"])
        layer = next(each for each in text["config"]["layers"] if each["class_name"] == "Dense")
        old = layer["config"]["name"]
        layer["config"]["name"] = name
        file.attrs["model_config"] = json.dumps(text)
        group = file["model_weights"]
        names = [each.decode() if isinstance(each, bytes) else each
                 for each in group.attrs["layer_names"]]  # fmt: skip
        group.attrs["layer_names"] = [name if each == old else each for each in names]
        group.move(old, name)
    return path


def test_names_from_a_file_are_no_commands_of_github(tmp_path, modelcut):
    model = hostile(tmp_path / "m.h5")
    arguments = ("prune", model, "--threshold", "9", *TOO_SMALL, "-o", tmp_path / "o.h5")
    said = modelcut(*arguments, "--format", "github", "--junit", tmp_path / "j.xml")
    assert said.code == 1, said
    lines = said.out.splitlines()
    assert "error::<b>" in said.out  # the table has the name
    token = lines[0].removeprefix("::stop-commands::")
    assert len(token) == 32
    outside = lines[lines.index(f"::{token}::") + 1 :]
    assert outside[0].startswith("::error title=modelcut%3A gate failed::max_bytes: ")
    assert all(line.startswith(("::error title=", "::warning title=")) for line in outside)
    assert sum(line.count("\n") for line in outside) == 0
    ElementTree.parse(tmp_path / "j.xml")
    assert modelcut(*arguments, "--format", "xml").code == 2


def test_a_built_in_recipe_goes_by_its_name(tmp_path, modelcut, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert modelcut("run", CNN, "-r", "half", "-o", "o.h5", "-q").code == 0
    assert json.loads((tmp_path / "o.report.json").read_text())["recipe"]["steps"] == [
        {"quantize": "float16"}
    ]
    assert modelcut("recipe", "check", "half").code == 0
    said = modelcut("run", CNN, "-r", "hal", "-o", "o.h5")
    assert (said.code, "built-in" in said.err) == (2, True)
    (tmp_path / "half").write_text("steps: [{prune: magnitude, sparsity: 0.5}]")  # a file wins
    assert "magnitude" in modelcut("run", CNN, "-r", "half", "--print-recipe").out


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("steps.0.sparsity=0.8", "sparsity: 0.8"),
        ("gates.max_bytes=64kB", "max_bytes: 64000"),
        ("steps.0.include=[a, b]", "- a"),
        ("steps.0.sparsity", "no value"),
        ("steps.7.sparsity=1", "steps has 1 items"),
        ("steps.a=1", "steps is a list"),
        ("version.a=1", "version is a single value"),
        ("steps.0.sparsty=1", "did you mean 'sparsity'"),
    ],
)
def test_values_of_a_recipe_are_set(setting, words, tmp_path, modelcut):
    path = tmp_path / "r.yaml"
    path.write_text("version: 1\nsteps:\n  - prune: magnitude\n    sparsity: 0.5\n")
    said = modelcut("run", CNN, "-r", path, "--set", setting, "--print-recipe")
    assert words in said.out + said.err
    assert said.code == (0 if said.out else 2)
    assert said.err.count("\n") <= 1


def test_of_several_recipes_the_smallest_that_passes_is_written(tmp_path, modelcut):
    recipes = {
        "gentle": "steps: [{prune: magnitude, sparsity: 0.1}]",
        "middle": "steps: [{prune: magnitude, sparsity: 0.5}]",
        "strong": "steps: [{prune: magnitude, sparsity: 0.95}]",
        "odd": "steps: [{prune: magnitude, sparsity: 0.5, include: [nowhere]}]",
    }
    named = []
    for name, text in recipes.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        named += ["-r", path]
    out = tmp_path / "o.mcut"
    more = ("-o", out, "--max-bits-per-weight", "32", "--depfile", tmp_path / "d")
    said = modelcut("run", CNN, *named, *more, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["recipe"]["steps"][0]["sparsity"] == 0.95
    tried = {each["recipe"].rpartition("/")[2]: each for each in report["tried"]}
    assert "no layer" in tried["odd.yaml"]["error"]
    assert tried["strong.yaml"]["bytes"] == out.stat().st_size < tried["middle.yaml"]["bytes"]
    assert "gentle.yaml" in (tmp_path / "d").read_text()
    # A gate that the strongest fails, and one that all do.
    said = modelcut("run", CNN, *named, "-o", out, "--max-macs", "1", "--keep-on-failure")
    assert said.code == 1
    assert "failed: max_macs" in said.out
    said = modelcut("run", CNN, *named, "-o", out, "--dry-run")
    assert (said.code, "--dry-run is for a single recipe" in said.err) == (2, True)
    alone = modelcut(
        "run", CNN, "-r", tmp_path / "odd.yaml", "-r", tmp_path / "odd.yaml", "-o", out
    )
    assert alone.code == 2

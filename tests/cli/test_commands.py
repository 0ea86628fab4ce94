"""The commands as a user types them: exit codes, what is written, what is said."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest
from toys import MODELS

from modelcut.cli.main import COMMANDS
from modelcut.formats import registry

CNN = MODELS / "keras3_cnn.h5"


def test_the_demo_is_the_whole_job(tmp_path, modelcut):
    said = modelcut("demo", tmp_path / "d")
    assert said.code == 0, said
    folder = tmp_path / "d"
    for name in ("digits.h5", "recipe.yaml", "digits_test.csv", "small.h5", "small.report.html"):
        assert (folder / name).exists()
        assert str(folder / name) in said.out
    report = json.loads((folder / "small.report.json").read_text())
    assert report["evaluation"]["before"]["metrics"]["accuracy"] > 0.97
    assert report["evaluation"]["change"]["accuracy_drop"] <= 0.02
    assert report["output"]["bytes"] == (folder / "small.h5").stat().st_size
    # The user's own recipe is kept, and what it says is done.
    recipe = (folder / "recipe.yaml").read_text().replace("bits: 5", "bits: 6")
    recipe = recipe.replace("min_file_ratio: 5", "min_file_ratio: 500")
    (folder / "recipe.yaml").write_text(recipe)
    said = modelcut("demo", folder, "--json")
    assert said.code == 1
    report = json.loads(said.out)
    assert report["recipe"]["steps"][2]["bits"] == 6
    assert [gate["name"] for gate in report["gates"] if not gate["held"]] == ["min_file_ratio"]


def test_the_demo_does_not_overwrite_strangers(tmp_path, modelcut):
    (tmp_path / "digits.h5").write_bytes(b"mine")
    said = modelcut("demo", tmp_path)
    assert said.code == 2
    assert (tmp_path / "digits.h5").read_bytes() == b"mine"


def test_a_step_is_a_recipe_of_one_step(tmp_path, modelcut):
    flags = ["--sparsity", "0.4", "--scope", "layer", "--exclude", "class:Conv2D", "--seed", "3"]
    gates = ["--max-bytes", "1 MB"]
    said = modelcut("prune", CNN, *flags, *gates, "--print-recipe")
    assert said.code == 0
    (tmp_path / "r.yaml").write_text(said.out)
    assert modelcut("prune", CNN, *flags, *gates, "-o", tmp_path / "a.h5", "-q").code == 0
    run = modelcut("run", CNN, "--recipe", tmp_path / "r.yaml", "-o", tmp_path / "b.h5", "-q")
    assert run.code == 0, run
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


PROFILE = ("sensitivity", CNN, "--validate", "v.csv", "--method", "magnitude")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prune", CNN, "-o", "o.h5"), "exactly one of"),
        (("export", CNN, "-o", "o.tflite", "--signature", "other"), "is not a SavedModel"),
        (("prune", CNN, "--sparsity", "2", "-o", "o.h5"), "--sparsity"),
        (("prune", CNN, "--sparsity", "x", "-o", "o.h5"), "--sparsity"),
        (("prune", CNN, "--sparsity", ".5", "--bits", "3"), "--bits"),
        (("quantize", CNN, "--method", "liner", "-o", "o.h5"), "did you mean 'linear'"),
        (("quantize", CNN, "--method", "float16", "--bits", "4", "-o", "o.h5"), "bits"),
        (("quantize", CNN, "--compression", "zip", "-o", "o.h5"), "--compression"),
        (("run", CNN, "-o", "o.h5"), "--recipe"),
        (("eval", CNN), "--test"),
        (("prune", CNN, "--sparsity", ".5", "--min-f1", "0.5", "-o", "o.h5"), "needs test data"),
        (("prune", "gone.h5", "--sparsity", ".5", "-o", "o.h5"), "no such file"),
        (("prune", CNN, "--sparsity", ".5", "--include", "nowhere", "-o", "o.h5"), "no layer"),
        (("recipe", "show", "nothing"), "known:"),
        ((*PROFILE, "--settings", "[.nan]"), "--settings: is no list of numbers"),
        ((*PROFILE, "--settings", "[[]]"), "--settings: is no list of numbers"),
        ((*PROFILE, "--settings", "0.5"), "--settings: is no list of numbers"),
        (("nonsense",), "nonsense"),
        (("prune", CNN, CNN, "--sparsity", ".5"), ""),
    ],
)
def test_bad_usage_is_one_line(arguments, words, tmp_path, modelcut, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = modelcut(*arguments)
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    assert words in said.err
    assert list(tmp_path.iterdir()) == []


def test_gates_decide_the_exit_code(tmp_path, modelcut):
    out = tmp_path / "o.h5"
    said = modelcut("prune", CNN, "--sparsity", "0.1", "--min-sparsity", "0.9", "-o", out)
    assert said.code == 1
    assert "FAILED" in said.out
    assert (tmp_path / "o.failed.h5").exists()
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["gates"][0]["held"] is False


def test_a_dry_run_writes_nothing_and_counts_the_same(tmp_path, modelcut):
    dry = modelcut("prune", CNN, "--sparsity", "0.7", "--dry-run", "--json")
    assert list(tmp_path.iterdir()) == []
    wet = modelcut("prune", CNN, "--sparsity", "0.7", "-o", tmp_path / "o.h5", "--json")
    assert dry.code == wet.code == 0
    dry, wet = json.loads(dry.out), json.loads(wet.out)
    assert dry["ledger"] == wet["ledger"]
    assert dry["output"] is None


def test_a_dry_run_says_that_it_judges_nothing(tmp_path, modelcut):
    dry = ("prune", CNN, "--sparsity", "0.7", "--dry-run", "--json")
    rows = tmp_path / "rows.csv"
    rows.write_text("a,label\n1,0\n")
    for more in (("--test", rows), ("--min-ratio", "2")):
        said = modelcut(*dry, *more)
        assert said.code == 0, said
        assert "judges neither accuracy nor gates" in json.loads(said.out)["warnings"][-1]
    assert not any("judges" in line for line in json.loads(modelcut(*dry).out)["warnings"])
    said = modelcut(*dry, "--test", tmp_path / "none.csv")
    assert (said.code, "no such file" in said.err) == (2, True)


def test_the_summary_is_appended(tmp_path, modelcut):
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    arguments = ("prune", CNN, "--sparsity", "0.5", "-o", tmp_path / "o.h5", "-q")
    said = modelcut(*arguments, "--summary", page)
    assert said.code == 0
    assert said.out == ""
    text = page.read_text()
    assert text.startswith("before\n")
    assert "| conv2d/kernel |" in text.replace("\\_", "_")
    assert (tmp_path / "o.report.md").read_text() in text


def test_what_is_reported_is_what_was_written(tmp_path, modelcut):
    out = tmp_path / "o.h5"
    said = modelcut("prune", CNN, "--sparsity", "0.6", "--scope", "global", "-o", out, "--json")
    report = json.loads(said.out)
    assert report["output"]["bytes"] == out.stat().st_size
    model = registry.open_model(out)
    rows = {row["name"]: row for layer in report["layers"] for row in layer["tensors"]}
    total = zeros = 0
    for tensor in model.tensors:
        values = tensor.pull()[0]
        assert rows[tensor.name]["after"]["nonzeros"] == int((values != 0).sum())
        if rows[tensor.name]["changes"]:
            total += values.size
            zeros += int((values == 0).sum())
    assert zeros == round(0.6 * total)


def test_the_optimizer_is_kept_when_asked(tmp_path, modelcut):
    out = tmp_path / "o.h5"
    arguments = ("prune", CNN, "--sparsity", "0.5", "-o", out)
    said = modelcut(*arguments)
    assert "left out: optimizer state" in said.out
    said = modelcut(*arguments, "--keep-optimizer")
    assert "left out" not in said.out


def test_inspect(tmp_path, modelcut):
    out = tmp_path / "o.h5"
    modelcut("prune", CNN, "--sparsity", "0.5", "-o", out, "-q")
    modelcut("quantize", out, "--bits", "4", "-o", tmp_path / "p.h5", "-q")
    said = modelcut("inspect", tmp_path / "p.h5")
    assert said.code == 0
    assert "sparse, int4" in said.out
    assert "prune: magnitude" in said.out
    assert "quantize: linear" in said.out
    report = json.loads(modelcut("inspect", tmp_path / "p.h5", "--json").out)
    assert len(report["provenance"]["history"]) == 2
    assert report["sizes"]["before"]["parameters"] > 0


def test_eval_of_one_and_of_two(tmp_path, modelcut):
    modelcut("demo", tmp_path / "d", "-q")
    folder = tmp_path / "d"
    common = ("--test", folder / "digits_test.csv", "--scale", "1/16", "--json")
    one = json.loads(modelcut("eval", folder / "small.h5", *common).out)
    report = json.loads((folder / "small.report.json").read_text())
    after = report["evaluation"]["after"]["metrics"]
    assert one["evaluation"]["after"]["metrics"] == after
    two = modelcut("eval", folder / "small.h5", *common, "--against", folder / "digits.h5")
    assert json.loads(two.out)["evaluation"]["change"] == report["evaluation"]["change"]
    low = modelcut("eval", folder / "small.h5", *common, "--min-accuracy", "0.999")
    assert low.code == 1
    page = modelcut("eval", folder / "small.h5", *common[:4], "-o", tmp_path / "e.html", "--json")
    assert json.loads(page.out)["evaluation"]["after"]["metrics"] == after
    assert (tmp_path / "e.html").read_text().startswith("<!doctype html>")
    refused = modelcut("eval", folder / "small.h5", *common, "-o", folder / "digits_test.csv")
    assert (refused.code, refused.out) == (2, "")


def test_recipe_commands(tmp_path, modelcut):
    listed = modelcut("recipe", "show")
    assert "demo" in listed.out
    shown = modelcut("recipe", "show", "demo")
    (tmp_path / "r.yaml").write_text(shown.out)
    assert modelcut("recipe", "check", tmp_path / "r.yaml").code == 0
    schema = json.loads(modelcut("recipe", "schema").out)
    assert schema["title"] == "modelcut recipe"
    wrong = modelcut("recipe", "check", tmp_path / "r.yaml", "--model", CNN)
    assert wrong.code == 2
    assert "matches no layer" in wrong.err


def test_version_and_help(modelcut):
    assert modelcut("--version").out == modelcut("-V").out
    assert modelcut("-V").out.startswith("modelcut ")
    assert modelcut("-h").out == modelcut("--help").out
    assert "Exit codes" in modelcut("--help").out
    assert modelcut().code == 2


def test_a_layer_that_a_step_emptied_is_warned_of(tmp_path, modelcut):
    said = modelcut("prune", CNN, "--threshold", "9", "-o", tmp_path / "a.h5")
    assert said.code == 0
    assert "nothing is left" in said.out
    said = modelcut("prune", CNN, "--sparsity", "0.5", "--scope", "layer", "-o", tmp_path / "b.h5")
    assert "nothing is left" not in said.out


def test_help_of_a_method_is_about_that_method(modelcut):
    family = modelcut("prune", "--help").out
    assert "Methods:" in family
    assert "--sparsity NUMBER" not in family
    magnitude = modelcut("prune", "magnitude", "--help").out
    words = " ".join(magnitude.split())
    assert "--sparsity NUMBER Sparsity: the fraction of weights that are zero after" in words
    assert "--cutoff" in magnitude
    assert "[default: layer]" in magnitude
    channels = " ".join(modelcut("help", "prune", "channels").out.split())
    assert "--criterion" in channels
    assert "--cutoff" not in channels


def test_panels_stand_in_one_order_and_show_only_what_acts(modelcut):
    def panels(*arguments):
        said = modelcut(*arguments)
        assert said.code == 0
        return re.findall(r"^([A-Z][\w ]+):$", said.out, re.M), said.out

    order, page = panels("prune", "magnitude", "--help")
    assert order == [
        "Method", "Model", "Data", "Output", "Gates", "Training", "LiteRT",
        "Speed and memory", "CI and Make", "Report",
    ]  # fmt: skip
    assert "--checkpoint" not in page  # only finetune has something to keep
    assert panels("quantize", "float16", "--help")[0] == [
        "Method", "Model", "Data", "Output", "Gates", "LiteRT", "Speed and memory", "CI and Make",
        "Report",
    ]  # fmt: skip
    assert "--resume" in panels("finetune", "straight_through", "--help")[1]
    assert not re.search(
        r"(?m)^  --(train|resume|distribute|in-place|coder)\b", panels("export", "--help")[1]
    )
    assert "--min-accuracy" not in panels("pack", "--help")[1]
    assert "--max-bytes " not in panels("eval", "--help")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_and_its_panels(name, modelcut):
    said = modelcut(name, "--help").out
    if name not in ("recipe", "report"):
        assert f"Example: modelcut {name}" in said
        assert said.startswith(f"Usage: modelcut {name}")
    panels = re.findall(r"^([A-Z][\w ]+):$", said, re.M)
    assert "Options" not in panels or len(panels) <= 2, panels


def test_short_help_shows_the_most_used_options(modelcut):
    short, full = modelcut("prune", "magnitude", "-h").out, modelcut("prune", "magnitude", "--help")
    assert "--sparsity" in short
    assert "--outlier-range" not in short
    assert "--outlier-range" in full.out
    assert re.search(r"\d+ more options: modelcut prune magnitude --help", short)


def test_a_method_stands_behind_its_family(tmp_path, modelcut):
    common = ("--sparsity", "0.5", "--no-report", "-q", "-o")
    named = modelcut("prune", CNN, "--method", "l1", *common, tmp_path / "a.h5")
    behind = modelcut("prune", "l1", CNN, *common, tmp_path / "b.h5")
    assert named.code == behind.code == 0, behind
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    odd = modelcut("quantize", "float16", CNN, "--bits", "3", "-o", tmp_path / "c.h5")
    assert (odd.code, "--bits" in odd.err) == (2, True)
    assert modelcut("quantize", "liner", CNN, "-o", tmp_path / "c.h5").code == 2


def test_options_come_from_the_environment(tmp_path, modelcut, monkeypatch):
    monkeypatch.setenv("MODELCUT_MAX_BYTES", "64kB")
    monkeypatch.setenv("MODELCUT_EXCLUDE", "class:Conv2D")
    said = modelcut("prune", CNN, "--sparsity", "0.5", "--print-recipe")
    assert "max_bytes: 64000" in said.out
    assert "class:Conv2D" in said.out
    said = modelcut("prune", CNN, "--sparsity", "0.5", "--max-bytes", "1kB", "--print-recipe")
    assert "max_bytes: 1000" in said.out


@pytest.mark.parametrize("by", ["an option", "the environment"])
def test_an_option_of_another_method_is_refused(by, modelcut, tmp_path, monkeypatch):
    given = ["--round-to", "8"] if by == "an option" else []
    if not given:
        monkeypatch.setenv("MODELCUT_ROUND_TO", "8")
    path = MODELS / "keras3_sequential.h5"
    said = modelcut("prune", path, "--sparsity", "0.5", *given, "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert "--round-to: unknown key 'round_to'" in said.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("modelcut pru", {"prune"}),
        ("modelcut prune magn", {"magnitude"}),
        (f"modelcut prune magnitude {CNN} --spar", {"--sparsity", "--sparse"}),
        (f"modelcut prune {CNN} --include conv2d", {"conv2d"}),
        (f"modelcut prune {CNN} --compression f", {"fast"}),
        ("modelcut run model.h5 -r lenet-5-s", {"lenet-5-smaller"}),
        ("modelcut docs gat", {"gates"}),
    ],
)
def test_completion(line, words, modelcut, monkeypatch):
    monkeypatch.setenv("_MODELCUT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    assert set(modelcut().out.split()) == words


def test_only_what_is_plain_to_a_shell_is_completed(tmp_path, modelcut, monkeypatch):
    """Zsh evaluates what it is offered."""
    monkeypatch.chdir(tmp_path)
    names = ["dense 1", "conv", "é", "$(touch x)", "\\$(touch x)", "`x`", "a;b", "a'b", "-rf"]
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            file.create_group(name).attrs["weight_names"] = [b"kernel:0"]
            file[name]["kernel:0"] = np.ones((2, 2), "f4")
    for name in ("good.h5", "$(x).h5", "a\nb.h5", "`x`.h5"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setenv("_MODELCUT_COMPLETE", "complete_bash")
    for line, words in (
        ("modelcut prune m.h5 --include ", {"dense 1", "conv", "é"}),
        ("modelcut prune goo", {"good.h5"}),
        ("modelcut prune $", {""}),
        ("modelcut prune `", {""}),
    ):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        assert set(modelcut().out.splitlines()) == words


@pytest.mark.parametrize("output", ["x.mcut", "x.tflite"])
def test_compression_is_refused_where_a_format_has_its_own(output, tmp_path, modelcut):
    said = modelcut("pack" if output.endswith("mcut") else "prune", CNN, "-o", tmp_path / output,
                    *(() if output.endswith("mcut") else ("--sparsity", "0.5")),
                    "--compression", "best")  # fmt: skip
    assert said.code == 2
    assert "compression" in said.err
    assert not (tmp_path / output).exists()


def test_a_tflite_keeps_no_optimizer(tmp_path, modelcut):
    said = modelcut("prune", CNN, "--sparsity", "0.5", "-o", tmp_path / "x.tflite",
                    "--keep-optimizer")  # fmt: skip
    assert said.code == 2
    assert "--keep-optimizer" in said.err

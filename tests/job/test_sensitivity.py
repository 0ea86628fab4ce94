"""`modelcut sensitivity` and budgets as a user types them, on the model of the demo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from toys import MODELS, contents, saved_model

import modelcut as package

DEMO = Path(package.__file__).parent / "demo"
MODEL, TRAIN, TEST = (DEMO / name for name in ("digits.h5", "digits_train.csv", "digits_test.csv"))
SCALE = ("--scale", "1/16")


def test_a_profile_of_some_layers(modelcut):
    arguments = ("sensitivity", MODEL, "--validate", TEST, *SCALE, "--include", "d*")
    said = modelcut(*arguments, "--method", "magnitude", "--method", "svd", "--json")
    assert said.code == 0, said
    profile = json.loads(said.out)
    assert profile["schema"] == "modelcut-sensitivity/1"
    assert profile["data"]["rows"] == 540
    assert [part["title"] for part in profile["profiles"]] == ["prune: magnitude", "factorize: svd"]
    for part in profile["profiles"]:
        assert part["base"]["accuracy"] > 0.97
        for layer in part["layers"]:
            assert len(layer["trials"]) == len(part["settings"])
            bits = [trial["bits"] for trial in layer["trials"]]
            assert bits == sorted(bits, reverse=True)
            for trial, setting in zip(layer["trials"], part["settings"], strict=True):
                assert trial["settings"] == {layer["name"]: setting}
    prune = {layer["name"]: layer for layer in profile["profiles"][0]["layers"]}
    assert list(prune) == ["dense1", "digit"]
    assert prune["digit"]["trials"][-1]["accuracy"] < 0.9


def test_a_ranking_and_a_file(modelcut, tmp_path):
    place = tmp_path / "profile.json"
    arguments = ("sensitivity", MODEL, "--validate", TEST, *SCALE, "--method", "magnitude")
    said = modelcut(*arguments, "--settings", "[0.3, 0.6, 0.9]", "-o", place)
    assert said.code == 0, said
    (part,) = json.loads(place.read_text())["profiles"]
    ranking = part["ranking"]
    assert ranking["measure"] == "log_loss"
    assert ranking["setting"] in part["settings"]
    losses = list(ranking["losses"].values())
    assert losses == sorted(losses, reverse=True)
    assert ranking["fraction"] >= 0.8
    assert ranking["carrying"] == list(ranking["losses"])[: len(ranking["carrying"])]
    for name in ranking["carrying"]:
        assert name in said.out.splitlines()[-2] + said.out.splitlines()[-1]
    assert modelcut(*arguments, "--settings", "[0.5]", "-o", MODEL).code == 2
    again = modelcut(*arguments, "--settings", "[0.5]", "-o", place, "-q")
    assert again.code == 0, "its own file may be written again"
    paged = modelcut(*arguments, "--settings", "[0.5, 0.9]", "-o", tmp_path / "profile.html")
    assert paged.code == 0, paged
    text = (tmp_path / "profile.html").read_text()
    assert "dense1" in text
    assert "prune: magnitude" in text
    assert "<script" not in text


def test_what_it_says_is_what_pruning_that_layer_gives(modelcut, tmp_path):
    common = ("--include", "conv2", *SCALE, "--json")
    said = modelcut(
        "sensitivity",
        MODEL,
        "--validate",
        TEST,
        "--method",
        "magnitude",
        "--settings",
        "[0.9]",
        *common,
    )
    (trial,) = json.loads(said.out)["profiles"][0]["layers"][0]["trials"]
    options = ("--sparsity", "0.9", "--test", TEST, "-o", tmp_path / "o.h5")
    report = json.loads(modelcut("prune", MODEL, *options, *common).out)
    metrics = report["evaluation"]["after"]["metrics"]
    assert trial["accuracy"] == metrics["accuracy"]
    assert trial["log_loss"] == pytest.approx(metrics["log_loss"], rel=1e-5)
    assert trial["agreement"] == report["evaluation"]["agreement"]["top1"]


def test_as_tables(modelcut):
    said = modelcut(
        "sensitivity",
        MODEL,
        "--validate",
        TEST,
        *SCALE,
        "--method",
        "svd",
        "--settings",
        "[1, 0.5]",
    )
    assert said.code == 0
    (conv,) = [line for line in said.out.splitlines() if line.strip().startswith("dense1")]
    assert conv.split()[-2] == "="
    assert "=: that setting does nothing" in said.out
    assert "conv1" not in said.out


def test_a_budget_is_held_and_what_it_found_can_be_run_again(modelcut, tmp_path):
    budget = "{max_accuracy_drop: 0.02, candidates: [0.3, 0.6, 0.9]}"
    data = ("--validate", TRAIN, *SCALE)
    out = tmp_path / "a.h5"
    said = modelcut("prune", MODEL, "--budget", budget, *data, "-o", out)
    assert said.code == 0, said
    assert "Search of step 1, prune: magnitude" in said.out
    report = json.loads((tmp_path / "a.report.json").read_text())
    found = report["steps"][0]["facts"]["budget"]
    assert found["rows"] == 1257
    assert found["reached"]["accuracy"] >= found["base"]["accuracy"] - 0.02
    assert report["sizes"]["after"]["sparsity"] > 0.3
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"steps": [found["chosen"]]}))
    again = tmp_path / "b.h5"
    assert modelcut("run", MODEL, "--recipe", tmp_path / "r.yaml", "-o", again, "-q").code == 0
    report_again = json.loads((tmp_path / "b.report.json").read_text())
    assert report_again["layers"] == report["layers"]
    evaluated = modelcut("eval", out, "--test", TRAIN, *SCALE, "--json")
    accuracy = json.loads(evaluated.out)["evaluation"]["after"]["metrics"]["accuracy"]
    assert accuracy == pytest.approx(found["reached"]["accuracy"])
    page = (tmp_path / "a.report.md").read_text()
    assert "    - prune: magnitude" in page
    assert page.count("| chosen |") == 1
    assert found["chosen"].get("overrides") != {}


def test_a_tenth_of_the_training_rows_is_set_aside(modelcut, tmp_path):
    budget = "{max_accuracy_drop: 0.001, candidates: [4]}"
    arguments = ("--budget", budget, "--train", TRAIN, *SCALE)
    said = modelcut("quantize", MODEL, *arguments, "-o", tmp_path / "a.h5", "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert 60 < report["steps"][0]["facts"]["budget"]["rows"] < 200
    assert any("cannot tell a drop of 0.001" in line for line in report["warnings"])


def test_bases_are_searched(modelcut, tmp_path):
    arguments = ("--method", "binary", "--budget", "{max_accuracy_drop: 0.02}", "--validate", TRAIN)
    out = tmp_path / "a.h5"
    said = modelcut("quantize", MODEL, *arguments, *SCALE, "-o", out, "--json")
    assert said.code == 0, said
    found = json.loads(said.out)["steps"][0]["facts"]["budget"]
    assert found["reached"]["accuracy"] >= found["base"]["accuracy"] - 0.02
    chosen = [found["chosen"], *found["chosen"].get("overrides", {}).values()]
    assert {each["bases"] for each in chosen} <= {1, 2, 3, 4, 5}
    assert min(each["bases"] for each in chosen) < 5


def test_a_criterion_on_a_real_network(modelcut, tmp_path):
    arguments = ("--train", TRAIN, "--test", TEST, *SCALE, "--json")
    accuracy = {}
    for method in ("random", "taylor", "wanda", "obs"):
        options = ("--method", method, "--sparsity", "0.6", "-o", tmp_path / f"{method}.h5")
        given = arguments[2:] if method == "random" else arguments
        said = modelcut("prune", MODEL, *options, *given)
        assert said.code == 0, said
        accuracy[method] = json.loads(said.out)["evaluation"]["after"]["metrics"]["accuracy"]
    assert accuracy["obs"] > 0.95
    assert min(accuracy["taylor"], accuracy["wanda"], accuracy["obs"]) > accuracy["random"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sensitivity", MODEL), "--validate"),
        (("sensitivity", MODEL, "--validate", TEST, "--method", "float16"), "no strength to vary"),
        (
            ("sensitivity", MODEL, "--validate", TEST, "--settings", "[0.5]"),
            "--settings needs a method",
        ),
        (
            ("sensitivity", MODEL, "--validate", TEST, "--method", "linear", "--settings", "[99]"),
            "99 is no bits",
        ),
        (("sensitivity", MODEL, "--validate", TEST, "--method", "taylor"), "--train"),
        (("sensitivity", MODELS / "keras3_cnn.weights.h5", "--validate", TEST), "weights only"),
        (("prune", MODEL, "--budget", "{max_accuracy_drop: 0.1}", "-o", "o.h5"), "--validate"),
        (("prune", MODEL, "--budget", "{max_acuracy_drop: 0.1}", "-o", "o.h5"), "max_acuracy_drop"),
        (("prune", MODEL, "--budget", "{max_bytes: 9}", "-o", "o.h5"), "max_bytes"),
        (("prune", MODEL, "--budget", "0.1", "-o", "o.h5"), "--budget"),
        (("prune", MODEL, "--method", "obs", "--sparsity", "0.5", "-o", "o.h5"), "--train"),
        (
            ("prune", MODEL, "--budget", "{max_accuracy_drop: 0.1}", "--dry-run"),
            "needs validation data",
        ),
        (
            ("prune", MODEL, "--budget={min_r2: 0}", "-oo.h5", "--validate", TEST, "--test", TEST),
            "the same file",
        ),
    ],
)
def test_bad_usage_is_one_line(arguments, words, modelcut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = modelcut(*arguments)
    assert said.code == 2, said
    assert words in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["keras3", "tf_keras", "module", "v1"])
def test_a_saved_model_is_refused_before_any_work(kind, modelcut, tmp_path, monkeypatch):
    path = saved_model(kind, tmp_path)
    monkeypatch.setattr("modelcut.engines.open_network", None)
    monkeypatch.setattr("modelcut.model.model.Tensor.pull", None)
    before = contents(tmp_path)
    out = ("-o", tmp_path / "out")
    for words in (
        ("sensitivity", path, "--validate", TEST),
        ("prune", path, "--budget", "{max_accuracy_drop: 0.1}", "--validate", TEST, *out),
        ("quantize", path, "--budget", "{max_accuracy_drop: 0.1}", "--train", TEST, *out),
        ("prune", path, "--method", "wanda", "--sparsity", "0.5", "--train", TEST, *out),
        ("finetune", path, "--train", TEST, *out),
    ):
        said = modelcut(*words)
        assert said.code == 2, said
        assert "neither trained nor tried out" in said.err
        assert ("unpack x.mcut -o x.h5" in said.err) == (kind == "tf_keras")
        assert said.err.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["keras3_cnn.h5", "keras3_cnn.keras", "tf_keras_cnn.h5"])
def test_each_engine_gives_gradients_and_inputs(name, modelcut, tmp_path):
    """The scores of both Keras worlds, held against derivatives taken by small differences."""
    from modelcut import steps
    from modelcut.formats import registry
    from modelcut.job import start
    from modelcut.job.request import Trust
    from modelcut.recipe.recipe import Recipe
    from modelcut.steps.base import Context

    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=(48, 64)).round(3), rng.integers(0, 5, 48)])
    header = ",".join([*(f"x{i}" for i in range(64)), "label"])
    np.savetxt(tmp_path / "t.csv", rows, fmt="%g", delimiter=",", header=header, comments="")
    model = registry.open_model(MODELS / name)
    runtime = start.open_runtime(model, Recipe(()), tmp_path / "t.csv", tmp_path / "t.csv", Trust())
    kernels = [tensor for tensor in model.tensors if tensor.kind == "kernel"]
    dense = next(t for t in kernels if len(t.shape) == 2)
    step = steps.find("prune", "snip")(sparsity=0.5, batch_size=48)
    found, facts = step.statistics(model, kernels, Context(runtime=runtime))
    assert facts["rows"] == 48
    running = runtime.open(model)
    (part,) = runtime.rows(running, 48)
    values = dense.pull()[0]
    for place in [(0, 0), (3, 2), (values.shape[0] - 1, 4)]:
        losses = []
        for delta in (1e-2, -1e-2):
            moved = values.copy()
            moved[place] += delta
            running.write({dense.name: moved})
            losses.append(running.loss(part))
        expected = (losses[0] - losses[1]) / 2e-2
        assert found[dense.name][place] == pytest.approx(expected, abs=2e-4)
    for method, fields in (("fisher", {"scope": "layer"}), ("wanda", {}), ("obs", {})):
        step = steps.find("prune", method)(sparsity=0.5, **fields)
        outcome = step.apply(model, Context(runtime=runtime))
        after = {tensor.name: tensor.pull()[0] for tensor in outcome.model.tensors}
        assert np.mean(after[dense.name] == 0) == pytest.approx(0.5, abs=0.02)
        if method != "fisher":
            skipped = [n for n in outcome.skipped if "separable" in n and "kernel" in n]
            assert len(skipped) == 2

"""Several models side by side, on the demo's network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import modelcut as package
from modelcut.job.compare import shown
from modelcut.report import comparison

DEMO = Path(package.__file__).parent / "demo"
TEST = DEMO / "digits_test.csv"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    package.prune(DEMO / "digits.h5", folder / "pruned.h5", sparsity=0.95)
    package.pack(folder / "pruned.h5", folder / "pruned.mcut")
    return [DEMO / "digits.h5", folder / "pruned.h5", folder / "pruned.mcut"]


@pytest.fixture(scope="module")
def found(models):
    return package.compare(*models, test=TEST, data={"scale": "1/16"})


def test_the_first_is_the_reference_of_all(found):
    first, pruned, packed = found.models
    assert [model.name for model in found.models] == ["digits.h5", "pruned.h5", "pruned.mcut"]
    assert first.change is first.agreement is first.latency is None
    assert found.rows == 540
    assert pruned.evaluation["metrics"] == packed.evaluation["metrics"]
    drop = first.evaluation["metrics"]["accuracy"] - pruned.evaluation["metrics"]["accuracy"]
    assert pruned.change["accuracy_drop"] == pytest.approx(drop)
    assert pruned.change["intervals"] == packed.change["intervals"]
    assert 0 < pruned.agreement["top1"] < 1
    test = pruned.change["mcnemar"]
    assert (test["only_before_right"] - test["only_after_right"]) / 540 == pytest.approx(drop)
    assert pruned.latency["same_engine"]
    assert packed.size.file_bytes < pruned.size.file_bytes < first.size.file_bytes


def test_it_says_the_same_as_eval(models, found):
    report = package.evaluate(models[1], TEST, against=models[0], data={"scale": "1/16"})
    assert report.evaluation.change == found.models[1].change
    assert report.evaluation.before["metrics"] == found.models[0].evaluation["metrics"]
    assert report.evaluation.after["metrics"] == found.models[1].evaluation["metrics"]
    # The model that it is compared with is the reference in every row.
    assert report.sizes.before.file_bytes == found.models[0].size.file_bytes
    assert report.sizes.after.file_bytes == found.models[1].size.file_bytes
    assert report.sizes.weights.before == found.models[0].size.totals.deflated_bytes
    assert report.sizes.weights.after == found.models[1].size.totals.deflated_bytes
    assert report.sizes.before.macs == found.models[0].size.macs
    assert report.sizes.optimizer.bytes == 440_412


def test_forms(found, monkeypatch):
    monkeypatch.delenv("MODELCUT_CHARTS")
    data = json.loads(comparison.render(found, "json"))
    assert data["schema"] == "modelcut-comparison/1"
    assert len(data["models"]) == 3
    text = comparison.render(found, "md")
    assert "| pruned.mcut |" in text
    page = comparison.render(found, "html")
    assert page.count("<svg") == 3
    assert "modelcut-comparison/1" in page[:200]
    sizes, scores, latencies = comparison.tables(found)
    assert all(len(each.rows) == 3 for each in (sizes, scores, latencies))
    assert latencies.rows[0][3] == "reference"
    assert all(sum(max(len(row[i]) for row in (each.columns, *each.rows)) + 2
                   for i in range(len(each.columns))) <= 80
               for each in (sizes, scores, latencies))  # fmt: skip


def test_the_command(models, tmp_path, modelcut):
    page = tmp_path / "c.html"
    common = ("--test", TEST, "--scale", "1/16")
    said = modelcut("compare", *models[:2], *common, "-o", page)
    assert said.code == 0, said.err
    assert "pruned.h5" in said.out
    assert page.read_text().startswith("<!doctype html>")
    assert len(json.loads(modelcut("compare", *models[:2], *common, "--json").out)["models"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((DEMO / "digits.h5", "--test", TEST), "two models or more"),
        ((DEMO / "digits.h5", DEMO / "digits.h5"), "add --test"),
        ((DEMO / "digits.h5", "none.h5", "--test", TEST), "none.h5"),
        ((DEMO / "digits.h5", TEST, "--test", TEST, "--json", "--md"), "which of these?"),
    ],
)
def test_bad_requests(modelcut, arguments, words):
    said = modelcut("compare", *arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("a/x.h5", "b/y.h5"), ["x.h5", "y.h5"]),
        (("a/x.h5", "b/x.h5"), ["a/x.h5", "b/x.h5"]),
        (("x.h5", "b/x.h5"), ["x.h5", "b/x.h5"]),
        (("x.h5", "x.h5"), ["x.h5", "x.h5 (2)"]),
    ],
)
def test_names_tell_models_apart(paths, names):
    assert shown([Path(path) for path in paths]) == names

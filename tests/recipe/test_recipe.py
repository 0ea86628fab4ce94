"""Recipes: read, checked, written again; gates held against reports."""

from __future__ import annotations

import json

import pytest
from toys import MODELS

from modelcut import steps
from modelcut.errors import RecipeError
from modelcut.metrics.limits import Gates
from modelcut.recipe import recipe
from modelcut.recipe.yaml_text import loads


def parse(text):
    return recipe.parse(loads(text, "r.yaml"))


FULL = """
version: 1
seed: 7
task: multiclass
data: {label: y, scale: 1/255, clean: drop}
steps:
  - prune: magnitude
    sparsity: 0.5
    scope: layer
    overrides:
      class:Conv2D: {sparsity: 0.2}
  - quantize: {method: linear, bits: 4}
  - quantize: float16
    include: [role:bias]
gates: {max_accuracy_drop: 0.01, max_bytes: 250 kB}
"""


def test_a_recipe_comes_back_as_it_was():
    one = parse(FULL)
    again = parse(one.to_yaml())
    assert again.steps == one.steps
    assert again.head == one.head
    assert one.head.seed == 7
    assert one.head.gates.max_bytes == 250_000
    assert one.head.data.scale == pytest.approx(1 / 255)
    assert [step.title for step in one.steps] == [
        "prune: magnitude",
        "quantize: linear",
        "quantize: float16",
    ]


def test_all_errors_are_said_at_once_and_where():
    with pytest.raises(RecipeError) as caught:
        parse("sed: 3\nsteps:\n  - prune: magnitude\n    sparsty: 0.5\n  - prunne: magnitude\n")
    said = str(caught.value)
    assert "r.yaml:1:1" in said
    assert "did you mean 'seed'" in said
    assert "r.yaml:4:5" in said
    assert "did you mean 'sparsity'" in said
    assert "r.yaml:5:5" in said
    assert "did you mean 'prune'" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 3", "must be a list"),
        ("seed: 1", "no 'steps'"),
        ("steps:\n  - 3", "a step looks like"),
        ("steps:\n  - {prune: magnitude, quantize: linear}", "several steps"),
        ("steps:\n  - prune: magnitude", "exactly one of"),
        ("steps:\n  - prune: {sparsity: 0.5}\n    sparsity: 0.5", "is given twice"),
        ("steps: []\ngates: {max_acuracy_drop: 0.1}", "did you mean 'max_accuracy_drop'"),
        ("steps: []\ngates: {max_accuracy_drop: 2}", "max_accuracy_drop"),
        ("steps: []\ndata: {clean: sometimes}", "clean"),
        ("version: 2\nsteps: []", "version"),
        (
            "steps:\n  - prune: magnitude\n    sparsity: 0.5\n    overrides: {a: {scope: layer}}",
            "cannot be set for one layer",
        ),
        ("steps:\n  - quantize: linear\n  - {factorize: svd, rank: 3}", "cannot follow"),
        ("steps:\n  - finetune: {quantize: {bits: 4}}", "put the step quantize before finetune"),
        ("steps:\n  - {quantize: ternary, budget: {max_accuracy_drop: 0.1}}", "cluster and linear"),
        (
            "steps:\n  - {prune: dead, budget: {max_accuracy_drop: 0.1}}",
            "outputs do not change",
        ),
        (
            "steps:\n  - {prune: magnitude, cutoff: 1, until: stable, finetune: {epoch: 1}}",
            "finetune: unknown key 'epoch' (did you mean 'epochs'?)",
        ),
    ],
)
def test_errors(text, words):
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", sorted(recipe.shipped()))
def test_shipped_recipes_hold(name):
    path = recipe.shipped()[name]
    assert recipe.load(path).steps
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", sorted(set(recipe.shipped()) - {"demo"}))
def test_shipped_recipes_run(name, tmp_path, modelcut):
    said = modelcut(
        "run", MODELS / "keras3_cnn.h5", "-r", recipe.shipped()[name], "-o", tmp_path / "o.h5",
        "--dry-run", "--quiet",
    )  # fmt: skip
    needs = {need for step in recipe.load(recipe.shipped()[name]).steps for need in step.needs}
    if needs & {"train", "calibration"}:  # it is for data of its own, or for any samples
        assert said.code == 2
        assert ("add --train" if "train" in needs else "add --calibrate") in said.err
        return
    assert said.code == 0, said


def test_the_schema_knows_every_method_and_field():
    schema = recipe.schema()
    choices = {part["title"]: part for part in schema["$defs"]["step"]["anyOf"]}
    for family in steps.families():
        for method in steps.methods(family):
            part = choices[f"{family}: {method}"]
            fields = steps.find(family, method).model_fields
            assert set(fields) <= set(part["properties"])
            for name, info in fields.items():
                assert info.description, f"{family}: {method}: {name} is not described"
    json.dumps(schema)


def test_gates_hold_at_their_limit():
    report = {
        "evaluation": {"change": {"accuracy_drop": 0.03 - 0.02}, "after": {"metrics": {}}},
        "output": {"bytes": 1000},
        "sizes": {"ratio": 3.999},
    }
    gates = Gates(max_accuracy_drop=0.01, max_bytes=1000, min_ratio=4, min_f1=0.5)
    held = {gate["name"]: gate["held"] for gate in gates.judge(report)}
    assert held == {
        "max_accuracy_drop": True,
        "max_bytes": True,
        "min_ratio": False,
        "min_f1": False,  # the report has no F1
    }


def test_gates_under_if_data_are_asked_only_where_there_is_a_number():
    gates = Gates(min_f1=0.5, if_data={"max_accuracy_drop": 0.01, "min_f1": 0.9, "min_r2": 0})
    assert gates.needing_data() == ["min_f1"]
    assert [limit.name for limit in gates.each()] == ["min_f1", "max_accuracy_drop", "min_r2"]
    after = {"metrics": {"f1_macro": 0.6}}
    for evaluation, told in (
        (None, [False, "no test data", "no test data"]),
        (
            {"after": after},
            [True, "nothing to compare with", "not measured on such outputs or data"],
        ),
        ({"after": after, "before": after, "change": {"accuracy_drop": 0.02}}, [True, False, ...]),
        ({"after": after, "change": {"accuracy_drop": float("nan")}}, [True, False, ...]),
    ):
        verdicts = gates.judge({"evaluation": evaluation})
        for verdict, expected in zip(verdicts, told, strict=True):
            if isinstance(expected, str):
                assert (verdict["held"], verdict["checked"]) == (True, False)
                assert verdict["reason"] == expected
            elif expected is not ...:
                assert verdict["held"] is expected
                assert "checked" not in verdict


def test_every_gate_looks_at_a_number_that_reports_have(tmp_path, modelcut):
    """With limits that always hold, all gates of classification hold; each was looked up."""
    flags = []
    for name in Gates.model_fields:
        if any(part in name for part in ("mae", "rmse", "r2")) or name == "if_data":
            continue
        limit = "1" if "drop" in name else "1e12" if name.startswith("max") else "0"
        flags += [f"--{name.replace('_', '-')}", limit]
    for name in ("max_bytes", "max_macs"):
        flags[flags.index(f"--{name.replace('_', '-')}") + 1] = str(10**12)
    modelcut("demo", tmp_path / "d", "-q")
    said = modelcut(
        "prune", tmp_path / "d/digits.h5", "--sparsity", "0.3", "-o", tmp_path / "o.h5",
        "--test", tmp_path / "d/digits_test.csv", "--scale", "1/16", "--json", *flags,
    )  # fmt: skip
    gates = json.loads(said.out)["gates"]
    assert len(gates) == len(flags) // 2
    assert [gate["name"] for gate in gates if gate["value"] is None or not gate["held"]] == []
    assert said.code == 0

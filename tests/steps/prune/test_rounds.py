"""Rounds of cutting and fine-tuning, on the toy laboratory."""

from __future__ import annotations

import numpy as np
import pytest
from toy_runtime import toy_runtime

from modelcut import steps
from modelcut.errors import UsageError
from modelcut.job import check
from modelcut.recipe.recipe import Recipe
from modelcut.steps.base import Context

TUNE = {"epochs": 8, "batch_size": 16, "learning_rate": 0.1, "validation": 0.3}


def rounds(**fields):
    fields = {"cutoff": 0.4, "until": "stable", "finetune": TUNE, **fields}
    return steps.find("prune", "magnitude")(**fields)


def kernels(model):
    return {t.name: t.pull()[0] for t in model.tensors if t.kind == "kernel"}


def nonzeros(model):
    return sum(int(np.count_nonzero(values)) for values in kernels(model).values())


def test_each_round_takes_the_smallest_and_trains_on(toy):
    runtime = toy_runtime(toy, rows=300)
    outcome = rounds(rounds=3).apply(toy, Context(runtime=runtime))
    facts = outcome.facts
    left = [sum(one["nonzeros"].values()) for one in facts["rounds"]]
    assert facts["ended"] == "after 3 rounds"
    assert len(left) == 3
    assert nonzeros(toy) > left[0] > left[1] > left[2] == nonzeros(outcome.model)
    first = facts["rounds"][0]["nonzeros"]
    for name, values in kernels(toy).items():
        kept = values[values != 0]
        outside = np.abs(kept - kept.mean()) >= 0.4 * kept.std()
        assert first[name] == np.count_nonzero(outside)
    assert all(len(tensor.edits) <= 1 for tensor in outcome.model.tensors)
    biases = [t for t in outcome.model.tensors if t.kind == "bias"]
    assert all(t.edits and t.name not in outcome.skipped for t in biases)


def test_the_rounds_end_where_the_budget_is_spent(toy):
    runtime = toy_runtime(toy, rows=300)
    taught = steps.find("finetune", "straight_through")(**{**TUNE, "epochs": 40})
    model = taught.apply(toy, Context(runtime=runtime)).model
    before = runtime.judge(runtime.open(model), part="validation", share=0.3)["accuracy"]
    step = rounds(cutoff=0.5, budget={"max_accuracy_drop": 0.05}, rounds=50)
    assert not step.searched
    outcome = step.apply(model, Context(index=1, runtime=runtime))
    facts = outcome.facts
    assert facts["ended"] == "the budget is spent"
    assert [one["held"] for one in facts["rounds"]][-2:] == [True, False]
    assert facts["before"]["accuracy"] == before
    after = runtime.judge(runtime.open(outcome.model), part="validation", share=0.3)["accuracy"]
    assert after == facts["rounds"][-2]["accuracy"] >= before - 0.05 - 1e-9
    assert nonzeros(outcome.model) == sum(facts["rounds"][-2]["nonzeros"].values())


def test_a_budget_that_no_round_holds_leaves_the_model_alone(toy):
    runtime = toy_runtime(toy, rows=300)
    step = rounds(cutoff=3.0, budget={"min_accuracy": 1.0})
    outcome = step.apply(toy, Context(runtime=runtime))
    assert outcome.model is toy
    assert "no round was taken" in outcome.skipped["one/kernel"]
    assert "not even the first round" in outcome.warnings[-1]


def test_nothing_more_to_take_is_stable(toy):
    outcome = rounds(cutoff=0.0).apply(toy, Context(runtime=toy_runtime(toy)))
    assert outcome.facts["ended"] == "stable"
    assert outcome.model is toy


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"until": None}, "finetune needs until"),
        ({"finetune": {"epoch": 3}}, "finetune: unknown key 'epoch'"),
        ({"finetune": {"prune": {"sparsity": 0.5}}}, "the rounds prune already"),
        ({"budget": {"min_agreement": 0.9}}, "for a search, not for rounds"),
        ({"budget": {"max_accuracy_drop": 0.1}, "finetune": {"validation": 0}}, "leaves no rows"),
        ({"finetune": None, "rounds": 3}, "rounds needs finetune"),
        ({"finetune": None, "budget": {"max_accuracy_drop": 0.1}}, "exactly one of"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        rounds(**fields)


def test_rounds_need_training_data(toy):
    recipe = Recipe((rounds(budget={"max_accuracy_drop": 0.01}),))
    with pytest.raises(UsageError, match="needs training data"):
        check.check_needs(recipe, None, None, None)


def test_the_report_shows_each_round():
    from modelcut.report.tables import _rounds

    facts = {
        "rounds": [
            {"nonzeros": {"a": 700, "b": 300}, "accuracy": 0.9, "held": True},
            {"nonzeros": {"a": 600, "b": 200}, "accuracy": 0.8, "held": False},
        ],
        "ended": "the budget is spent",
        "before": {"nonzeros": {}, "accuracy": 0.95},
        "limits": {"max_accuracy_drop": 0.1},
    }
    found = _rounds({"step": 1, "title": "prune: magnitude", "facts": facts})
    assert [tuple(row) for row in found.rows] == [
        ("before", "", "0.9500", ""),
        ("1", "1,000", "0.9000", "within budget"),
        ("2", "800", "0.8000", "exceeded"),
    ]
    assert "the budget is spent" in found.note
    assert "max_accuracy_drop 0.1" in found.note

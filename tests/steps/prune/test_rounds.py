"""Rounds of cutting and fine-tuning, on the toy laboratory."""

from __future__ import annotations

import numpy as np
import pytest
from toy_runtime import toy_runtime
from toys import toy_model

from modelcut import steps
from modelcut.errors import UsageError
from modelcut.job import check
from modelcut.model.encoding import Sparse
from modelcut.recipe.recipe import Recipe
from modelcut.runtime import pinned
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
    assert "no round was done" in outcome.skipped["one/kernel"]
    assert "first round already exceeds the budget" in outcome.warnings[-1]


def test_nothing_more_to_take_is_stable(toy):
    outcome = rounds(cutoff=0.0).apply(toy, Context(runtime=toy_runtime(toy)))
    assert outcome.facts["ended"] == "stable"
    assert outcome.model is toy


def scores_by_hand(criterion, weights, runtime):
    """Of every weight, on all samples in one batch; the toy's gradients are tested elsewhere."""
    running = runtime.open(weights)
    rows = next(runtime.rows(running, 10**6))
    values = kernels(weights)
    if criterion == "wanda":
        names = [name.partition("/")[0] for name in values]
        given = running.layer_inputs(rows, names)
        return {
            name: np.abs(w) * np.sqrt(np.square(given[name.partition("/")[0]][0]).sum(0))[:, None]
            for name, w in values.items()
        }
    slopes = running.gradients(rows, list(values))
    return {
        name: {
            "gradient": np.abs(slopes[name]),
            "taylor": np.abs(w * slopes[name]),
            "snip": np.abs(w * slopes[name]),
            "fisher": np.square(w * slopes[name]) / 2,
        }[criterion]
        for name, w in values.items()
    }


SCORED = ("gradient", "taylor", "snip", "fisher", "wanda")


@pytest.mark.parametrize("criterion", SCORED)
@pytest.mark.parametrize("most", [1, 3, None])
def test_scores_are_taken_anew_in_each_round(criterion, most, toy):
    runtime = toy_runtime(toy, rows=60)
    fields = {"rows": 60} if criterion == "wanda" else {"rows": 60, "batch_size": 60}
    fields |= {} if most is None else {"rounds": most}
    fields |= {"cutoff": 0.3, "overrides": {"two": {"cutoff": 0.5}}}
    step = steps.find("prune", criterion)(until="stable", **fields)
    outcome = step.apply(toy, Context(runtime=runtime))

    now, number, ended = toy, 0, "stable"
    while True:
        found = scores_by_hand(criterion, now, runtime)
        changed = {}
        for tensor in now.tensors:
            if tensor.kind == "kernel":
                values = tensor.pull()[0].copy()
                score, left = found[tensor.name], values != 0
                cutoff = 0.5 if tensor.name == "two/kernel" else 0.3
                values[score < cutoff * score[left].mean()] = 0
                changed[tensor.name] = pinned(tensor, 0, values, Sparse())
        after = now.with_tensors(changed)
        if nonzeros(after) == nonzeros(now):
            break
        now, number = after, number + 1
        if number == (most or 20):
            ended = f"after {number} rounds"
            break
    for name, values in kernels(now).items():
        np.testing.assert_array_equal(kernels(outcome.model)[name] == 0, values == 0, name)
    assert len(outcome.facts["rounds"]) == number > (0 if most == 1 else 1)
    assert outcome.facts["ended"] == ended
    unstable = ended != "stable" and most is None
    assert any("not stable after 20" in w for w in outcome.warnings) == unstable
    assert outcome.facts["rows"] == 60
    assert all(len(tensor.edits) <= 1 for tensor in outcome.model.tensors)
    biases = [t for t in outcome.model.tensors if t.kind == "bias"]
    assert all(not t.edits and t.name in outcome.skipped for t in biases)
    assert sum(outcome.facts["rounds"][-1]["nonzeros"].values()) == nonzeros(outcome.model)


@pytest.mark.parametrize("criterion", SCORED)
def test_a_cutoff_alone_is_one_round(criterion, toy):
    runtime, cls = toy_runtime(toy), steps.find("prune", criterion)
    once = cls(cutoff=0.4).apply(toy, Context(runtime=runtime))
    rounds = cls(cutoff=0.4, until="stable", rounds=1).apply(toy, Context(runtime=runtime))
    assert nonzeros(toy) > nonzeros(once.model)
    for name, values in kernels(once.model).items():
        assert values.tobytes() == kernels(rounds.model)[name].tobytes()
    assert (
        kernels(cls(cutoff=0).apply(toy, Context(runtime=runtime)).model).keys()
        == kernels(toy).keys()
    )
    most = cls(cutoff=1e6, until="stable").apply(toy, Context(runtime=runtime)).model
    assert all(np.count_nonzero(values) >= 1 for values in kernels(most).values())


@pytest.mark.parametrize(
    ("criterion", "fields"),
    [
        *((name, {"cutoff": 0.2}) for name in SCORED),
        ("l1", {"cutoff": 0.9}),
        ("l2", {"cutoff": 0.9}),
    ],
)
def test_all_of_them_train_on_between_rounds_and_hold_a_budget(criterion, fields, toy):
    runtime = toy_runtime(toy, rows=300)
    taught = steps.find("finetune", "straight_through")(**{**TUNE, "epochs": 20})
    model = taught.apply(toy, Context(runtime=runtime)).model
    before = runtime.judge(runtime.open(model), part="validation", share=0.3)["accuracy"]
    budget = {"max_accuracy_drop": 0.4}
    tune = {**TUNE, "epochs": 2}
    step = steps.find("prune", criterion)(
        until="stable", finetune=tune, budget=budget, rounds=4, **fields
    )
    assert not step.searched
    assert {"train", "validation", "loop"} <= step.needs
    outcome = step.apply(model, Context(index=1, runtime=runtime))
    facts = outcome.facts
    assert facts["before"]["accuracy"] == before
    held = [one for one in facts["rounds"] if one["held"]]
    assert held
    after = runtime.judge(runtime.open(outcome.model), part="validation", share=0.3)["accuracy"]
    assert after == held[-1]["accuracy"] >= before - 0.4 - 1e-9
    assert nonzeros(outcome.model) < nonzeros(model)
    for name, left in held[-1]["nonzeros"].items():
        assert np.count_nonzero(kernels(outcome.model)[name]) == left
    for tensor in outcome.model.tensors:
        values, encoding = tensor.pull()
        assert np.count_nonzero(encoding.project(values)) == np.count_nonzero(values)


@pytest.mark.parametrize(("method", "order"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("most", [0, 1, 2])
def test_groups_of_a_small_norm_go_until_nothing_changes(method, order, standardize, most):
    values = np.random.default_rng(0).standard_t(2, size=(6, 40)).astype("float32")
    values[:, 3] = 0
    model = toy_model({"one": (values, None), "out": (np.ones((40, 3), "float32"), None)})
    fields = {"rounds": most} if most else {}
    step = steps.find("prune", method)(
        cutoff=0.7, until="stable", standardize=standardize, exclude=["out"], **fields
    )
    outcome = step.apply(model, Context())
    work = (values - values.mean()) / values.std() if standardize else values
    norms = np.linalg.norm(work.astype(float), ord=order, axis=0) / 6 ** (1 / order)
    gone, number = np.all(values == 0, axis=0), 0
    while not most or number < most:
        after = gone | (norms < 0.7 * norms[~gone].mean())
        if (after == gone).all():
            break
        gone, number = after, number + 1
    assert number > 0
    if most:
        assert number == most
    np.testing.assert_array_equal((kernels(outcome.model)["one/kernel"] == 0).all(axis=0), gone)
    assert outcome.facts["removed"] == {"one/kernel": gone.sum()}


def test_rounds_limit_magnitude_without_training_too():
    values = np.random.default_rng(0).standard_t(2, size=(40, 30)).astype("float32")
    model = toy_model({"one": (values, None)})
    magnitude = steps.find("prune", "magnitude")
    all_of_them = magnitude(cutoff=0.6, until="stable").apply(model, Context())
    two = magnitude(cutoff=0.6, until="stable", rounds=2).apply(model, Context())
    left = all_of_them.facts["nonzeros_after_each_round"]["one/kernel"]
    assert len(left) > 2
    assert two.facts["nonzeros_after_each_round"]["one/kernel"] == left[:2]
    assert nonzeros(two.model) == left[1]


@pytest.mark.parametrize("method", [*SCORED, "l1", "l2"])
def test_the_same_is_refused_of_every_criterion(method):
    cls = steps.find("prune", method)
    for fields, words in (
        ({"sparsity": 0.5, "until": "stable"}, "until needs cutoff"),
        ({"cutoff": 0.5, "rounds": 2}, "rounds needs until"),
        ({"cutoff": 0.5, "finetune": {}}, "finetune needs until"),
        ({"cutoff": 0.5, "sparsity": 0.5}, "at most one|exactly one"),
        ({"cutoff": 0.5, "until": "stable", "finetune": {"epoch": 1}}, "unknown key 'epoch'"),
        ({"cutoff": 0.5, "overrides": {"a": {"until": "stable"}}}, "cannot be set for one layer"),
    ):
        with pytest.raises(ValueError, match=words):
            cls(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"until": None}, "finetune needs until"),
        ({"finetune": {"epoch": 3}}, "finetune: unknown key 'epoch'"),
        ({"finetune": {"prune": {"sparsity": 0.5}}}, "the rounds prune already"),
        ({"budget": {"min_agreement": 0.9}}, "apply to a search, not to rounds"),
        (
            {"budget": {"max_accuracy_drop": 0.1}, "finetune": {"validation": 0}},
            "leaves no samples",
        ),
        ({"finetune": None, "until": None, "rounds": 3}, "rounds needs until"),
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
    from modelcut.report.schema import StepRow
    from modelcut.report.tables import _rounds

    def row(title, facts):
        return StepRow(1, title, {}, facts, 2, {}, 0.1)

    facts = {
        "rounds": [
            {"nonzeros": {"a": 700, "b": 300}, "accuracy": 0.9, "held": True},
            {"nonzeros": {"a": 600, "b": 200}, "accuracy": 0.8, "held": False},
        ],
        "ended": "the budget is spent",
        "before": {"nonzeros": {}, "accuracy": 0.95},
        "limits": {"max_accuracy_drop": 0.1},
    }
    found = _rounds(row("prune: magnitude", facts))
    assert [tuple(row) for row in found.rows] == [
        ("before", "", "0.9500", ""),
        ("1", "1,000", "0.9000", "within budget"),
        ("2", "800", "0.8000", "exceeded"),
    ]
    unjudged = {"rounds": [{"nonzeros": {"a": 1234}}], "ended": "stable"}
    plain = _rounds(row("prune: taylor", unjudged))
    assert plain.columns == ("round", "weights left")
    assert [tuple(row) for row in plain.rows] == [("1", "1,234")]
    assert "the budget is spent" in found.note
    assert "max_accuracy_drop 0.1" in found.note


@pytest.mark.parametrize("method", ["magnitude", "taylor", "l1"])
def test_rounds_that_end_before_it_is_stable_say_so_unless_asked_for(method, toy, monkeypatch):
    monkeypatch.setattr("modelcut.steps.prune._iterated._MOST", 1)
    runtime = toy_runtime(toy, rows=60)
    fields = {"cutoff": 0.9, "until": "stable", "finetune": {"epochs": 1}}
    outcome = steps.find("prune", method)(**fields).apply(toy, Context(runtime=runtime))
    assert "not stable after 1 rounds" in outcome.warnings[-1]
    outcome = steps.find("prune", method)(**fields, rounds=1).apply(toy, Context(runtime=runtime))
    assert outcome.facts["ended"] == "after 1 rounds"
    assert not outcome.warnings

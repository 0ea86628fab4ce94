"""Budgets and profiles on a network by hand, against a search of everything."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toy_engine import ToyNetwork, WatchedLab
from toys import toy_model

from modelcut import steps
from modelcut.budget.bench import Bench
from modelcut.budget.profile import Trier, profile
from modelcut.budget.search import chain, search
from modelcut.errors import RecipeError
from modelcut.job.fold import fold
from modelcut.recipe.recipe import parse
from modelcut.recipe.yaml_text import loads
from modelcut.steps.base import Context

MAGNITUDE = {"candidates": [0.2, 0.5, 0.8, 0.95]}


@pytest.fixture
def toy():
    """A network whose three layers all matter."""
    rng = np.random.default_rng(0)
    shapes = {"one": (20, 16), "two": (16, 12), "three": (12, 3)}
    return toy_model(
        {
            n: (rng.normal(size=s).astype("float32") / 4, np.zeros(s[1], "f4"))
            for n, s in shapes.items()
        }
    )


def lost_by(model, runtime):
    """Share of rows on which a model decides otherwise than the labels say."""
    return 1 - float(np.mean(ToyNetwork(model).forward(runtime.inputs).argmax(1) == runtime.labels))


def test_a_variant_is_measured_as_if_it_had_been_loaded(toy):
    runtime = WatchedLab.taught_by(toy)
    bench = Bench(toy, runtime)
    magnitude = steps.find("prune", "magnitude")
    assert bench.base.metrics["accuracy"] == 1
    for fields in ({"include": ["one"]}, {}, {"include": ["two"]}, {"exclude": ["one"]}):
        variant = magnitude(sparsity=0.7, scope="layer", **fields).apply(toy, Context()).model
        found = bench.measure(variant)
        assert found.metrics["accuracy"] == pytest.approx(1 - lost_by(variant, runtime))
        assert found.agreement["top1"] == pytest.approx(found.metrics["accuracy"])
        assert found.shift > 0
    assert len(runtime.opened) == 1, "the network stays loaded"
    assert runtime.opened[0].written[2] == ["one/kernel", "three/kernel", "two/kernel"]
    assert bench.measure(toy) == bench.base


def test_a_profile_is_of_each_layer_alone(toy):
    runtime = WatchedLab.taught_by(toy)
    step = steps.find("prune", "magnitude")(budget={"max_accuracy_drop": 1, **MAGNITUDE})
    trier = Trier(step, toy, Bench(toy, runtime), Context())
    found = profile(trier)
    assert list(found) == ["one", "two", "three"]
    for layer, trials in found.items():
        assert [trial.settings for trial in trials] == [{layer: s} for s in step.ladder]
        for trial in trials:
            own = steps.find("prune", "magnitude")(
                sparsity=trial.settings[layer], include=[layer], scope="layer"
            )
            expected = 1 - lost_by(own.apply(toy, Context()).model, runtime)
            assert trial.measured.metrics["accuracy"] == pytest.approx(expected)
        bits = [trial.measured.bits for trial in trials]
        assert bits == sorted(bits, reverse=True)


@pytest.mark.parametrize("drop", [0.1, 0.3])
@pytest.mark.parametrize(
    ("family", "method", "candidates"),
    [
        ("prune", "magnitude", [0.2, 0.5, 0.8, 0.95]),
        ("prune", "l2", [0.1, 0.3, 0.5]),
        ("quantize", "linear", [8, 6, 4, 3, 2]),
        ("factorize", "svd", [0.99, 0.9, 0.7]),
    ],
)
def test_what_is_found_holds_and_says_how_to_do_it_again(family, method, candidates, drop, toy):
    runtime = WatchedLab.taught_by(toy)
    step = steps.find(family, method)(budget={"max_accuracy_drop": drop, "candidates": candidates})
    bench = Bench(toy, runtime)
    plain, facts = search(step, toy, Context(), bench)
    json.dumps(facts)
    text = json.dumps({"steps": [facts["budget"]["chosen"]]})
    (again,) = parse(loads(text, "found.yaml")).steps
    assert again == plain
    assert plain.budget is None
    model = again.apply(toy, Context()).model
    lost = lost_by(model, runtime)
    assert lost <= drop + 1e-9
    reached = facts["budget"]["reached"]
    assert reached["accuracy"] == pytest.approx(1 - lost)
    assert reached["bits"] < bench.base.bits
    held = [trial for trial in facts["budget"]["trials"] if trial["held"]]
    assert all(trial["accuracy"] >= 1 - drop - 1e-9 for trial in held)
    # Of all that was tried and holds, none that is about the whole is smaller.
    assert reached["bits"] <= min(trial["bits"] for trial in held)


def test_the_search_comes_near_to_trying_everything(toy):
    """All 4^3 (and left alone: 5^3) settings of the three layers."""
    magnitude = steps.find("prune", "magnitude")
    step = magnitude(budget={"max_accuracy_drop": 0.05, **MAGNITUDE})
    bench = Bench(toy, WatchedLab.taught_by(toy))
    _, facts = search(step, toy, Context(), bench)
    trier = Trier(step, toy, bench, Context(), step.budget)
    every = (None, *step.ladder)
    best = min(
        trial.measured.bits
        for trial in (
            trier.measure({"one": a, "two": b, "three": c})
            for a in every
            for b in every
            for c in every
        )
        if trial.held
    )
    reached = facts["budget"]["reached"]["bits"]
    saved, possible = bench.base.bits - reached, bench.base.bits - best
    assert saved >= 0.9 * possible
    assert len(facts["budget"]["trials"]) < 40


def test_a_sensitive_layer_is_left_alone_and_overrides_are_kept():
    rng = np.random.default_rng(1)
    model = toy_model(
        {
            "one": (rng.normal(size=(20, 30)).astype("float32"), None),
            "two": (rng.normal(size=(30, 3)).astype("float32"), None),
        }
    )
    bench = Bench(model, WatchedLab.taught_by(model))
    magnitude = steps.find("prune", "magnitude")
    step = magnitude(
        budget={"max_accuracy_drop": 0.3, "candidates": [0.1, 0.95]},
        overrides={"two": {"threshold": 0.05}},
    )
    plain, facts = search(step, model, Context(), bench)
    assert plain.overrides["two"] == {"threshold": 0.05}
    assert all("two" not in trial["settings"] for trial in facts["budget"]["trials"])
    zeros = plain.apply(model, Context()).model.layers[1].tensors[0].pull()[0] == 0
    assert 0 < zeros.sum() < 10


def test_a_budget_that_cannot_hold_is_an_error_before_any_search(toy):
    runtime = WatchedLab.taught_by(toy, shift=1)
    bench = Bench(toy, runtime)
    step = steps.find("prune", "magnitude")(budget={"min_accuracy": 0.9})
    with pytest.raises(RecipeError, match="is exceeded even if no layer is changed"):
        search(step, toy, Context(), bench)
    assert runtime.opened[0].written == []


def test_where_nothing_holds_nothing_is_done(toy):
    budget = {"max_accuracy_drop": 0, "candidates": [0.99]}
    step = steps.find("prune", "magnitude")(budget=budget)
    plain, facts = search(step, toy, Context(), Bench(toy, WatchedLab.taught_by(toy)))
    assert plain is None
    assert facts["budget"]["chosen"] is None
    assert [trial["held"] for trial in facts["budget"]["trials"]] == [True, False, False, False]


def test_the_chain_goes_along_the_convex_hull():
    class Trial:
        held = None

        def __init__(self, setting, saved, shift):
            self.settings = {"l": setting}
            self.measured = type("M", (), {"bits": 100 - saved, "shift": shift})

    trials = [Trial(1, 10, 1.0), Trial(2, 20, 5.0), Trial(3, 30, 3.0), Trial(4, 25, 9.0)]
    trials += [Trial(5, 40, float("inf")), Trial(6, -5, 0.0)]
    moves = chain({"l": trials}, 100)
    assert [(move.setting, move.price) for move in moves] == [(1, 0.1), (3, 0.1)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"budget": {"max_accuracy_drop": 0.1}, "sparsity": 0.5}, "exactly one of"),
        ({"budget": {}}, "give at least one limit"),
        ({"budget": {"max_accuracy_drop": 0.1}, "scope": "global"}, "leave scope out"),
        ({"budget": {"max_accuracy_drop": 0.1, "candidates": [0.5, 2]}}, "2 is no sparsity"),
        ({"budget": {"max_bytes": 3}}, "max_bytes"),
        ({"sparsity": 0.5, "overrides": {"a": {"budget": None}}}, "cannot be set for one layer"),
    ],
)
def test_budgets_that_mean_nothing(fields, words):
    with pytest.raises(ValueError, match=words):
        steps.find("prune", "magnitude")(**fields)


def test_bits_and_a_budget_are_not_both_taken():
    with pytest.raises(
        ValueError, match="at most one of bits, average_bits, parameter_bytes and budget"
    ):
        steps.find("quantize", "linear")(bits=4, budget={"max_accuracy_drop": 0.1})


def test_several_steps_share_one_budget(toy):
    """The first may use half of it, both together all of it, against the original."""

    def lost(limit, **more):
        runtime = WatchedLab.taught_by(toy)
        budget = {"max_accuracy_drop": limit, **more}
        made = parse(
            loads(
                json.dumps(
                    {
                        "steps": [
                            {"prune": "magnitude", "budget": budget},
                            {"quantize": "linear", "budget": budget},
                        ]
                    }
                ),
                "r",
            )
        )
        folded = fold(toy, made, lambda _: None, runtime)
        reached = [outcome.facts["budget"] for outcome in folded.outcomes]
        return [lost_by(model, runtime) for model in folded.models[1:]], reached

    (first, both), facts = lost(0.1, shared=True)
    assert first <= 0.05 + 1e-9
    assert both <= 0.1 + 1e-9
    assert [each["limits"]["max_accuracy_drop"] for each in facts] == [0.05, 0.1]
    (alone, apart), _ = lost(0.1)
    assert first < alone
    assert apart > both

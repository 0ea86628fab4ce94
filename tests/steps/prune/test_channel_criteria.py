"""Channels scored and refitted with data, in rounds, within a budget, down to a latency."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from toy_runtime import ToyRuntime, toy_runtime
from toys import dense, toy_model

from modelcut.errors import RecipeError
from modelcut.model.edit import dependencies
from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.prune import _channel_data, _channel_obs
from modelcut.steps.prune._channel_data import Data

Channels = find("prune", "channels")


def network(*sizes, seed=0, bias=True):
    """Dense layers with relu between them."""
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(sizes))
    arrays = {
        f"d{n}": (
            (rng.normal(size=pair) / np.sqrt(pair[0])).astype("float32"),
            rng.normal(size=pair[1]).astype("float32") / 4 if bias else None,
        )
        for n, pair in enumerate(pairs)
    }
    config = {
        "class_name": "Sequential",
        "config": [
            dense(
                name,
                kernel.shape[1],
                batch_input_shape=[None, kernel.shape[0]],
                activation="relu" if number < len(pairs) - 1 else "softmax",
            )
            for number, (name, (kernel, _)) in enumerate(arrays.items())
        ],
    }
    return toy_model(arrays, config=config)


def data_of(model, runtime, rows=64):
    return Data(runtime, rows, 1e-6, Context(runtime=runtime), "prune: channels")


def values_of(outcome):
    return {tensor.name: tensor.pull()[0] for tensor in outcome.model.tensors}


def applied(model, runtime, **settings):
    return Channels(**settings).apply(model, Context(runtime=runtime))


def test_taylor_is_the_slope_of_the_loss_by_what_reads_the_channel():
    model = network(6, 9, 7, 4)
    runtime = toy_runtime(model)
    found = dependencies(model)
    told = _channel_data.taylor(model, found, found.groups, data_of(model, runtime), 64)
    running = runtime.open(model)
    rows = next(runtime.rows(running, 64))
    for reader, group, scores in zip(("d1", "d2"), found.groups, told, strict=True):
        kernel = running.read([f"{reader}/kernel"])[f"{reader}/kernel"]
        for channel in range(group.ids.size):
            losses = []
            for factor in (0.99, 1.01):
                scaled = kernel.astype("float64")
                scaled[channel] *= factor
                running.write({f"{reader}/kernel": scaled})
                losses.append(running.loss(rows))
            slope = (losses[1] - losses[0]) / 0.02
            assert abs(abs(slope) - scores[channel]) < 1e-4
        running.write({f"{reader}/kernel": kernel})


def test_activation_is_the_mean_magnitude_that_the_reader_sees():
    model = network(6, 9, 4)
    runtime = toy_runtime(model)
    found = dependencies(model)
    scores = _channel_data.activation(model, found, found.groups, data_of(model, runtime))[0]
    weights = {t.name: t.pull()[0] for t in model.tensors}
    x = next(runtime.rows(None, 64)).inputs[0]
    seen = np.abs(np.maximum(x @ weights["d0/kernel"] + weights["d0/bias"], 0)).mean(axis=0)
    np.testing.assert_allclose(scores, seen / seen.mean(), rtol=1e-5)


def test_the_first_channel_of_obs_is_that_of_the_smallest_least_squares_error():
    model = network(6, 9, 4)
    runtime = toy_runtime(model, rows=200)
    found = dependencies(model)
    curve = _channel_obs.curves(model, found, found.groups, data_of(model, runtime, 200))[0]
    running = runtime.open(model)
    x = running.layer_inputs(next(runtime.rows(running, 200)), ["d1"])["d1"][0].astype("float64")
    weights = running.read(["d1/kernel"])["d1/kernel"].astype("float64")
    target = x @ weights
    for gone, errors in ((1, []), (4, [])):
        for channel in range(9):
            rest = np.delete(x, [*curve.turns[: gone - 1], channel], axis=1)
            error = target - rest @ np.linalg.lstsq(rest, target, rcond=None)[0]
            errors.append(np.sum(error**2) / np.sum(target**2))
        done = set(curve.turns[: gone - 1].tolist())
        left = [n for n in range(9) if n not in done]
        assert curve.turns[gone - 1] == min(left, key=lambda n: errors[n])
        assert curve.losses[gone] == pytest.approx(
            errors[curve.turns[gone - 1]], rel=0.02, abs=1e-9
        )


def test_a_layer_that_cannot_be_refitted_is_scored_by_its_own_parts():
    model = network(6, 9, 4)
    model = find("quantize", "linear")(bits=4, include=["d1"]).apply(model, Context()).model
    runtime = toy_runtime(model, rows=64)
    found = dependencies(model)
    curve = _channel_obs.curves(model, found, found.groups, data_of(model, runtime))[0]
    weights = {t.name: t.pull()[0].astype("f8") for t in model.tensors}
    x = next(runtime.rows(None, 64)).inputs[0]
    squares = np.square(np.maximum(x @ weights["d0/kernel"] + weights["d0/bias"], 0)).sum(axis=0)
    parts = np.square(weights["d1/kernel"]).sum(axis=1) * squares
    np.testing.assert_array_equal(curve.turns, np.argsort(parts, kind="stable"))
    outcome = applied(model, runtime, criterion="obs", ratio=0.5)
    assert outcome.facts["output_error"] == {}
    kept = np.sort(curve.turns[5 - 1 :]) if outcome.facts["removed"] == 4 else None
    np.testing.assert_array_equal(
        values_of(outcome)["d1/kernel"], weights["d1/kernel"][kept].astype("f4")
    )


@pytest.mark.parametrize("bias", [True, False])
def test_what_can_be_made_up_for_is(bias):
    model = network(6, 8, 5, 4, bias=bias)
    kernels = {t.name: t.pull()[0].copy() for t in model.tensors}
    # Two channels are combinations of others, and relu leaves positive ones alone.
    for role in ("kernel", "bias") if bias else ("kernel",):
        values = np.abs(kernels[f"d0/{role}"])
        values[..., 3] = values[..., 0] + 0.5 * values[..., 1]
        values[..., 6] = 2 * values[..., 2]
        kernels[f"d0/{role}"] = values
    arrays = {f"d{n}": (kernels[f"d{n}/kernel"], kernels.get(f"d{n}/bias")) for n in range(3)}
    model = toy_model(arrays, config=_config(model))
    runtime = ToyRuntime(model, np.random.default_rng(0).uniform(0, 1, (80, 6)).astype("f4"), None)
    outcome = applied(
        model, runtime, criterion="obs", ratio=0.25, scope="layer", damp=1e-9, exclude=["d1"]
    )
    assert outcome.facts["layers"]["d0"] == {"channels": 8, "removed": 2}
    assert outcome.facts["output_error"]["d1"] < 1e-3
    rows = next(runtime.rows(None, 80))
    before, after = (runtime.open(m).predict(rows)[0] for m in (model, outcome.model))
    np.testing.assert_allclose(after, before, atol=1e-4)
    plain = applied(model, runtime, criterion="l2", ratio=0.25, scope="layer", exclude=["d1"])
    assert np.abs(runtime.open(plain.model).predict(rows)[0] - before).max() > 1e-2


def _config(model):
    return json.loads(model.architecture.text)


def test_the_target_in_parameters_is_met():
    model = network(30, 40, 50, 5)
    for target in (0.8, 0.3):
        outcome = applied(model, None, params=target)
        sizes = [sum(v.size for v in values_of(o).values()) for o in (outcome,)]
        whole = sum(t.size for t in model.tensors)
        assert 0.95 * target < sizes[0] / whole <= target
    with pytest.raises(RecipeError, match=r"params 0\.01 cannot be reached.* of the parameters"):
        applied(model, None, params=0.01, minimum=20)


def test_the_latency_is_searched_for_and_told():
    model = network(30, 40, 50, 5)  # the toy's time goes with the number of weights
    runtime = toy_runtime(model)
    outcome = applied(model, runtime, latency=0.5, engine="keras")
    kernels = [v.size for n, v in values_of(outcome).items() if n.endswith("kernel")]
    ratio = sum(kernels) / sum(t.size for t in model.tensors if t.kind == "kernel")
    told = outcome.facts["latency"]
    assert 0.47 <= ratio <= 0.5
    assert told["engine"] == "keras"
    assert told["tried"][-1]["ratio"] == pytest.approx(ratio)
    with pytest.raises(RecipeError, match=r"latency 0\.01 cannot be reached"):
        applied(model, runtime, latency=0.01, minimum=20)


def test_rounds_reach_the_target_step_by_step():
    model = network(30, 40, 50, 5)
    runtime = toy_runtime(model)
    tune = {"epochs": 1, "validation": 0.2}
    outcome = applied(model, runtime, macs=0.25, rounds=2, finetune=tune)
    rounds = outcome.facts["rounds"]
    assert len(rounds) == 2
    assert rounds[0]["channels"] > rounds[1]["channels"]
    macs = outcome.facts["macs"]
    assert 0.23 < macs["after"] / macs["before"] <= 0.25
    for tensor in outcome.model.tensors:  # one removal, and one change of values
        assert len(tensor.edits) <= 2
        assert tensor.pull()[0].shape == tensor.shape
    ratio = applied(model, runtime, ratio=0.5, rounds=3, scope="layer", round_to=4)
    assert [v["removed"] for v in ratio.facts["layers"].values()] == [20, 22, 0][:2]


def test_a_budget_ends_the_rounds():
    model = network(6, 40, 3)
    runtime = toy_runtime(model, rows=400)
    tune = {"epochs": 8, "validation": 0.3, "learning_rate": 0.5}
    trained = find("finetune", "straight_through")(**tune).apply(model, Context(runtime=runtime))
    settings = {"macs": 0.03, "rounds": 6, "finetune": {**tune, "epochs": 1}}
    free = applied(trained.model, runtime, **settings)
    held = applied(trained.model, runtime, **settings, budget={"max_accuracy_drop": 0.02})
    assert len(free.facts["rounds"]) == 6
    assert held.facts["ended"] == "the budget is spent"
    assert [r["held"] for r in held.facts["rounds"]] == [True] * (len(held.facts["rounds"]) - 1) + [
        False
    ]
    assert held.facts["macs"]["after"] > free.facts["macs"]["after"]
    none = applied(trained.model, runtime, **settings, budget={"min_accuracy": 1.0})
    assert "not even the first round" in none.warnings[0]
    assert all(not t.edits for t in none.model.tensors if t.name.startswith("d")) or (
        values_of(none)["d0/kernel"].shape == (6, 40)
    )


def test_a_budget_finds_the_smallest_network_that_holds_it():
    model = network(6, 40, 3)
    runtime = toy_runtime(model, rows=400)
    tune = {"epochs": 8, "validation": 0, "learning_rate": 0.5}
    model = (
        find("finetune", "straight_through")(**tune).apply(model, Context(runtime=runtime)).model
    )
    outcome = applied(model, runtime, budget={"max_accuracy_drop": 0.03})
    told = outcome.facts["budget"]
    held = [trial["macs"] for trial in told["tried"] if trial["held"]]
    assert told["found"] == min(held)
    assert max(t["macs"] for t in told["tried"] if not t["held"]) < told["found"]
    macs = outcome.facts["macs"]
    assert macs["after"] / macs["before"] <= told["found"]
    nothing = applied(model, runtime, budget={"min_accuracy": 1.0})
    assert nothing.facts["budget"]["found"] is None
    assert "holds the budget" in nothing.warnings[0]


def test_the_group_lasso_shrinks_channels_in_all_their_weights_together():
    model = network(6, 12, 3)
    runtime = toy_runtime(model, rows=128)

    def norms(strength):
        step = Channels(ratio=0, regularize={"group_lasso": strength, "epochs": 3, "batch_size": 32,
                                             "optimizer": "sgd", "learning_rate": 0.5})  # fmt: skip
        found = values_of(step.apply(model, Context(runtime=runtime)))
        parts = found["d0/kernel"].T, found["d0/bias"][:, None], found["d1/kernel"]
        return np.sqrt(np.square(np.concatenate(parts, axis=1)).sum(axis=1))

    weak, strong = norms(1e-6), norms(0.2)
    assert (strong < weak).all()
    zero = strong == 0
    assert 0 < zero.sum() < 12
    assert Channels(ratio=0.5, regularize="group_lasso").regularize == {"group_lasso": 1e-3}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"ratio": 0.5, "rows": 3}, "rows: it needs another criterion"),
        ({"ratio": 0.5, "engine": "keras"}, "engine: it needs latency"),
        ({"ratio": 0.5, "damp": 0.1, "criterion": "taylor"}, "damp: it needs another criterion"),
        ({"macs": 0.5, "finetune": {"epochz": 1}}, "finetune: .*epochs"),
        ({"macs": 0.5, "finetune": {"prune": {"sparsity": 0.5}}}, "rounds prune already"),
        ({"macs": 0.5, "regularize": {"epochs": 1}}, "give group_lasso a factor"),
        ({"macs": 0.5, "regularize": {"group_lasso": 1, "epoch": 1}}, "finetune: .*epochs"),
        ({"budget": {"max_accuracy_drop": 0.1}, "rounds": 2}, "add finetune"),
        ({"budget": {"max_accuracy_drop": 0.1}, "finetune": {}}, "to a target, with finetune"),
        ({"budget": {"min_agreement": 0.1}}, "min_agreement"),
        ({"budget": {"max_accuracy_drop": 0.1, "candidates": [2]}}, "2.* is no fraction"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields, why):
    with pytest.raises(ValueError, match=why):
        Channels(**fields)

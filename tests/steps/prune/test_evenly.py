"""What an even share for each output is, and which samples are looked at."""

from __future__ import annotations

import numpy as np
import pytest
from toy_engine import ToyNetwork, WatchedLab
from toy_runtime import ToyRuntime, toy_runtime
from toys import toy_model

from modelcut import steps
from modelcut.job import fold
from modelcut.recipe.recipe import Recipe
from modelcut.steps.base import Context
from modelcut.steps.prune._groups import evenly


def by_hand(scores, fraction):
    """One by one: the weight of least score of an output that has lost fewest."""
    gone = scores < 0
    while gone.sum() < round(fraction * scores.size):
        lost = gone.sum(axis=0)
        open_ = np.flatnonzero(lost == lost[~gone.all(axis=0)].min())
        left = np.where(gone, np.inf, scores)
        best = min(open_, key=lambda j: left[:, j].min())
        gone[left[:, best].argmin(), best] = True
    return gone


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.34, 0.6, 0.615, 0.99, 1.0])
@pytest.mark.parametrize("zeros", [0, 5, 40])
def test_what_does_not_divide_is_dealt_out(fraction, zeros):
    rng = np.random.default_rng(1)
    scores = rng.random((13, 7)).astype("float32")
    scores.flat[rng.choice(scores.size, zeros, replace=False)] = -1
    scores[: zeros // 8, 2] = -1
    found = evenly(scores, fraction)
    np.testing.assert_array_equal(found, by_hand(scores, fraction))
    assert found.sum() == max(round(fraction * scores.size), (scores < 0).sum())


def test_ties_go_in_order_and_many_axes_are_one():
    np.testing.assert_array_equal(
        evenly(np.ones((4, 3)), 0.5), [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    )
    scores = np.random.default_rng(0).random((2, 3, 4, 5))
    np.testing.assert_array_equal(
        evenly(scores, 0.4), evenly(scores.reshape(24, 5), 0.4).reshape(scores.shape)
    )


@pytest.mark.parametrize("sparsity", [0.6, 0.5, 0.123])
def test_wanda_is_exact_where_no_output_divides(sparsity):
    rng = np.random.default_rng(0)
    kernels = {"one": rng.normal(size=(13, 10)), "two": rng.normal(size=(10, 3))}
    model = toy_model({name: (k.astype("float32"), None) for name, k in kernels.items()})
    outcome = steps.find("prune", "wanda")(sparsity=sparsity).apply(
        model, Context(runtime=toy_runtime(model))
    )
    for tensor in outcome.model.tensors:
        zeros = (tensor.pull()[0] == 0).sum(axis=0)
        assert zeros.sum() == round(sparsity * tensor.size)
        assert zeros.max() - zeros.min() <= 1


ROUNDS = {"cutoff": 0.1, "until": "stable", "rounds": 1}


@pytest.mark.parametrize("method", ["wanda", "obs", "taylor", "fisher"])
@pytest.mark.parametrize("aside", [0, 0.1, 0.3])
def test_all_samples_are_looked_at_unless_something_is_judged_on_them(method, aside, toy):
    taught = WatchedLab.taught_by(toy, 200)
    runtime, seen = ToyRuntime(toy, taught.inputs, taught.labels), set()

    class Watching(ToyNetwork):
        def gradients(self, rows, names):
            seen.update(map(bytes, rows.inputs[0]))
            return super().gradients(rows, names)

        def layer_inputs(self, rows, layers):
            seen.update(map(bytes, rows.inputs[0]))
            return super().layer_inputs(rows, layers)

    runtime.open = Watching
    recipe = [steps.find("prune", method)(sparsity=0.1)]
    budget = {"max_accuracy_drop": 1}
    if aside == 0.1:
        linear = steps.find("quantize", "linear")
        recipe.append(linear(budget={**budget, "candidates": [8]}))
    elif aside == 0.3:
        tune = {"epochs": 1, "validation": 0.3}
        recipe.append(steps.find("prune", "magnitude")(finetune=tune, budget=budget, **ROUNDS))
    fold.fold(toy, Recipe(tuple(recipe)), print, runtime)
    assert len(seen) == 200 * (1 - aside)


@pytest.mark.parametrize("method", ["wanda", "taylor"])
def test_rounds_do_not_score_on_the_samples_that_judge_them(method, toy):
    taught = WatchedLab.taught_by(toy, 200)
    runtime, seen = ToyRuntime(toy, taught.inputs, taught.labels), []
    plain = runtime.rows

    def rows(running, size, *, part="all", share=0.1, shuffle=-1, teacher=None):
        seen.append((part, share))
        return plain(running, size, part=part, share=share, shuffle=shuffle)

    runtime.rows = rows
    step = steps.find("prune", method)(finetune={"epochs": 1, "validation": 0.4}, **ROUNDS)
    step.apply(toy, Context(runtime=runtime))
    assert ("train", 0.4) in seen
    assert "all" not in dict(seen)

"""The statistics of the layers' outputs, after a step that changes weights and puts them right."""

from __future__ import annotations

import numpy as np
import pytest
from toy_runtime import toy_runtime
from toys import toy_network

from modelcut import steps
from modelcut.steps.base import Context

STEPS = [
    ("prune", "magnitude", {"sparsity": 0.6}),
    ("quantize", "linear", {"bits": 2, "range": "mse"}),
    ("quantize", "linear", {"bits": 2, "rounding": "gptq"}),
    ("quantize", "ternary", {}),
]


def network():
    """The toy network, whose batch normalization has the statistics of the samples or others."""
    return toy_network()


def outputs(runtime, model):
    """What comes out of each layer: the sums of dense layers, and normalized channels."""
    running = runtime.open(model)
    seen, _ = running._forward(runtime._rows)
    return {
        name: z.reshape(-1, z.shape[-1])
        for (name, _), (_, z) in zip(running.layers, seen, strict=True)
    }


def moved(one, other):
    mean = np.abs(one.mean(axis=0) - other.mean(axis=0)).max()
    return mean, np.abs(one.std(axis=0) - other.std(axis=0)).max()


@pytest.mark.parametrize(("family", "method", "fields"), STEPS)
def test_means_and_variances_are_those_before_the_step(family, method, fields):
    model = network()
    runtime = toy_runtime(model, rows=100)
    step = steps.find(family, method)
    truth = outputs(runtime, model)
    plain = outputs(runtime, step(**fields).apply(model, Context(runtime=runtime)).model)
    outcome = step(**fields, correct="both").apply(model, Context(runtime=runtime))
    found = outputs(runtime, outcome.model)
    assert moved(truth["norm"], plain["norm"])[0] > 0.01
    mean, spread = moved(truth["norm"], found["norm"])
    assert mean < 1e-4
    assert spread < 1e-4
    for name in ("conv", "inner/hidden", "out"):
        assert moved(truth[name], found[name])[0] < 1e-4 < moved(truth[name], plain[name])[0]
    facts = outcome.facts["correction"]
    assert facts == {
        "samples": 100, "bias": ["conv", "inner/hidden", "out"], "batchnorm": ["norm"],
    }  # fmt: skip


def test_only_what_was_asked_for_is_changed():
    model = network()
    runtime = toy_runtime(model)
    step = steps.find("prune", "magnitude")
    before = {tensor.name: tensor.pull()[0] for tensor in model.tensors}
    for how, roles in (("bias", {"bias"}), ("batchnorm", {"moving_mean", "moving_variance"})):
        after = step(sparsity=0.6, correct=how).apply(model, Context(runtime=runtime)).model
        changed = {
            tensor.role
            for tensor in after.tensors
            if not np.array_equal(tensor.pull()[0], before[tensor.name])
        }
        assert changed == {"kernel"} | roles


def test_what_lies_before_the_first_change_is_not_touched():
    model = network()
    runtime = toy_runtime(model)
    step = steps.find("prune", "magnitude")(sparsity=0.6, include=["out"], correct="both")
    outcome = step.apply(model, Context(runtime=runtime))
    assert outcome.facts["correction"]["bias"] == ["out"]
    edited = {tensor.name for tensor in outcome.model.tensors if tensor.edits}
    assert edited == {"out/kernel", "out/bias"}


def test_a_channel_that_became_constant_gets_its_mean():
    model = network()
    runtime = toy_runtime(model, rows=100)
    step = steps.find("prune", "magnitude")(sparsity=1.0, include=["conv"], correct="batchnorm")
    truth = outputs(runtime, model)
    found = outputs(runtime, step.apply(model, Context(runtime=runtime)).model)
    mean, _ = moved(truth["norm"], found["norm"])
    assert mean < 1e-4
    assert found["norm"].std(axis=0).max() < 1e-4


def test_a_frozen_budget_has_the_same_statistics_twice():
    model = network()
    runtime = toy_runtime(model)
    step = steps.find("prune", "magnitude")
    context = Context(runtime=runtime)
    first = step(sparsity=0.6, correct="both").apply(model, context)
    again = step(sparsity=0.6, correct="both").apply(model, context)  # from the memo
    for one, other in zip(first.model.tensors, again.model.tensors, strict=True):
        np.testing.assert_array_equal(one.pull()[0], other.pull()[0])


def test_the_step_puts_right_what_earlier_steps_moved():
    model = network()
    runtime = toy_runtime(model, rows=100)
    context = Context(runtime=runtime)
    truth = outputs(runtime, model)
    pruned = steps.find("prune", "magnitude")(sparsity=0.6).apply(model, context).model
    coarse = steps.find("quantize", "linear")(bits=3).apply(pruned, context).model
    outcome = steps.find("correct", "statistics")().apply(coarse, context)
    found = outputs(runtime, outcome.model)
    assert outcome.facts["batchnorm"] == ["norm"]
    for name in truth:
        assert (
            moved(truth[name], found[name])[0]
            < 1e-4
            < moved(truth[name], outputs(runtime, coarse)[name])[0]
        )
    some = steps.find("correct", "statistics")(include=["out"]).apply(coarse, context)
    assert [t.name for t in some.model.tensors if t.edits and t.kind != "kernel"] == ["out/bias"]
    same = steps.find("correct", "statistics")().apply(model, context)
    assert "has them already" in same.skipped["out/bias"]

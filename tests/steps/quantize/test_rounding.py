"""Rounding by the layers' outputs, against brute force and on a small network."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from toy_runtime import toy_runtime
from toys import toy_model, toy_network

from modelcut import steps
from modelcut.errors import RecipeError
from modelcut.model.encoding import Sparse
from modelcut.model.measure import summarize
from modelcut.steps import hessian
from modelcut.steps.base import Context
from modelcut.steps.quantize import _rounding

LEVELS = np.array([-1.0, -0.4, 0.0, 0.7])


def to_levels(row, number):
    del number
    return LEVELS[np.abs(row[..., None] - LEVELS).argmin(axis=-1)]


def problem(rng, inputs, outputs, rows=40):
    """Correlated inputs, as those of an image are."""
    x = rng.normal(size=(rows, 1)) + 0.5 * rng.normal(size=(rows, inputs))
    return rng.normal(size=(1, inputs, outputs)) * 0.6, (x.T @ x)[None]


def loss(change, gram):
    return float(np.sum(change * np.matmul(gram, change)))


def test_rounding_by_outputs_is_near_the_best_there_is():
    rng = np.random.default_rng(0)
    ratios, gains = [], []
    for _ in range(30):
        weights, gram = problem(rng, 5, 1)
        damped = hessian.damped(gram, 0.01)
        found = _rounding.gptq(weights, gram, 0.01, to_levels)
        tried = (
            loss(np.reshape(levels, (1, 5, 1)) - weights, damped)
            for levels in itertools.product(LEVELS, repeat=5)
        )
        best = min(tried)
        mine = loss(found.values - weights, damped)
        assert mine == pytest.approx(float(found.error.sum()))
        ratios.append(mine / best)
        gains.append(loss(_rounding.nearest(weights, to_levels) - weights, damped) / mine)
    assert np.median(ratios) < 1.05
    assert np.median(gains) > 2
    assert min(gains) > 0.999


def test_no_single_weight_could_be_better_in_the_end():
    rng = np.random.default_rng(1)
    weights, gram = problem(rng, 12, 6)
    damped = hessian.damped(gram, 0.01)
    found = _rounding.gptq(weights, gram, 0.01, to_levels).values
    least = np.sum((found - weights) * np.matmul(damped, found - weights), axis=1)
    for place, level in itertools.product(range(12), LEVELS):
        other = found.copy()
        other[:, place] = level
        change = other - weights
        assert np.all(np.sum(change * np.matmul(damped, change), axis=1) >= least * (1 - 1e-6))


def test_groups_are_rounded_each_by_its_own_inputs():
    rng = np.random.default_rng(2)
    apart = [problem(rng, 9, 2) for _ in range(3)]
    weights, gram = (np.concatenate(part) for part in zip(*apart, strict=True))
    together = _rounding.gptq(weights, gram, 0.01, to_levels)
    change = together.values - weights
    nearest = _rounding.nearest(weights, to_levels) - weights
    assert loss(change, gram) < 0.5 * loss(nearest, gram)


def applied(model, method, family="quantize", rows=60, **fields):
    context = Context(runtime=toy_runtime(model, rows=rows))
    return steps.find(family, method)(**fields).apply(model, context)


def image_like(model, rows=200):
    """A runtime whose samples have neighbours that are alike."""
    runtime = toy_runtime(model, rows=rows)
    inputs = runtime._rows.inputs[0]
    inputs += 2 * np.random.default_rng(3).normal(size=(rows,) + (1,) * (inputs.ndim - 1))
    return runtime


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("linear", {"bits": 3}),
        ("linear", {"bits": 2, "range": "output", "symmetric": False}),
        ("linear", {"bits": 3, "group": 6}),
        ("cluster", {"bits": 2}),
        ("binary", {"bases": 2}),
        ("ternary", {}),
    ],
)
def test_every_quantizer_loses_less_by_gptq(method, fields):
    model = toy_network()
    context = Context(runtime=image_like(model))
    step = steps.find("quantize", method)
    facts = step(**fields, rounding="gptq").apply(model, context).facts
    names = {"conv/kernel", "inner/hidden/kernel", "out/kernel"}
    assert facts["output_error"].keys() == names
    ratios = [facts["output_error"][n] / facts["output_error_nearest"][n] for n in names]
    assert max(ratios) < 1
    assert np.mean(ratios) < 0.95
    running = context.runtime.open(model)
    truth = running.predict(context.runtime._rows)[0]
    lost = []
    for rounding in ("nearest", "gptq"):
        after = step(**fields, rounding=rounding).apply(model, context).model
        lost.append(
            np.square(context.runtime.open(after).predict(context.runtime._rows)[0] - truth)
        )
    assert lost[1].mean() < 0.9 * lost[0].mean()


def test_each_layer_is_fed_by_those_that_are_quantized_already():
    model = toy_network()
    runtime = toy_runtime(model)
    seen = []
    opened = runtime.open

    def watched(given):
        running = opened(given)
        ask = running.layer_inputs

        def layer_inputs(rows, layers, *, again=False):
            seen.append((list(layers), running.values["conv/kernel"].copy()))
            return ask(rows, layers, again=again)

        running.layer_inputs = layer_inputs
        return running

    runtime.open = watched
    step = steps.find("quantize", "linear")(bits=2, rounding="gptq")
    outcome = step.apply(model, Context(runtime=runtime))
    after = {t.name: t.pull()[0] for t in outcome.model.tensors}
    order = [layers for layers, _ in seen]
    assert [layers for layers, _ in itertools.groupby(order)] == [
        ["conv"], ["inner/hidden"], ["out"],
    ]  # fmt: skip
    fed = {name: set() for name in ("conv", "inner/hidden", "out")}
    for layers, kernel in seen:
        fed[layers[0]].add(np.array_equal(kernel, after["conv/kernel"]))
    # Beside it runs the network as it was: what its layers make is what is aimed at.
    assert fed == {"conv": {False}, "inner/hidden": {True, False}, "out": {True, False}}


def test_pruned_weights_stay_zero():
    model = toy_network()
    pruned = applied(model, "magnitude", "prune", sparsity=0.7).model
    for method in ("linear", "cluster", "binary", "ternary"):
        after = applied(pruned, method, rounding="gptq").model
        for before, tensor in zip(pruned.tensors, after.tensors, strict=True):
            if before.kind == "kernel":
                values, encoding = tensor.pull()
                assert isinstance(encoding, Sparse)
                assert np.all(values[before.pull()[0] == 0] == 0)
                assert np.any(values)


def test_wide_layers_are_done_in_blocks_of_inputs(monkeypatch):
    monkeypatch.setattr(hessian, "WIDEST", 20)
    model = toy_network()
    facts = applied(model, "linear", bits=3, rounding="gptq").facts
    assert facts["hessian_blocks"] == {"inner/hidden/kernel": 7}
    name = "inner/hidden/kernel"
    assert facts["output_error"][name] < facts["output_error_nearest"][name]


def test_a_layer_whose_inputs_are_not_known_is_rounded_to_nearest():
    model = toy_model({"a": (np.eye(4, dtype="float32") * 0.3, None)}, class_name="Mystery")
    outcome = applied(model, "linear", bits=3, rounding="gptq")
    assert "inputs are known" in outcome.facts["rounded_to_nearest"]["a/kernel"]
    plain = applied(model, "linear", bits=3).model
    for one, other in zip(plain.tensors, outcome.model.tensors, strict=True):
        np.testing.assert_array_equal(one.pull()[0], other.pull()[0])


def test_the_range_of_least_output_error_looks_at_the_inputs():
    # A large weight whose input is always nearly zero need not be in the range.
    kernel = np.array([[8.0], [1.0], [-0.9], [0.4]], "float32")
    model = toy_model({"a": (kernel, None), "b": (np.ones((1, 2), "float32"), None)})
    runtime = toy_runtime(model)
    runtime._rows.inputs[0][:, 0] *= 1e-3
    wide, fitted = (
        steps.find("quantize", "linear")(bits=3, range=how, scales="exact", include=["a"])
        .apply(model, Context(runtime=runtime))
        .model.layers[0].by_role["kernel"].pull()[0]
        for how in ("minmax", "output")
    )  # fmt: skip
    assert np.abs(wide - kernel)[1:].max() > 0.3
    assert np.abs(fitted - kernel)[1:].max() < 0.1


def test_bits_are_dealt_out_by_what_reaches_the_outputs():
    # The second layer hardly looks at what the first one's large outputs are.
    model = toy_network()
    runtime = toy_runtime(model, rows=100)
    linear = steps.find("quantize", "linear")
    context = Context(runtime=runtime)
    few = linear(average_bits=4, rounding="gptq").apply(model, context)
    assert few.facts["average_bits"] <= 4
    truth = runtime.open(model).predict(runtime._rows)[0]
    spread = np.square(truth - truth.mean(axis=0)).sum()

    def change(outcome):
        given = runtime.open(outcome.model).predict(runtime._rows)[0]
        return (np.square(given - truth).sum() / spread) ** 0.5

    for limit in (0.3, 0.03):
        auto = linear(bits="auto", output_error=limit).apply(model, context)
        assert auto.facts["predicted_output_error"] <= limit
        assert change(auto) < 2 * limit
        fewer = linear(average_bits=auto.facts["average_bits"] - 0.3).apply(model, context)
        assert change(fewer) > change(auto) / 2


def test_all_parameters_fit_into_the_bytes_that_were_given():
    model = toy_network()
    linear = steps.find("quantize", "linear")
    for most in (450, 600):
        outcome = linear(parameter_bytes=most).apply(model, Context())
        bits = sum(summarize(*tensor.pull()).bits for tensor in outcome.model.tensors)
        assert most - 20 < bits / 8 <= most
    with pytest.raises(RecipeError, match="at 2 bits the parameters take"):
        linear(parameter_bytes=100).apply(model, Context())
    with pytest.raises(ValueError, match="output_error is for bits: auto"):
        linear(bits=4, output_error=0.1)
    with pytest.raises(ValueError, match="at most one of bits, average_bits, parameter_bytes"):
        linear(bits="auto", parameter_bytes=500)

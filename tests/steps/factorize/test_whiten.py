"""Factors for the outputs on samples: held against least squares written out, on a toy engine."""

from __future__ import annotations

import numpy as np
import pytest
from toy_engine import ToyNetwork
from toy_runtime import ToyRuntime
from toys import toy_model, toy_network

from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.factorize import _whiten

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(24, 16)).astype("float32")
BIAS = RNG.normal(size=16).astype("float32")
INPUTS = (1 + RNG.normal(size=(400, 24)) * np.geomspace(0.01, 3, 24)).astype("float32")


def one_layer(bias=BIAS, second=False):
    arrays = {"a": (KERNEL, bias)}
    if second:
        arrays["b"] = (RNG.normal(size=(16, 14)).astype("float32"), np.ones(14, "float32"))
    return toy_model(arrays)


def applied(model, inputs=INPUTS, method="svd", **fields):
    runtime = ToyRuntime(model, inputs, None)
    step = find("factorize", method)(whiten=True, **fields)
    return step.apply(model, Context(runtime=runtime))


def chain(model, name="a"):
    found = {layer.name: layer.by_role for layer in model.layers}
    left = found[f"{name}_factor"]["kernel"].pull()[0].astype("float64")
    roles = found[name]
    bias = roles["bias"].pull()[0] if "bias" in roles else 0
    return left @ roles["kernel"].pull()[0], bias


def test_the_error_of_the_outputs_is_the_least_of_that_rank():
    outcome = applied(one_layer(), rank=4, rows=400)
    kernel, bias = chain(outcome.model)
    goal = INPUTS.astype("float64") @ KERNEL + BIAS
    error = np.linalg.norm(INPUTS @ kernel + bias - goal)
    centred = goal - goal.mean(axis=0)
    best = np.sqrt(np.square(np.linalg.svd(centred, compute_uv=False)[4:]).sum())
    assert error == pytest.approx(best, rel=1e-3)
    np.testing.assert_allclose((INPUTS @ kernel + bias).mean(0), goal.mean(0), atol=1e-3)
    fact = outcome.facts["layers"]["a"]
    assert fact["output_error"] == pytest.approx(best / np.linalg.norm(centred), rel=1e-3)
    plain = find("factorize", "svd")(rank=4).apply(one_layer(), Context())
    other = np.linalg.norm(INPUTS @ chain(plain.model)[0] + BIAS - goal)
    assert error < 0.5 * other
    assert outcome.facts["rows"] == 400


def test_without_a_bias_none_is_made_up():
    outcome = applied(one_layer(None), rank=4, rows=400)
    kernel, bias = chain(outcome.model)
    assert np.isscalar(bias)
    goal = INPUTS.astype("float64") @ KERNEL
    best = np.sqrt(np.square(np.linalg.svd(goal, compute_uv=False)[4:]).sum())
    assert np.linalg.norm(INPUTS @ kernel - goal) == pytest.approx(best, rel=1e-3)


def test_a_later_layer_makes_up_for_an_earlier_one():
    model = one_layer(second=True)
    outcome = applied(model, rank=4, rows=400)
    original, after = ToyNetwork(model), ToyNetwork(outcome.model)
    from modelcut.runtime import Rows

    def last(network):
        return network._forward(Rows((INPUTS,), None))[0][-1][1]

    error = np.linalg.norm(last(after) - last(original)) / np.linalg.norm(
        last(original) - last(original).mean(axis=0)
    )
    assert error == pytest.approx(outcome.facts["layers"]["b"]["output_error"], rel=2e-2)
    # The same ranks, each layer on its own.
    alone = applied(model, rank=4, rows=400, include=["b"]).model
    kernels = {"a": chain(outcome.model, "a"), "b": chain(alone, "b")}
    hidden = np.maximum(INPUTS @ kernels["a"][0] + kernels["a"][1], 0)
    blind = hidden @ kernels["b"][0] + kernels["b"][1]
    assert np.linalg.norm(last(after) - last(original)) < np.linalg.norm(blind - last(original))


@pytest.mark.parametrize("method", ["channel", "spatial", "tucker2", "cp"])
def test_convolutions_lose_less_of_their_outputs_than_without_samples(method):
    model = toy_network()
    rng = np.random.default_rng(1)
    images = rng.normal(size=(60, 6, 6, 2)).cumsum(axis=1).cumsum(axis=2).astype("float32")
    ratio = {"channel": 0.6, "spatial": 0.6, "tucker2": 0.6, "cp": 0.5}[method]
    settings = {"ratio": ratio, "include": ["conv"]}
    outcome = applied(model, images, method, rows=60, **settings)
    plain = find("factorize", method)(**settings).apply(model, Context())
    views = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    places = np.moveaxis(views, 3, -1).reshape(-1, 18).astype("float64")
    goal = places @ next(model.tensors).pull()[0].reshape(18, 4)

    def error(result):
        from test_chains import product

        roles = [layer.by_role for layer in result.layers if layer.name.startswith("conv")]
        kernels = [role["kernel"].pull()[0] for role in roles]
        bias = roles[-1]["bias"].pull()[0] - 0.5
        made = places @ product(method, kernels, (3, 3, 2, 4)).reshape(18, 4) + bias
        return np.linalg.norm(made - goal) / np.linalg.norm(goal - goal.mean(axis=0))

    assert error(outcome.model) < 0.97 * error(plain.model)
    told = outcome.facts["layers"]["conv"]["output_error"]
    assert error(outcome.model) == pytest.approx(told, rel=1e-2)


def test_of_wide_kernels_only_the_outputs_are_looked_at(monkeypatch):
    exact = applied(one_layer(), rank=4, rows=400)
    monkeypatch.setattr(_whiten, "MOST_INPUTS", 10)
    outcome = applied(one_layer(), rank=4, rows=400)
    assert "output_error" not in outcome.facts["layers"]["a"]
    for one, other in zip(chain(exact.model), chain(outcome.model), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_an_embedding_keeps_what_is_looked_up_often():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 8)).astype("float32")
    target = type("Target", (), {"kind": "embedding", "bias": None, "depth": 30})()
    sums = _whiten._Sums(target, table, 1000, rng)
    numbers = rng.integers(0, 5, (50, 6))
    sums.add(1.0, numbers)
    found = sums.statistics()
    rows = table[numbers.ravel()].astype("float64")
    np.testing.assert_allclose(found.outputs, rows.T @ rows / len(rows), rtol=1e-5)


def test_data_is_needed_and_rows_only_with_whiten():
    with pytest.raises(ValueError, match="rows: only whiten and correct look at samples"):
        find("factorize", "svd")(rank=2, rows=10)
    assert "train" in find("factorize", "auto")(whiten=True).needs

"""Factorization against NumPy's own SVD."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toys import dense, toy_model

from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.factorize._lowrank import decompose

Svd = find("factorize", "svd")


def split(model, **fields):
    outcome = Svd(**fields).apply(model, Context())
    return outcome, {layer.name: layer for layer in outcome.model.layers}


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (64, 64), (5, 200)])
def test_the_product_is_the_best_of_its_rank(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype("float32")
    u, s, vt = np.linalg.svd(matrix.astype("float64"), full_matrices=False)
    found = decompose(matrix, 3)
    np.testing.assert_allclose(found.singular, s, rtol=1e-4, atol=1e-4)
    for rank in (1, 3, min(shape)):
        left, right = found.factors(rank)
        best = (u[:, :rank] * s[:rank]) @ vt[:rank]
        np.testing.assert_allclose(left @ right, best, atol=2e-4)
        norms = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
        np.testing.assert_allclose(*norms, rtol=1e-3, err_msg="both carry half of it")


def test_the_layer_becomes_two(toy):
    outcome, layers = split(toy, rank=3)
    assert list(layers) == ["one_factor", "one", "two_factor", "two", "three"]
    first, second = layers["one_factor"].by_role, layers["one"].by_role
    assert first["kernel"].shape == (20, 3)
    assert second["kernel"].shape == (3, 16)
    assert "bias" not in first
    np.testing.assert_array_equal(second["bias"].pull()[0], np.ones(16))
    configs = json.loads(outcome.model.architecture.text)["config"]["layers"]
    assert [c["config"]["name"] for c in configs] == list(layers)
    assert configs[0]["config"]["units"] == 3
    assert configs[0]["config"]["activation"] == "linear"
    assert configs[0]["config"]["use_bias"] is False
    assert configs[1]["config"]["units"] == 16
    assert configs[1]["config"]["activation"] == "relu"
    assert "at most" in outcome.skipped["three/kernel"]
    assert outcome.model.layers[0].tensors[0].key == ""


def test_energy_picks_the_smallest_rank_that_keeps_it():
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(60, 60)))
    v, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    singular = np.zeros((60, 50))
    singular[range(5), range(5)] = [8, 4, 2, 1, 0.5]
    kernel = (u @ singular @ v).astype("float32")
    total = 64 + 16 + 4 + 1 + 0.25
    model = toy_model({"a": (kernel, None)})
    for rank, kept in ((1, 64), (2, 80), (3, 84)):
        outcome, _ = split(model, energy=kept / total - 1e-6)
        fact = outcome.facts["layers"]["a"]
        assert fact["rank"] == rank
        assert fact["energy"] == pytest.approx(kept / total, rel=1e-4)
        assert fact["error"] == pytest.approx((1 - kept / total) ** 0.5, rel=1e-3)
        shown = fact["singular_values"]  # some of the 50, for a plot
        assert shown["number"][:5] == [1, 2, 3, 4, 5]
        assert shown["value"][:5] == pytest.approx([8, 4, 2, 1, 0.5], rel=1e-4)
        assert shown["number"][-1] == 50


def test_ratio_bounds_the_parameters():
    kernel = np.random.default_rng(0).normal(size=(100, 80)).astype("float32")
    _, layers = split(toy_model({"a": (kernel, None)}), ratio=0.3)
    kept = sum(tensor.size for layer in layers.values() for tensor in layer.tensors)
    assert 0.25 * 8000 < kept <= 0.3 * 8000


def test_the_input_shape_stays_with_the_first():
    config = {
        "class_name": "Sequential",
        "config": [dense("a", 30, batch_input_shape=[None, 40]), dense("b", 2)],
    }
    rng = np.random.default_rng(0)
    kernels = {
        "a": (rng.normal(size=(40, 30)).astype("float32"), None),
        "b": (rng.normal(size=(30, 2)).astype("float32"), None),
    }
    outcome, _ = split(toy_model(kernels, config), rank=4, include=["a"])
    first, second, _ = json.loads(outcome.model.architecture.text)["config"]
    assert first["config"]["batch_input_shape"] == [None, 40]
    assert "batch_input_shape" not in second["config"]


def test_at_most_one_target():
    with pytest.raises(ValueError, match="at most one of energy, rank, ratio, macs, params and"):
        Svd(rank=2, energy=0.9)

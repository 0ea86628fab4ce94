"""Ranks: singular values against NumPy's, variational Bayes on planted ranks, budgets by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from toys import dense, toy_model, toy_network

from modelcut.errors import RecipeError
from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.factorize import _choose, _lowrank, _vbmf
from modelcut.steps.factorize.cp import _alternating
from modelcut.steps.factorize.tucker2 import _hooi, _leading


def planted(shape, rank, noise, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    return signal + noise * rng.normal(size=shape)


@pytest.mark.parametrize(
    ("shape", "rank", "noise"),
    [((100, 80), 5, 0.5), ((60, 200), 10, 1.0), ((128, 128), 0, 1.0), ((90, 30), 4, 0.0)],
)
def test_variational_bayes_finds_the_planted_rank(shape, rank, noise):
    singular = np.linalg.svd(planted(shape, rank, noise), compute_uv=False)
    assert _vbmf.rank(singular, shape) == rank
    assert _vbmf.rank(1e-3 * singular, shape) == rank, "whatever the scale"


def test_the_randomised_decomposition_is_nearly_the_best_and_its_bound_holds():
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(500, 300)))[0]
    right = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    singular = 1.0 / np.arange(1, 301)
    matrix = ((left * singular) @ right.T).astype("float32")
    found = _lowrank.randomised(matrix, 40)
    np.testing.assert_allclose(found.singular, singular[:40], rtol=1e-2)
    best = np.square(singular[40:]).sum() / np.square(singular).sum()
    assert found.loss(40) == pytest.approx(best, rel=1e-2)
    one, two = found.factors(40)
    rest = np.linalg.norm(matrix - one @ two, 2) / singular[0]
    bound = _lowrank.spectral_bound(found, 40)
    assert rest < bound < 6 * rest
    wide = _lowrank.randomised(matrix.T, 40)
    np.testing.assert_allclose(wide.singular, singular[:40], rtol=1e-2)
    assert _lowrank.randomised(matrix, 40).vectors.tobytes() == found.vectors.tobytes()


def test_only_large_matrices_are_decomposed_at_random(monkeypatch):
    monkeypatch.setattr(_lowrank, "_LARGE", 100)
    matrix = planted((300, 200), 5, 0.1).astype("float32")
    assert not _lowrank.decompose(matrix, 10).exact
    assert _lowrank.decompose(matrix, 100).exact, "half of the singular values are no few"
    assert _lowrank.decompose(matrix[:, :90], 10).exact
    model = toy_model({"a": (matrix, None)})
    fact = find("factorize", "svd")(rank=5).apply(model, Context()).facts["layers"]["a"]
    assert 0 < fact["error"] <= fact["spectral_error_bound"] * 200**0.5
    outcome = find("factorize", "svd")(rank="vbmf").apply(
        toy_model({"a": (planted((1600, 1300), 1, 0.1).astype("float32"), None)}), Context()
    )
    assert "too large for all of its singular values" in outcome.skipped["a/kernel"]


def test_hooi_improves_on_hosvd():
    kernel = np.random.default_rng(0).normal(size=(9, 12, 16))
    bases = [
        _leading(np.einsum("kst,kut->su", kernel, kernel))[:, :5],
        _leading(np.einsum("kst,ksu->tu", kernel, kernel))[:, :6],
    ]

    def kept(first, second):
        return np.linalg.norm(np.einsum("kst,sp,tq->kpq", kernel, first, second))

    assert kept(*_hooi(kernel, *bases)) > kept(*bases) + 0.01


def test_alternating_least_squares_finds_a_planted_sum():
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=(n, 4)) for n in (9, 7, 11)]
    kernel = np.einsum("kr,sr,tr->kst", *parts)
    found = np.einsum("kr,sr,tr->kst", *_alternating(kernel, 4))
    assert np.linalg.norm(found - kernel) < 1e-5 * np.linalg.norm(kernel)
    norms = [np.linalg.norm(part, axis=0) for part in _alternating(kernel, 4)]
    np.testing.assert_allclose(norms[0], norms[1])


def test_a_budget_is_dealt_out_as_well_as_by_trying_all():
    rng = np.random.default_rng(0)
    costs = dict.fromkeys("abc", 100)
    ladders = {
        name: [(c, float(loss)) for c, loss in zip(range(10, 100, 10),
               sorted(rng.uniform(0, 0.9, 9))[::-1], strict=True)]
        for name in "abc"
    }  # fmt: skip
    whole = {name: [(100, 0.0), *ladders[name]] for name in "abc"}
    for allowed in (280, 200, 130, 60):
        found = _choose.within(ladders, costs, allowed)
        spent = sum(found.get(name, 100) for name in "abc")
        assert spent <= allowed
        kept = np.prod([1 - dict(whole[n])[found.get(n, 100)] for n in "abc"])
        best = max(
            np.prod([1 - loss for _, loss in picks])
            for picks in product(*whole.values())
            if sum(cost for cost, _ in picks) <= allowed
        )
        assert kept > 0.9 * best
    assert _choose.within(ladders, costs, 1000) == {}
    assert _choose.within(ladders, costs, 1) == dict.fromkeys("abc", 10)


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.5}, {"macs": 0.3}])
@pytest.mark.parametrize("method", ["auto", "channel"])
def test_a_budget_of_the_network_is_kept_and_nearly_used_up(method, target):
    (key, wanted), model = next(iter(target.items())), network()
    if method == "channel" and key == "params":
        return  # the dense layers have most of them
    outcome = find("factorize", method)(**target).apply(model, Context())
    macs = outcome.facts["macs"]
    params = [sum(t.size for t in each.tensors) for each in (model, outcome.model)]
    reached = macs["after"] / macs["before"] if key == "macs" else params[1] / params[0]
    assert 0.8 * wanted < reached <= wanted
    for fact in outcome.facts["layers"].values():
        assert fact["macs"]["after"] < fact["macs"]["before"]
        assert fact["weights"]["after"] < fact["weights"]["before"]


def test_a_budget_that_cannot_be_reached_is_an_error_in_a_line():
    with pytest.raises(RecipeError, match=r"macs 0.001 cannot be reached: .* is left") as caught:
        find("factorize", "auto")(macs=0.001).apply(network(), Context())
    assert "\n" not in str(caught.value)


def test_auto_takes_what_saves_most_at_the_same_error():
    model = network()
    by = {
        name: find("factorize", name)(energy=0.7).apply(model, Context()).facts["layers"]
        for name in ("svd", "channel", "spatial", "tucker2", "cp", "auto")
    }
    assert by["auto"].keys() == {"conv", "second", "hidden"}
    for layer, fact in by["auto"].items():
        others = [by[name][layer] for name in by if layer in by[name]]
        assert fact["macs"]["after"] == min(other["macs"]["after"] for other in others)
        assert fact["energy"] >= 0.7


def test_energy_is_the_default_and_a_network_of_two_axes_has_its_reasons():
    outcome = find("factorize", "spatial")().apply(network(), Context())
    assert all(fact["energy"] >= 0.95 for fact in outcome.facts["layers"].values())
    assert "method svd factorizes it" in outcome.skipped["hidden/kernel"]
    nothing = find("factorize", "channel")(rank=400).apply(network(), Context())
    assert "rank 400 would not be smaller (at most" in nothing.skipped["conv/kernel"]
    assert (
        "is a convolution of 3×3"
        in (find("factorize", "svd")(rank=2).apply(toy_network(), Context()).skipped["conv/kernel"])
    )


def network():
    """Two convolutions and two dense layers, whose kernels are nearly of low rank."""
    rng = np.random.default_rng(7)

    def draw(*shape):
        flat = planted((int(np.prod(shape[:-1])), shape[-1]), 3, 0.5, int(rng.integers(99)))
        return (0.2 * flat.reshape(shape)).astype("float32")

    image = {"kernel_size": [3, 3], "activation": "relu", "use_bias": False, "padding": "same"}
    layers = [
        {"class_name": "Conv2D", "config": {
            "name": "conv", "filters": 16, "batch_input_shape": [None, 8, 8, 12], **image}},
        {"class_name": "Conv2D", "config": {"name": "second", "filters": 20, **image}},
        {"class_name": "Flatten", "config": {"name": "flat"}},
        dense("hidden", 40, use_bias=False),
    ]  # fmt: skip
    arrays = {
        "conv": (draw(3, 3, 12, 16), None),
        "second": (draw(3, 3, 16, 20), None),
        "hidden": (draw(1280, 40), None),
    }
    config = {"class_name": "Sequential", "config": {"name": "toy", "layers": layers}}
    return toy_model(arrays, config, class_names={"conv": "Conv2D", "second": "Conv2D"})

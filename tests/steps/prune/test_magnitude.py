"""Magnitude pruning against a plain sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from toys import toy_model

from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.prune._smallest import first_ties, smallest, walk_of

Magnitude = find("prune", "magnitude")


def pruned(model, **fields):
    outcome = Magnitude(**fields).apply(model, Context())
    return {tensor.name: tensor.pull()[0] for tensor in outcome.model.tensors}, outcome


@settings(max_examples=150, deadline=None)
@given(
    nps.arrays("float32", st.integers(1, 300), elements=st.floats(-4, 4, width=16)),
    st.floats(0, 1),
)
def test_the_kth_smallest_is_that_of_a_sort(values, share):
    k = round(share * values.size)
    found = smallest(
        lambda: [walk_of(values[::2]), walk_of(values[1::2])], values[:3], values.size, k
    )
    if k == 0:
        assert found.magnitude < 0
        return
    ordered = np.sort(np.abs(values))
    assert found.magnitude == ordered[k - 1]
    assert sum(found.ties) == k - np.count_nonzero(ordered < ordered[k - 1])


def test_ties_go_in_order():
    values = np.array([[2.0, -1.0, 1.0], [1.0, 3.0, 1.0]], "float32")
    assert first_ties(values, 1.0, 2) == 3
    got, _ = pruned(toy_model({"a": (values, None)}), sparsity=0.5)
    np.testing.assert_array_equal(got["a/kernel"], [[2, 0, 0], [0, 3, 1]])


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_global_sparsity_is_exact_over_all_layers(sparsity):
    rng = np.random.default_rng(0)
    kernels = {
        "big": (rng.normal(size=(300, 50)).astype("float32"), None),
        "small": (0.2 * rng.normal(size=(50, 30)).astype("float32"), None),
    }
    got, outcome = pruned(toy_model(kernels), sparsity=sparsity, scope="global")
    total = 300 * 50 + 50 * 30
    assert sum(np.count_nonzero(v == 0) for v in got.values()) == round(sparsity * total)
    every = np.concatenate([k.ravel() for k, _ in kernels.values()])
    limit = np.sort(np.abs(every))[max(0, round(sparsity * total) - 1)]
    for name, (kernel, _) in kernels.items():
        kept = got[f"{name}/kernel"]
        np.testing.assert_array_equal(kept[kept != 0], kernel[kept != 0])
        if sparsity:
            assert np.all(kept[np.abs(kernel) < limit] == 0)
            assert outcome.facts["threshold"] == pytest.approx(limit)


def test_zeros_that_are_there_count():
    values = np.array([[0.0, -0.0, 1.0, 2.0]], "float32")
    got, _ = pruned(toy_model({"a": (values, None)}), sparsity=0.5, scope="layer")
    np.testing.assert_array_equal(got["a/kernel"], [[0, 0, 1, 2]])
    assert not np.signbit(got["a/kernel"]).any()


def test_threshold_and_cutoff():
    rng = np.random.default_rng(1)
    values = rng.normal(3, 2, size=(40, 30)).astype("float32")
    model = toy_model({"a": (values, None)})
    got, _ = pruned(model, threshold=1.5)
    np.testing.assert_array_equal(got["a/kernel"] == 0, np.abs(values) < 1.5)
    got, _ = pruned(model, cutoff=1.0)
    standard = (values - values.mean(dtype="float64")) / values.std(dtype="float64")
    differs = (got["a/kernel"] == 0) != (np.abs(standard) < 1.0)
    assert differs.mean() < 0.002, "only values on the very edge may differ by rounding"


def test_nan_is_never_the_smallest():
    values = np.array([[np.nan, 5.0, 0.1, np.inf]], "float32")
    got, _ = pruned(toy_model({"a": (values, None)}), sparsity=0.5)
    np.testing.assert_array_equal(got["a/kernel"], [[np.nan, 0, 0, np.inf]])


@pytest.mark.parametrize(
    "fields", [{}, {"sparsity": 0.5, "threshold": 1.0}, {"threshold": 1, "cutoff": 1}]
)
def test_exactly_one_target(fields):
    with pytest.raises(ValueError, match="exactly one of sparsity, threshold, cutoff, pattern"):
        Magnitude(**fields)


def test_an_override_leaves_the_common_ranking():
    rng = np.random.default_rng(0)
    model = toy_model(
        {
            "a": (rng.normal(size=(50, 40)).astype("float32"), None),
            "b": (rng.normal(size=(40, 40)).astype("float32"), None),
        }
    )
    got, _ = pruned(model, sparsity=0.8, overrides={"b": {"sparsity": 0.1}})
    assert np.count_nonzero(got["a/kernel"] == 0) == 1600
    assert np.count_nonzero(got["b/kernel"] == 0) == 160


def test_a_setting_that_removes_nothing_warns(toy):
    _, outcome = pruned(toy, sparsity=0)
    assert "removes nothing" in outcome.warnings[0]


def test_without_a_scope_no_layer_is_emptied_for_the_others():
    rng = np.random.default_rng(0)
    kernels = {
        "big": (rng.normal(size=(30, 20)).astype("float32"), None),
        "small": (0.001 * rng.normal(size=(20, 10)).astype("float32"), None),
    }
    got, _ = pruned(toy_model(kernels), sparsity=0.8)
    for values in got.values():
        assert np.mean(values == 0) == 0.8

"""Patterns, blocks, filters and rounds, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import toy_model

from modelcut import steps
from modelcut.steps.base import Context


def pruned(values, method="magnitude", **fields):
    if not isinstance(values, dict):
        values = {"one": values}
    model = toy_model({name: (one, None) for name, one in values.items()})
    outcome = steps.find("prune", method)(**fields).apply(model, Context())
    found = {tensor.name: tensor.pull() for tensor in outcome.model.tensors}
    return [found[f"{name}/kernel"][0] for name in values], found, outcome


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 3)])
def test_n_of_every_m_inputs_stay(n, m):
    values = np.random.default_rng(0).normal(size=(22, 5)).astype("float32")
    (got,), found, _ = pruned(values, pattern=f"{n}:{m}")
    expected = np.zeros_like(values)
    for column in range(5):
        for start in range(0, 22, m):
            group = values[start : start + m, column]
            for index in np.argsort(-np.abs(group))[:n]:
                expected[start + index, column] = group[index]
    np.testing.assert_array_equal(got, expected)
    assert found["one/kernel"][1].label == f"sparse {n}:{m}"


def test_a_pattern_leaves_a_kernel_of_few_inputs_alone_and_says_so():
    values = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    (got,), _, outcome = pruned(values, pattern="2:4")
    np.testing.assert_array_equal(got, values)
    assert outcome.skipped == {"one/kernel": "has so few inputs that 2:4 keeps all of them"}


def test_blocks_of_smallest_mean_go():
    values = np.random.default_rng(0).normal(size=(7, 9)).astype("float32")
    (got,), found, _ = pruned(values, sparsity=0.5, block=[2, 3])
    means = {
        (i, j): np.abs(values[i : i + 2, j : j + 3]).mean()
        for i in range(0, 7, 2)
        for j in range(0, 9, 3)
    }
    expected = values.copy()
    for i, j in sorted(means, key=means.get)[: len(means) // 2]:
        expected[i : i + 2, j : j + 3] = 0
    np.testing.assert_array_equal(got, expected)
    assert found["one/kernel"][1].label == "sparse block 2x3"


@pytest.mark.parametrize(("method", "order"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize(("of", "axis"), [("filters", 1), ("inputs", 0)])
def test_whole_groups_of_smallest_norm_go(method, order, of, axis):
    values = np.random.default_rng(0).normal(size=(12, 10)).astype("float32")
    (got,), _, outcome = pruned(values, method, sparsity=0.3, of=of, include=["one"])
    norms = np.linalg.norm(values.astype(float), ord=order, axis=1 - axis)
    gone = np.argsort(norms)[: round(0.3 * norms.size)]
    expected = values.copy()
    expected[(slice(None),) * axis + (gone,)] = 0
    np.testing.assert_array_equal(got, expected)
    assert outcome.facts["removed"] == {"one/kernel": gone.size}


def test_layers_of_other_width_and_scale_are_ranked_alike():
    rng = np.random.default_rng(0)
    values = {
        "wide": rng.normal(size=(400, 20)).astype("float32"),
        "small": 0.001 * rng.normal(size=(10, 20)).astype("float32"),
    }
    _, _, outcome = pruned(values, "l2", sparsity=0.5, include=["wide", "small"])
    removed = outcome.facts["removed"]
    assert sum(removed.values()) == 20
    assert min(removed.values()) > 4
    _, _, outcome = pruned(values, "l2", sparsity=0.5, relative=False, include=["wide", "small"])
    assert outcome.facts["removed"] == {"wide/kernel": 0, "small/kernel": 19}
    assert outcome.facts["would_have_vanished"] == ["small/kernel"]


@pytest.mark.parametrize("method", ["l1", "l2"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_outputs_of_the_network_are_left_alone_unless_named(method, scope):
    rng = np.random.default_rng(0)
    values = {
        "body": rng.normal(size=(8, 20)).astype("float32"),
        "out": 0.01 * rng.normal(size=(20, 10)).astype("float32"),
    }
    fields = {"sparsity": 0.5, "scope": scope, "relative": False}
    (body, out), _, outcome = pruned(values, method, **fields)
    np.testing.assert_array_equal(out, values["out"])
    assert np.all(body == 0, axis=0).sum() == 10
    assert "network's outputs" in outcome.skipped["out/kernel"]
    (_, out), _, outcome = pruned(values, method, include=["out"], **fields)
    assert np.all(out == 0, axis=0).sum() == 5
    (_, out), _, outcome = pruned(values, method, overrides={"out": {"sparsity": 0.3}}, **fields)
    assert np.all(out == 0, axis=0).sum() == 3
    (_, out), _, outcome = pruned(values, method, of="inputs", **fields)
    assert np.all(out == 0, axis=1).any()
    assert "out/kernel" not in outcome.skipped


def test_blocks_that_are_whole_channels_leave_the_outputs_alone():
    values = {name: np.eye(6, dtype="float32") for name in ("body", "out")}
    (_, out), _, outcome = pruned(values, sparsity=0.5, block=[6, 1])
    np.testing.assert_array_equal(out, values["out"])
    assert set(outcome.skipped) == {"out/kernel"}
    (_, out), _, outcome = pruned(values, sparsity=0.5, block=[6, 1], include=["out"])
    assert np.all(out == 0, axis=0).sum() == 3
    _, _, outcome = pruned(values, sparsity=0.5, block=[5, 1])
    assert not outcome.skipped


def test_of_weights_alone_it_is_said_that_outputs_are_not_known():
    model = replace(toy_model({"one": (np.eye(4, dtype="float32"), None)}), architecture=None)
    (said,) = steps.find("prune", "l1")(sparsity=0.5).apply(model, Context()).warnings
    assert "does not say which layers give the network's outputs" in said
    assert not steps.find("prune", "l1")(sparsity=0.5, of="inputs").apply(model, Context()).warnings


def test_until_stable_goes_on_where_one_round_stops():
    values = np.random.default_rng(0).standard_t(2, size=(40, 30)).astype("float32")
    (once,), _, _ = pruned(values, cutoff=0.6)
    (stable,), _, outcome = pruned(values, cutoff=0.6, until="stable")
    assert np.count_nonzero(stable) < np.count_nonzero(once)
    rounds = outcome.facts["nonzeros_after_each_round"]["one/kernel"]
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[-1] == np.count_nonzero(stable)
    left = stable[stable != 0].astype(float)
    assert np.all(np.abs(left - left.mean()) >= 0.6 * left.std() * 0.999)


def test_random_is_exact_repeatable_and_beaten():
    values = np.random.default_rng(0).normal(size=(60, 50)).astype("float32")
    values[:5] = 0
    (one,), _, _ = pruned(values, "random", sparsity=0.7)
    (again,), _, _ = pruned(values, "random", sparsity=0.7)
    (best,), _, _ = pruned(values, sparsity=0.7)
    np.testing.assert_array_equal(one, again)
    assert np.count_nonzero(one == 0) == np.count_nonzero(best == 0) == 2100
    assert np.square(values - one).sum() > 2 * np.square(values - best).sum()
    # Whatever was taken was taken without regard to size.
    kept = np.abs(one[one != 0]).mean()
    assert kept == pytest.approx(np.abs(values[values != 0]).mean(), rel=0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"pattern": "4:2"},
        {"pattern": "x"},
        {"cutoff": 1, "block": [2, 2]},
        {"sparsity": 0.5, "until": "stable"},
        {"pattern": "2:4", "sparsity": 0.5},
    ],
)
def test_settings_that_do_not_go_together(fields):
    with pytest.raises(ValueError, match=r"pattern|block|until|exactly one"):
        steps.find("prune", "magnitude")(**fields)

"""Second-order pruning against least squares and against trying every mask."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from modelcut.steps.prune._hessian import choose, damped, refit


def layer(rows, d, outputs, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d))
    inputs = rng.normal(size=(rows, d)) @ mixing
    return inputs, rng.normal(size=(d, outputs))


def loss(inputs, before, after):
    return float(np.square(inputs @ (before - after)).sum())


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_the_kept_weights_are_the_least_squares_optimum(share):
    inputs, weights = layer(400, 30, 8)
    hessian = damped(inputs.T @ inputs, 1e-9)
    gone = choose(weights, hessian, share)
    found = refit(weights, hessian, gone)
    assert gone.sum() == round(share * weights.size)
    assert np.all(found[gone] == 0)
    for column in range(8):
        kept = ~gone[:, column]
        if not kept.any():
            continue
        best = np.linalg.lstsq(inputs[:, kept], inputs @ weights[:, column], rcond=None)[0]
        np.testing.assert_allclose(found[kept, column], best, rtol=1e-3, atol=1e-4)


def test_the_mask_is_near_the_best_of_all_masks():
    inputs, weights = layer(200, 8, 1, seed=4)
    hessian = damped(inputs.T @ inputs, 1e-9)

    def with_mask(rows):
        gone = np.zeros((8, 1), bool)
        gone[list(rows)] = True
        return loss(inputs, weights, refit(weights, hessian, gone))

    every = sorted(with_mask(rows) for rows in combinations(range(8), 4))
    ours = with_mask(np.flatnonzero(choose(weights, hessian, 0.5)))
    smallest = with_mask(np.argsort(np.abs(weights[:, 0]))[:4])
    assert ours <= smallest
    assert ours <= every[len(every) // 4]


def test_it_beats_plain_magnitude_by_far_where_inputs_are_correlated():
    inputs, weights = layer(600, 200, 20, seed=2)
    hessian = damped(inputs.T @ inputs, 0.01)
    gone = choose(weights, hessian, 0.6)
    order = np.argsort(np.abs(weights), axis=None)[: round(0.6 * weights.size)]
    plain = weights.copy()
    plain.reshape(-1)[order] = 0
    ours = loss(inputs, weights, refit(weights, hessian, gone))
    assert ours < 0.5 * loss(inputs, weights, plain)


def test_zeros_go_first_and_the_share_is_exact_over_the_blocks():
    inputs, weights = layer(600, 300, 7)
    weights[::3] = 0
    hessian = damped(inputs.T @ inputs, 0.01)
    gone = choose(weights, hessian, 0.5)
    assert gone.sum() == round(0.5 * weights.size)
    np.testing.assert_array_equal(choose(weights, hessian, 0.0), weights == 0)
    assert choose(weights, hessian, 1.0).all()
    np.testing.assert_array_equal(choose(weights, hessian, 1 / 3), weights == 0)
    weights[:150] = 0
    np.testing.assert_array_equal(choose(weights, hessian, 0.1), weights == 0)
    gone = choose(weights, hessian, 0.8)
    assert gone[weights == 0].all()
    assert gone.sum() == round(0.8 * weights.size)


def test_inputs_that_are_never_on_do_no_harm():
    inputs, weights = layer(100, 20, 3)
    inputs[:, 5] = 0
    hessian = damped(inputs.T @ inputs, 0.01)
    gone = choose(weights, hessian, 0.5)
    assert np.isfinite(refit(weights, hessian, gone)).all()
    assert gone[5].all()
    assert np.isfinite(damped(np.zeros((4, 4)), 0.01)).all()
    np.linalg.cholesky(damped(np.zeros((4, 4)), 0.01))

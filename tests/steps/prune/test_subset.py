"""The choice of the kept weights against greedy and magnitude oracles, and against all masks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from surgeon import error, greedy, magnitude, refitted

from modelcut.steps.prune import _subset
from modelcut.steps.prune._hessian import choose, damped, refit
from modelcut.steps.prune._subset import fit, pruned, select


def layer(rows, d, outputs, seed=0):
    """Correlated inputs that are not negative, as behind a ReLU, and a few that are never on."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, max(4, d // 8))) @ rng.normal(size=(max(4, d // 8), d))
    inputs = np.maximum(hidden / 3 + rng.normal(size=(rows, d)), 0)
    inputs[:, rng.random(d) < 0.05] = 0
    return inputs, rng.normal(size=(d, outputs)) * rng.gamma(1, size=(d, 1))


@pytest.mark.parametrize(
    ("d", "outputs", "seed"), [(100, 10, 0), (120, 40, 1), (160, 20, 2), (60, 1, 3)]
)
def test_it_beats_the_greedy_surgeon_and_magnitude_with_a_refit(d, outputs, seed):
    inputs, weights = layer(400, d, outputs, seed)
    hessian = damped(inputs.T @ inputs, 0.01)
    shares = (0.8, 0.9, 0.95)
    for share, mask in zip(shares, greedy(weights, hessian, *shares), strict=True):
        gone = select(weights, hessian, share)
        assert gone.sum() == round(share * weights.size)
        ours = error(inputs, weights, fit(weights, hessian, gone))
        plain = error(inputs, weights, refitted(weights, hessian, mask))
        smallest = refitted(weights, hessian, magnitude(weights, share))
        fast = refit(weights, hessian, choose(weights, hessian, share))
        others = [error(inputs, weights, smallest), error(inputs, weights, fast)]
        assert ours <= min(plain, *others) * (1 + 1e-9)
        if outputs > 1:  # of a single output, all may find the best mask
            assert ours < 0.9 * min(others)


def test_exchanges_alone_beat_the_greedy_surgeon(monkeypatch):
    """As it is for layers that are too large to try the plain greedy surgeon too."""
    monkeypatch.setattr(_subset, "_SMALL", 0)
    inputs, weights = layer(400, 150, 30, seed=5)
    hessian = damped(inputs.T @ inputs, 0.01)
    for share, mask in zip((0.8, 0.9), greedy(weights, hessian, 0.8, 0.9), strict=True):
        ours = fit(weights, hessian, select(weights, hessian, share))
        other = refitted(weights, hessian, mask)
        assert error(inputs, weights, ours) < error(inputs, weights, other)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
def test_the_start_alone_is_near_the_greedy_surgeon(share, monkeypatch):
    """As it is for layers whose exchanges would take long."""
    monkeypatch.setattr(_subset, "_SMALL", 0)
    monkeypatch.setattr(_subset, "_FIRST", 0)
    inputs, weights = layer(400, 150, 30, seed=7)
    hessian = damped(inputs.T @ inputs, 0.01)
    ours = error(inputs, weights, fit(weights, hessian, select(weights, hessian, share)))
    (mask,) = greedy(weights, hessian, share)
    fast = error(inputs, weights, refit(weights, hessian, choose(weights, hessian, share)))
    assert ours < 1.02 * error(inputs, weights, refitted(weights, hessian, mask))
    assert ours < 0.85 * fast
    assert error(inputs, weights, pruned(weights, hessian, share)) < ours * 1.001


def test_the_fast_variant_for_wide_layers_improves_on_its_start(monkeypatch):
    inputs, weights = layer(400, 150, 30, seed=6)
    hessian = damped(inputs.T @ inputs, 0.01)
    start = refit(weights, hessian, choose(weights, hessian, 0.9))
    monkeypatch.setattr(_subset, "_WIDEST_START", 100)
    gone = select(weights, hessian, 0.9)
    assert gone.sum() == round(0.9 * weights.size)
    ours = error(inputs, weights, fit(weights, hessian, gone))
    assert ours < 0.8 * error(inputs, weights, start)
    monkeypatch.setattr(_subset, "_FIRST", 0)
    np.testing.assert_array_equal(select(weights, hessian, 0.9), choose(weights, hessian, 0.9))


def test_it_is_the_best_of_all_masks_of_a_tiny_layer():
    inputs, weights = layer(200, 8, 1, seed=4)
    hessian = damped(inputs.T @ inputs, 1e-9)

    def with_mask(rows):
        kept = np.ones((8, 1), bool)
        kept[list(rows)] = False
        return error(inputs, weights, refitted(weights, hessian, kept))

    best = min(with_mask(rows) for rows in combinations(range(8), 4))
    ours = with_mask(np.flatnonzero(select(weights, hessian, 0.5)))
    assert ours == pytest.approx(best)


def test_zeros_go_first_and_the_share_is_exact():
    inputs, weights = layer(300, 90, 7)
    weights[::3] = 0
    hessian = damped(inputs.T @ inputs, 0.01)
    for share in (0.5, 0.8, 0.99):
        gone = select(weights, hessian, share)
        assert gone[weights == 0].all()
        assert gone.sum() == round(share * weights.size)
    for share in (0.0, 0.2, 1 / 3):
        np.testing.assert_array_equal(select(weights, hessian, share), weights == 0)
    assert select(weights, hessian, 1.0).all()
    assert select(np.zeros_like(weights), hessian, 0.0).all()


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_fit_is_least_squares_directly_and_by_conjugate_gradients(share):
    inputs, weights = layer(300, 40, 9, seed=8)
    hessian = damped(inputs.T @ inputs, 0.01)
    gone = select(weights, hessian, share)
    best = refitted(weights, hessian, ~gone)
    np.testing.assert_allclose(fit(weights, hessian, gone), best, atol=1e-9)
    np.testing.assert_allclose(refit(weights, hessian, gone), best, rtol=1e-3, atol=1e-4)
    assert not fit(weights, hessian, np.ones_like(gone)).any()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("first", [0, 1e12])
def test_what_is_solved_for_once_is_the_choice_with_a_refit(share, first, monkeypatch):
    """With exchanges, which give the weights too, and without."""
    monkeypatch.setattr(_subset, "_FIRST", first)
    inputs, weights = layer(300, 40, 9, seed=8)
    hessian = damped(inputs.T @ inputs, 0.01)
    best = fit(weights, hessian, select(weights, hessian, share))
    np.testing.assert_allclose(pruned(weights, hessian, share), best, atol=1e-9)


@pytest.mark.parametrize("width", [1, 5, 31, 32, 33, 100])
def test_the_inverse_is_as_exact_as_that_of_lapack_at_a_bad_condition(width):
    rng = np.random.default_rng(width)
    basis = np.linalg.qr(rng.normal(size=(2, width, width)))[0]
    matrices = (basis * np.geomspace(1, 1e6, width)) @ basis.transpose(0, 2, 1)
    found = _subset._inverse((matrices + matrices.transpose(0, 2, 1)) / 2)
    np.testing.assert_allclose(found @ matrices, np.eye(width)[None].repeat(2, 0), atol=1e-8)


def test_inputs_that_are_never_on_do_no_harm():
    inputs, weights = layer(100, 30, 3)
    inputs[:, 5] = 0
    hessian = damped(inputs.T @ inputs, 0.01)
    gone = select(weights, hessian, 0.5)
    assert gone[5].all()
    silent = damped(np.zeros((30, 30)), 0.01)
    np.testing.assert_array_equal(select(weights, silent, 0.9), ~magnitude(weights, 0.9))

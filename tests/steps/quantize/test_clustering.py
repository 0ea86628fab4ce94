"""Weight sharing against brute force, scikit-learn, and the definition of the trade."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from toys import toy_model

from modelcut.model.measure import Meter
from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.quantize import _kmeans

Cluster = find("quantize", "cluster")
Magnitude = find("prune", "magnitude")
RNG = np.random.default_rng(0)


def shared(array, meter=None, **fields):
    model = toy_model({"a": (array, None)})
    tensor = next(Cluster(**fields).apply(model, Context()).model.tensors)
    return tensor.pull(meter)


def error(values, got):
    return float(np.square(values.astype("f8") - got.astype("f8")).sum())


def pruned(values, share):
    return np.where(np.abs(values) < np.quantile(np.abs(values), share), 0, values)


def brute_force(values, k):
    """Least squared error over all ways to cut the sorted values into k runs."""
    ordered = np.sort(values.ravel().astype("f8"))
    best = np.inf
    for cuts in itertools.combinations(range(1, ordered.size), k - 1):
        runs = np.split(ordered, cuts)
        best = min(best, sum(np.square(run - run.mean()).sum() for run in runs))
    return best


@pytest.mark.parametrize("k", [2, 3, 4])
def test_a_small_layer_gets_the_optimum(k):
    for seed in range(4):
        values = np.random.default_rng(seed).normal(size=(4, 4)).astype("float32") ** 3
        got, book = shared(values, values=k)
        assert error(values, got) == pytest.approx(brute_force(values, k), rel=1e-5)
        assert len(np.unique(got)) == book.symbols == k


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=11),
    st.integers(2, 4),
)
def test_the_optimum_of_values_with_ties(numbers, k):
    values = np.array(numbers, "float32").reshape(-1, 1)
    got, _ = shared(values, values=k)
    if len(set(numbers)) <= k:
        np.testing.assert_array_equal(got, values)
    else:
        assert error(values, got) == pytest.approx(brute_force(values, k), abs=1e-4)


def test_a_large_layer_is_as_good_as_scikit_learn():
    values = RNG.standard_t(4, size=(400, 300)).astype("float32")
    found = KMeans(24, n_init=2, random_state=0).fit(values.reshape(-1, 1))
    errors = {}
    for start in ("optimum", "linear", "density", "kmeans++"):
        got, book = shared(values, values=24, start=start)
        assert book.symbols == 24
        errors[start] = error(values, got)
    assert errors["optimum"] <= found.inertia_ * 1.0001
    assert len(set(errors.values())) > 1, "starts end in optima of their own"
    # From any of them, Lloyd's rounds come to a place that is not absurd.
    assert max(errors.values()) <= found.inertia_ * 1.25


def test_starts_by_hand():
    line = _kmeans.Line(np.array([0.0, 1.0, 2.0, 10.0]), np.array([1.0, 97.0, 1.0, 1.0]), True)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(_kmeans.started(line, 3, "linear", rng), [0, 5, 10])
    np.testing.assert_allclose(_kmeans.started(line, 4, "density", rng), [1])
    chosen = _kmeans.started(line, 4, "kmeans++", rng)
    np.testing.assert_array_equal(chosen, line.points)  # a point is not chosen twice


def test_the_coarser_picture_keeps_mass_and_mean():
    points = np.sort(RNG.normal(size=5000))
    line = _kmeans.Line(points, np.ones(5000), True)
    coarse = _kmeans.coarser(line, 300)
    assert 250 < coarse.points.size <= 300
    assert coarse.weights.sum() == 5000
    assert np.average(coarse.points, weights=coarse.weights) == pytest.approx(points.mean())


def test_the_histogram_loses_nothing_against_all_values():
    values = RNG.normal(size=(300, 300)).astype("float32")
    line = _kmeans.Line(np.unique(values).astype("f8"), np.ones(np.unique(values).size), exact=True)
    centres = _kmeans.lloyd(line, _kmeans.started(line, 16, "linear", RNG))
    full = centres[np.abs(values[..., None] - centres).argmin(-1)]
    got, _ = shared(values, bits=4)
    assert error(values, got) <= error(values, full) * 1.001


def test_one_huge_weight_does_not_spoil_the_others():
    values = RNG.normal(size=(500, 200)).astype("float32") * 0.01
    values[3, 5] = 1e6
    got, book = shared(values, bits=4, start="density")
    assert book.symbols == 16
    rest = np.delete(values.ravel(), 3 * 200 + 5)
    assert error(rest, np.delete(got.ravel(), 3 * 200 + 5)) < 0.02 * np.square(rest).sum()


def test_zeros_keep_a_code_of_their_own():
    values = pruned(RNG.normal(size=(60, 50)).astype("float32"), 0.9)
    model = Magnitude(threshold=0).apply(toy_model({"a": (values, None)}), Context()).model
    tensor = next(Cluster(bits=3).apply(model, Context(index=1)).model.tensors)
    got, encoding = tensor.pull()
    np.testing.assert_array_equal(got == 0, values == 0)
    assert len(np.unique(got)) == 9
    assert encoding.label == "sparse, 8 centroids"
    kept = values[values != 0].reshape(-1, 1)
    alone, _ = shared(kept, bits=3)
    np.testing.assert_array_equal(got[values != 0], alone.ravel())


def rate_distortion(values, got, weight):
    """Mean squared error over mean square, plus weight · entropy in bits."""
    counts = np.unique(got, return_counts=True)[1] / got.size
    entropy = -(counts * np.log2(counts)).sum()
    nonzero = values[values != 0].astype("f8")
    return error(values, got) / np.square(nonzero).mean() / values.size + weight * entropy


@pytest.mark.parametrize("weight", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("size", [(30, 20), (400, 300)])
def test_trading_error_for_bits_is_never_worse_than_not_to(weight, sparsity, size):
    values = RNG.standard_t(5, size=size).astype("float32")
    step = Magnitude(sparsity=sparsity)
    model = step.apply(toy_model({"a": (values, None)}), Context()).model if sparsity else None
    model = model or toy_model({"a": (values, None)})
    values = next(model.tensors).pull()[0]
    costs = {}
    for lam in (0.0, weight):
        step = Cluster(bits=4, entropy_weight=lam)
        tensor = next(step.apply(model, Context(index=1)).model.tensors)
        got, encoding = tensor.pull()
        np.testing.assert_array_equal(encoding.project(got), got)
        assert np.all(got[(values == 0) & (sparsity > 0)] == 0)
        costs[lam] = rate_distortion(values, got, weight)
    assert costs[weight] <= costs[0.0] * (1 + 1e-6)
    if weight >= 0.1:
        assert costs[weight] < costs[0.0] * 0.97


def test_a_dearer_bit_takes_fewer_bits():
    values = RNG.normal(size=(300, 300)).astype("float32")
    entropies, errors = [], []
    for weight in (0.0, 0.003, 0.01, 0.03, 0.1):
        meter = Meter()
        shared(values, meter, bits=4, entropy_weight=weight)
        entropies.append(meter.after[-1][1].entropy)
        errors.append(meter.changes[-1][1].error)
    assert entropies == sorted(entropies, reverse=True)
    assert errors == sorted(errors)
    assert entropies[-1] < 2.5 < 3.5 < entropies[0]


def test_the_trade_by_hand():
    # Parabolas (x + 1)² + 1 and (x - 1)² + 3 meet at half a unit right of the middle.
    alive, edges = _kmeans._envelope(np.array([-1.0, 1.0]), np.array([1.0, 3.0]))
    assert alive.all()
    np.testing.assert_allclose(edges, [0.5])
    # One that is too dear everywhere is left out.
    alive, edges = _kmeans._envelope(np.array([-1.0, 0.0, 1.0]), np.array([0.0, 9.0, 0.0]))
    np.testing.assert_array_equal(alive, [True, False, True])
    np.testing.assert_allclose(edges, [0.0])


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=8, unique=True),
    st.lists(st.floats(0, 20), min_size=8, max_size=8),
)
def test_the_envelope_is_the_least_of_all(centres, prices):
    centres = np.sort(np.array(centres))
    if np.any(np.diff(centres) < 1e-6):
        return
    prices = np.array(prices[: centres.size])
    alive, edges = _kmeans._envelope(centres, prices)
    x = np.linspace(-20, 20, 801)
    every = np.square(x[:, None] - centres) + prices
    kept = np.flatnonzero(alive)
    got = every[np.arange(x.size), kept[np.searchsorted(edges, x)]]
    np.testing.assert_allclose(got, every.min(axis=1), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_every_float_type_keeps_its_type(dtype, weight):
    values = RNG.normal(size=(300, 250)).astype(dtype)
    got, encoding = shared(values, bits=4, entropy_weight=weight)
    assert got.dtype == values.dtype
    assert len(np.unique(got.astype("f8"))) <= 16
    assert error(values, got) < 0.05 * values.size
    np.testing.assert_array_equal(encoding.project(got), got)
    assert encoding.decode(encoding.codes(got), got.dtype).tobytes() == got.tobytes()


@pytest.mark.parametrize("weight", [0.0, 0.05])
@pytest.mark.parametrize("size", [(4, 3), (400, 300)])
def test_constant_zero_and_few_values_stay_as_they_are(size, weight):
    for numbers in ([0.1], [0.0], [-0.0], [-0.3, 0.0, 0.7]):
        values = np.resize(np.array(numbers, "float32"), size)
        got, _ = shared(values, bits=2, entropy_weight=weight / 1000)
        np.testing.assert_array_equal(got, values)
        assert not np.any(np.signbit(got) & (got == 0))


def test_values_near_the_ends_of_the_type():
    values = np.array([[1e300, -1e300, 2e-300, 1.7e308]]).T
    got, _ = shared(values, values=3, entropy_weight=1e-6)
    assert np.isfinite(got).all()
    got, _ = shared(np.full((300, 300), 3e38, "float32") * RNG.random((300, 300)), bits=2)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("size", [(4, 3), (400, 300)])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_alone_with_a_reason(odd, size):
    values = np.ones(size, "float32")
    values[1, 2] = odd
    meter = Meter()
    got, encoding = shared(values, meter)
    np.testing.assert_array_equal(got, values)
    assert encoding.kinds == ("dense",)
    assert meter.left_alone == [(0, "holds NaN or infinite values")]
    assert not meter.changes


def test_bits_or_values():
    with pytest.raises(ValueError, match="at most one of bits, values and budget"):
        Cluster(bits=3, values=5)
    step = Cluster(bits=3, overrides={"two": {"values": 5}})
    two = toy_model({"two": (RNG.normal(size=(20, 20)).astype("f4"), None)})
    assert next(step.apply(two, Context()).model.tensors).pull()[1].symbols == 5


@pytest.mark.parametrize("sparsity", [0, 0.9])
@pytest.mark.parametrize("shape", [(300, 200), (600, 700)])
def test_few_values_of_a_large_layer_are_short_numbers(shape, sparsity):
    """Their low bytes are zero, which deflates; an error far below that of the sharing."""
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    model = toy_model({"a": (values, None)})
    model = find("prune", "magnitude")(sparsity=sparsity).apply(model, Context()).model
    before = next(model.tensors).pull()[0]
    tensor = next(find("quantize", "cluster")(values=16).apply(model, Context()).model.tensors)
    got, _ = tensor.pull()
    assert not np.any(got.view("u4") & 0xFFFF)
    assert np.unique(got[got != 0]).size == 16
    assert np.mean((got - before) ** 2) < 0.0101  # 16 levels on a normal: 0.00953 at best

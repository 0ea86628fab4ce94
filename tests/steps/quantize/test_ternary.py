"""Three values against every threshold there is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_model

from modelcut.model.measure import Meter
from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.quantize.ternary import least_squares_limit

Ternary = find("quantize", "ternary")
Magnitude = find("prune", "magnitude")
RNG = np.random.default_rng(0)


def ternary(array, meter=None, sparsity=0.0, **fields):
    model = toy_model({"a": (array, None)})
    if sparsity:
        model = Magnitude(sparsity=sparsity).apply(model, Context()).model
    tensor = next(Ternary(**fields).apply(model, Context(index=1)).model.tensors)
    return tensor.pull(meter)


def error(values, got):
    return float(np.square(values.astype("f8") - got.astype("f8")).sum())


def brute_force(values):
    """The least error over every threshold, each with its mean as scale."""
    best = np.square(values).sum()
    for limit in [-1, *np.abs(values)]:
        kept = np.abs(values) > limit
        if kept.any():
            scale = np.abs(values[kept]).mean()
            best = min(best, error(values, np.sign(values) * scale * kept))
    return best


@given(st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=30))
def test_the_threshold_is_the_best_of_all(numbers):
    values = np.array(numbers, "float32").reshape(-1, 1)
    got, _ = ternary(values, per="tensor")
    expected = brute_force(values.ravel().astype("f8"))
    assert error(values, got) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_by_hand():
    values = np.array([[4.0], [-6.0], [1.0], [0.5]], "float32")
    got, encoding = ternary(values, per="tensor")
    np.testing.assert_array_equal(got.ravel(), [5, -5, 0, 0])
    assert encoding.label == "sparse, binary"
    assert encoding.kinds == ("sparse", "binary")
    np.testing.assert_array_equal(least_squares_limit(np.array([[4.0, 6, 1, 0.5]])), [1])


def test_each_channel_has_its_own():
    values = RNG.normal(size=(200, 5)).astype("float32") * np.array([1, 2, 5, 0.1, 9], "f4")
    got, _ = ternary(values)
    for channel in range(5):
        expected = brute_force(values[:, channel].astype("f8"))
        assert error(values[:, channel], got[:, channel]) == pytest.approx(expected, rel=1e-4)
        assert len(np.unique(got[:, channel])) == 3


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_of_a_large_layer_a_sample_leads_to_the_same(per, monkeypatch):
    from modelcut.steps.quantize import ternary as module

    values = RNG.laplace(size=(40_000, 4)).astype("float32")
    exact, _ = ternary(values, per=per)
    monkeypatch.setattr(module, "_SAMPLE", 4096)
    near, _ = ternary(values, per=per)
    assert error(values, near) <= error(values, exact) * 1.001
    assert not np.array_equal(near, exact), "the sample was taken"


def test_pruned_zeros_stay_zero_and_the_pattern_is_kept():
    values = RNG.normal(size=(16, 8)).astype("float32")
    model = Magnitude(pattern="2:4").apply(toy_model({"a": (values, None)}), Context()).model
    zero = next(model.tensors).pull()[0] == 0
    got, encoding = next(Ternary().apply(model, Context(index=1)).model.tensors).pull()
    assert np.all(got[zero] == 0)
    assert encoding.pattern == "2:4"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_every_float_type_keeps_its_type(dtype):
    values = RNG.normal(size=(300, 250)).astype(dtype)
    got, encoding = ternary(values)
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(encoding.project(got), got)
    assert encoding.decode(encoding.codes(got), got.dtype).tobytes() == got.tobytes()
    # Li and Liu 2016: for a normal distribution, 0.19 of the variance is left.
    assert error(values, got) / np.square(values.astype("f8")).sum() == pytest.approx(
        0.19, abs=0.01
    )


def test_constant_and_zero_tensors():
    for number in (0.5, 0.0, -0.0, -2.0):
        got, _ = ternary(np.full((4, 3), number, "float32"))
        np.testing.assert_array_equal(got, np.full((4, 3), number + 0.0))
        assert not np.any(np.signbit(got) & (got == 0))


@pytest.mark.parametrize(
    ("odd", "reason"),
    [(np.nan, "NaN or infinite"), (-np.inf, "NaN or infinite"), (1e300, "too large")],
)
def test_what_has_no_scale_is_left_alone_with_a_reason(odd, reason):
    values = RNG.normal(size=(40, 3))
    values[1, 2] = odd
    meter = Meter()
    got, encoding = ternary(values, meter)
    np.testing.assert_array_equal(got, values)
    assert encoding.kinds == ("dense",)
    assert reason in meter.left_alone[0][1]

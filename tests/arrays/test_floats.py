"""Bins by leading bits, and intervals looked up by them, against a plain search."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from modelcut.arrays import floats

DTYPES = [np.dtype(name) for name in ("float16", "float32", "float64", ml_dtypes.bfloat16)]
RNG = np.random.default_rng(0)


def values_of(dtype, count=100_000):
    values = np.clip(RNG.normal(size=count) * np.exp(RNG.normal(size=count) * 4), -6e4, 6e4)
    values = values.astype(dtype)
    values[:4] = [0.0, -0.0, 1.0, -1.0]
    return values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_middle_of_a_bin_is_near_all_its_values(dtype):
    values = values_of(dtype)
    middle = floats.middles(dtype)[floats.of(values)]
    wide = values.astype(np.float64)
    allowed = 0 if dtype.itemsize == 2 else 2.0**-10
    assert np.all(np.abs(middle - wide) <= allowed * np.abs(wide))
    assert floats.of(values).max() < floats.count(dtype)


def test_what_is_not_finite_has_bins_of_its_own():
    odd = np.array([np.nan, np.inf, -np.inf], "float32")
    assert np.isnan(floats.middles(odd.dtype)[floats.of(odd)]).all()
    largest = np.array([np.finfo("f4").max, np.finfo("f4").min], "float32")
    np.testing.assert_allclose(
        floats.middles(largest.dtype)[floats.of(largest)], largest, rtol=1e-3
    )


@pytest.mark.parametrize("count", [1, 2, 3, 16, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_intervals_are_those_of_a_search(dtype, count):
    choices = np.arange(count).astype(dtype)
    edges = np.sort(RNG.normal(size=count - 1))
    cuts = floats.Cuts.at(edges, choices, dtype)
    # The edges themselves, and their neighbours on both sides, are the hard cases.
    near = edges.astype(dtype)
    up, down = (np.nextafter(near, np.array(end, dtype)) for end in (np.inf, -np.inf))
    values = np.concatenate([values_of(dtype), near, up, down])
    expected = np.searchsorted(edges, values.astype(np.float64))
    for part in (values, values[-1000:]):  # by table, and by search
        places = cuts.places(part)
        np.testing.assert_array_equal(places, expected[-part.size :])
        np.testing.assert_array_equal(cuts.pick(part), choices[places])


def test_shapes_are_kept():
    cuts = floats.Cuts.at(np.array([0.0]), np.array([-1.0, 1.0]), np.dtype("float32"))
    for shape in ((), (0, 3), (4, 5), (300, 10, 20)):
        values = np.ones(shape, "float32")
        assert cuts.places(values).shape == cuts.pick(values).shape == shape
        assert np.all(cuts.pick(values) == 1)


@pytest.mark.parametrize("size", [2, 3, 16, 255, 256, 300])
@pytest.mark.parametrize("count", [0, 1, 1000, (1 << 18) + 1])
def test_a_histogram_counts_every_code(size, count):
    codes = np.random.default_rng(0).integers(0, size, count).astype(np.min_scalar_type(size - 1))
    expected = [int((codes == code).sum()) for code in range(size)]
    assert floats.histogram(codes, size).tolist() == expected

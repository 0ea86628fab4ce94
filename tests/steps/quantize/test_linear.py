"""Linear quantization against a loop over the values."""

from __future__ import annotations

import numpy as np
import pytest
from toys import toy_model

from modelcut.errors import RecipeError
from modelcut.step import Context
from modelcut.steps import find

Linear = find("quantize", "linear")
Magnitude = find("prune", "magnitude")


def quantized(values, **fields):
    model = toy_model({"a": (values, None)})
    tensor = next(Linear(**fields).apply(model, Context()).model.tensors)
    return tensor.pull()


@pytest.mark.parametrize("bits", range(2, 9))
def test_min_max_per_channel_by_hand(bits):
    values = np.random.default_rng(bits).normal(size=(30, 4)).astype("float32")
    got, encoding = quantized(values, bits=bits)
    steps = 2 ** (bits - 1) - 1
    for column in range(4):
        exact = np.abs(values[:, column]).max() / steps
        scale = encoding.scale[0, column]
        assert exact <= scale <= exact * (1 + 1 / 128)
        expected = np.clip(np.rint(values[:, column] / scale), -steps, steps) * scale
        np.testing.assert_allclose(got[:, column], expected, rtol=1e-6)
    assert np.abs(got - values).max() <= encoding.scale.max() / 2 * 1.0001
    assert len(np.unique(got[:, 0])) <= 2**bits - 1


def test_the_low_byte_of_every_weight_is_zero():
    values = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    for options in ({"bits": 8}, {"bits": 8, "symmetric": False}, {"bits": 4, "range": "mse"}):
        got, encoding = quantized(values, **options)
        assert not np.any(got.view(np.uint32) & 0xFF)
        # The product of code and scale was not rounded.
        codes = np.rint(got.astype(np.float64) / encoding.scale)
        np.testing.assert_array_equal(codes * encoding.scale.astype(np.float64), got)


def test_affine_covers_an_uneven_range():
    values = np.random.default_rng(0).uniform(-0.1, 2.0, size=(50, 3)).astype("float32")
    even, _ = quantized(values, bits=4)
    uneven, encoding = quantized(values, bits=4, symmetric=False)
    assert np.square(uneven - values).sum() < np.square(even - values).sum()
    zero = encoding.project(np.zeros_like(values))
    assert np.all(zero == 0), "zero lies on the grid"


def test_least_error_is_no_worse_than_min_max():
    rng = np.random.default_rng(0)
    values = rng.standard_t(2, size=(400, 6)).astype("float32")
    errors = {
        kind: np.square(quantized(values, bits=3, range=kind)[0] - values).sum()
        for kind in ("minmax", "mse")
    }
    assert errors["mse"] < errors["minmax"]


def test_percentile_clips():
    values = np.linspace(-1, 1, 1001, dtype="float32").reshape(-1, 1)
    values[0] = 100
    got, encoding = quantized(values, bits=8, range="percentile", percentile=99)
    assert got.max() < 2
    assert encoding.scale.item() == pytest.approx(0.99 / 127, rel=0.01)
    with pytest.raises(ValueError, match="range: percentile only"):
        Linear(percentile=99)


def test_pruned_zeros_stay_zero(toy):
    model = Magnitude(sparsity=0.7).apply(toy, Context()).model
    zeros = {t.name: t.pull()[0] == 0 for t in model.tensors}
    model = Linear(bits=4, symmetric=False).apply(model, Context(index=1)).model
    for tensor in model.tensors:
        values, encoding = tensor.pull()
        assert np.all(values[zeros[tensor.name]] == 0)
        if tensor.kind == "kernel":
            assert encoding.kinds == ("sparse", "affine")


def test_constant_and_empty_channels():
    values = np.zeros((5, 3), "float32")
    values[:, 1] = 2.5
    got, _ = quantized(values, bits=2)
    np.testing.assert_allclose(got, values)


def test_coded_values_are_not_quantized_again(toy):
    model = Linear().apply(toy, Context()).model
    with pytest.raises(RecipeError, match="grid already"):
        Linear(bits=4).apply(model, Context(index=1))


def test_float16_changes_the_dtype_and_refuses_overflow():
    half = find("quantize", "float16")()
    values = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    model = half.apply(toy_model({"a": (values, None)}), Context()).model
    got, encoding = next(model.tensors).pull()
    np.testing.assert_array_equal(got, values.astype("float16"))
    assert encoding.label == "float16"
    values[0, 0] = 1e6
    with pytest.raises(RecipeError, match="do not fit 16-bit floats"):
        next(half.apply(toy_model({"a": (values, None)}), Context()).model.tensors).pull()


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([[1.0, 1.00390625, 1.01171875, -3.14159274]], "float32")
    model = find("quantize", "bfloat16")().apply(toy_model({"a": (values, None)}), Context()).model
    got, _ = next(model.tensors).pull()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[1.0, 1.0, 1.015625, -3.140625]])

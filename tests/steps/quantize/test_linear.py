"""Linear quantization against a loop over the values."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from toys import toy_model

from modelcut.errors import RecipeError
from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.quantize._cells import short

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
        kept = min(8, 14 - bits)  # significant bits of the scale
        assert exact <= scale <= exact * (1 + 2 / 2**kept)
        assert np.frexp(scale)[0] * 2**kept % 1 == 0
        expected = np.clip(np.rint(values[:, column] / scale), -steps, steps) * scale
        np.testing.assert_allclose(got[:, column], expected, rtol=1e-6)
    assert np.abs(got - values).max() <= encoding.scale.max() / 2 * 1.0001
    assert len(np.unique(got[:, 0])) <= 2**bits - 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_exact_scales_are_the_peak_over_the_last_code(bits, dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    values = np.random.default_rng(bits).normal(size=(30, 4)).astype(kind)
    got, encoding = quantized(values, bits=bits, scales="exact")
    wide = values.astype(np.float64)
    exact = (np.abs(wide).max(axis=0) / (2 ** (bits - 1) - 1)).astype("float32")
    np.testing.assert_array_equal(encoding.scale[0], exact)
    np.testing.assert_array_equal(got, encoding.project(got))
    error = np.abs(got.astype(np.float64) - wide) - np.spacing(np.abs(got)).astype(np.float64)
    assert np.all(error <= exact / 2 * 1.0001)
    _, uneven = quantized(values, bits=bits, scales="exact", symmetric=False)
    span = wide.max(axis=0) - wide.min(axis=0)
    np.testing.assert_array_equal(uneven.scale[0], (span / (2**bits - 1)).astype("float32"))


def test_an_exact_scale_whose_last_code_would_not_fit_is_smaller():
    values = np.array([[np.finfo("float32").max, -1.0]], "float32").T
    got, encoding = quantized(values, scales="exact")
    assert np.isfinite(got).all()
    assert encoding.scale.item() * 127.0 <= np.finfo("float32").max


def test_what_rounded_scales_cost_is_what_the_help_says():
    values = np.random.default_rng(0).normal(size=(300, 2000)).astype("float32")
    exact, one = quantized(values, scales="exact")
    rounded, two = quantized(values)
    growth = two.scale.astype(np.float64) / one.scale
    assert growth.min() >= 1 - 1e-6
    assert growth.max() <= 1 + 1 / 32
    assert growth.mean() == pytest.approx(1.01, abs=0.003)
    worse = np.square(rounded - values).sum() / np.square(exact - values).sum()
    assert worse == pytest.approx(1.021, abs=0.005)


@pytest.mark.parametrize(("rounding", "most"), [(None, 0.004), (np.ceil, 0.008)])
def test_eight_significant_bits_are_wrong_by_what_the_help_says(rounding, most):
    exact = np.geomspace(1e-3, 1e3, 100_001)
    wrong = np.abs(short(exact, rounding) / exact - 1).max()
    assert 0.95 * most < wrong <= most


def test_the_facts_say_how_many_bits_the_scales_have():
    rng = np.random.default_rng(0)
    kernels = {name: (rng.normal(size=(30, 40)).astype("float32"), None) for name in "abc"}
    model = toy_model(kernels)
    fields = {"overrides": {"b": {"bits": 4}, "c": {"scales": "exact"}}}
    facts = Linear(**fields).apply(model, Context()).facts
    assert facts["scale_bits"] == {"a/kernel": 6, "b/kernel": 8, "c/kernel": 24}
    facts = Linear(average_bits=7.5).apply(model, Context()).facts
    assert facts["scale_bits"] == {n: min(8, 14 - bits) for n, bits in facts["bits"].items()}


def test_a_layer_that_sums_many_inputs_does_with_fewer_bits():
    rng = np.random.default_rng(0)
    kernels = {"few": rng.uniform(-1, 1, (8, 512)), "many": rng.uniform(-1, 1, (512, 8))}
    model = toy_model({name: (each.astype("float32"), None) for name, each in kernels.items()})
    bits = Linear(average_bits=5).apply(model, Context()).facts["bits"]
    # Errors of rounding are alike, but of those of 512 inputs eight times less is left.
    assert bits == {"few/kernel": 6, "many/kernel": 4}


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


def error(values, got):
    return float(np.square(values.astype("f8") - got.astype("f8")).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_range_is_the_best_of_a_thousand(bits, per, symmetric):
    rng = np.random.default_rng(bits)
    values = (rng.standard_t(4, size=(600, 3)) + 0.3).astype("float32")
    fields = {"bits": bits, "per": per, "symmetric": symmetric}
    _, widest = quantized(values, **fields)
    got, _ = quantized(values, **fields, range="mse")
    parts = values.T[:, :, None] if per == "channel" else values[None]
    found = got.T[:, :, None] if per == "channel" else got[None]
    for index, (part, mine) in enumerate(zip(parts, found, strict=True)):
        scale = float(widest.scale.reshape(-1)[index])
        zero = 0 if symmetric else int(widest.zero_point.reshape(-1)[index])
        most = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1 - zero
        least = -most if symmetric else -zero
        best = np.inf
        for shrunk in scale * np.linspace(0.05, 1, 1000):
            steps = np.clip(np.rint(part / shrunk), least, most)
            best = min(best, error(part, steps * shrunk))
        assert error(part, mine) <= best * 1.02


def test_an_outlier_that_a_sample_missed_is_not_forgotten(monkeypatch):
    from modelcut.steps.quantize import _ranges as module

    values = np.random.default_rng(0).normal(size=(4096, 2)).astype("float32") / 50
    values[1001, 0] = 30.0
    monkeypatch.setattr(module, "_SAMPLE", 512)
    kept, _ = quantized(values, bits=8, range="mse")
    plain, _ = quantized(values, bits=8)
    assert error(values, kept) <= error(values, plain)


def test_groups_by_hand():
    values = np.array([[1.0, 8], [-3, 4], [0.5, 2], [0.25, -1], [7, 0]], "float32")
    got, grid = quantized(values, bits=3, group=2)
    # Three groups of the five inputs, the last one short; each with steps of a third of its peak.
    peaks = np.array([[3, 8], [0.5, 2], [7, 0]])
    np.testing.assert_allclose(grid.scale, np.where(peaks, peaks / 3, 1), rtol=1 / 128)
    assert grid.scale.shape == (3, 2)
    assert grid.side_bits() == 6 * 32
    np.testing.assert_allclose(
        got, [[1, 8], [-3, 8 / 3], [0.5, 2], [1 / 3 / 2, -2 / 3], [7, 0]], rtol=1 / 128
    )


def test_groups_of_a_convolution_lie_along_its_inputs():
    from dataclasses import replace

    from modelcut.model.model import Source

    values = np.random.default_rng(0).normal(size=(3, 3, 7, 4)).astype("float32")
    values *= np.repeat([1, 20, 300], 3)[:7, None]
    model = toy_model({"a": (values[0, 0], None)})
    tensor = next(model.tensors)
    whole = replace(tensor, shape=values.shape, source=Source(values.copy), in_axis=2, out_axis=3)
    model = model.with_tensors({"a/kernel": whole})
    got, grid = next(Linear(bits=6, group=3).apply(model, Context()).model.tensors).pull()
    assert grid.scale.shape == (1, 1, 3, 4)
    for start in (0, 3, 6):
        part = np.s_[:, :, start : start + 3]
        peak = np.abs(values[part]).max(axis=(0, 1, 2), keepdims=True)
        assert np.all(np.abs(got[part] - values[part]) <= peak / 31 / 2 * 1.01)
    blocks = [grid.project(values[r], r) for r in (slice(0, 1), slice(1, 3))]
    np.testing.assert_array_equal(np.concatenate(blocks), got)


def test_smaller_groups_leave_less_error():
    values = np.random.default_rng(0).standard_t(3, size=(256, 10)).astype("float32")
    errors = [error(values, quantized(values, bits=4, group=n)[0]) for n in (8, 32, 128)]
    errors.append(error(values, quantized(values, bits=4)[0]))
    assert errors == sorted(errors)
    better = quantized(values, bits=4, group=32, range="mse")[0]
    assert error(values, better) < errors[1]


def test_groups_need_inputs():
    with pytest.raises(ValueError, match="group needs per: channel"):
        Linear(group=4, per="tensor")
    with pytest.raises(ValueError, match="too few values"):
        Linear(group=4, range="percentile")
    model = toy_model({"a": (np.ones((4, 3), "float32"), np.ones(3, "float32"))})
    outcome = Linear(group=2, include=["role:bias"]).apply(model, Context())
    assert "no axis of inputs" in outcome.skipped["a/bias"]


def test_bits_are_dealt_out_where_they_help_most():
    rng = np.random.default_rng(0)
    model = toy_model(
        {
            "small": (rng.standard_t(2, size=(10, 20)).astype("float32"), None),
            "large": (rng.normal(size=(20, 300)).astype("float32"), None),
            "plain": (np.sign(rng.normal(size=(300, 40))).astype("float32"), None),
            "fixed": (rng.normal(size=(40, 40)).astype("float32"), None),
        }
    )
    step = Linear(average_bits=4, overrides={"fixed": {"bits": 7}})
    outcome = step.apply(model, Context())
    bits = outcome.facts["bits"]
    assert bits["small/kernel"] == 8, "it costs next to nothing"
    assert bits["plain/kernel"] == 2, "it has no error at 2 bits"
    assert outcome.facts["average_bits"] <= 4
    encodings = {t.name: t.pull()[1] for t in outcome.model.tensors}
    assert {name: encodings[name].width for name in bits} == bits
    assert encodings["fixed/kernel"].width == 7
    with pytest.raises(ValueError, match="bits, average_bits, parameter_bytes and budget"):
        Linear(average_bits=4, bits=4)


def test_no_other_deal_within_the_budget_is_better():
    import itertools

    from modelcut.steps.quantize._widths import deal

    rng = np.random.default_rng(1)
    for _ in range(20):
        sizes = dict.fromkeys("abcd", 100)
        scale = dict(zip("abcd", rng.uniform(0.5, 900, 4), strict=True))
        errors = {n: [float(scale[n]) * 4.0**-b for b in range(2, 6)] for n in sizes}
        got = deal(sizes, errors, range(2, 6), 3.5)
        spent = sum(got.values())
        mine = sum(errors[n][got[n] - 2] for n in sizes)
        deals = [
            sum(errors[n][b - 2] for n, b in zip(sizes, widths, strict=True))
            for widths in itertools.product(range(2, 6), repeat=4)
            if sum(widths) <= 14
        ]
        assert mine <= min(deals) * (1 + 1e-9)
        assert spent == 14


def test_the_deal_is_the_optimum_where_layers_differ_in_size():
    import itertools

    from modelcut.steps.quantize._widths import deal

    rng = np.random.default_rng(0)
    for turn in range(60):
        sizes = {name: int(rng.integers(1, 50)) for name in "abcd"[: rng.integers(1, 5)]}
        drawn = {name: rng.exponential(size=4) * 0.5 ** np.arange(4) for name in sizes}
        errors = {n: sorted(each, reverse=bool(turn % 3)) for n, each in drawn.items()}
        average = 2 + rng.random() * 3.2
        got = deal(sizes, errors, range(2, 6), average)
        budget = average * sum(sizes.values()) + 1e-9
        best = min(
            sum(errors[n][w - 2] for n, w in zip(sizes, widths, strict=True))
            for widths in itertools.product(range(2, 6), repeat=len(sizes))
            if sum(sizes[n] * w for n, w in zip(sizes, widths, strict=True)) <= budget
        )
        assert sum(errors[n][w - 2] for n, w in got.items()) == pytest.approx(best, rel=1e-9)


def test_a_width_off_the_hull_is_not_taken():
    from modelcut.steps.quantize._widths import _hull

    # 3 bits are no better than 2 here; 4 are.
    assert _hull([2, 3, 4, 5], [1.0, 0.99, 0.1, 0.2]) == [(2, 1.0), (4, 0.1)]


def test_the_ends_of_a_type_are_no_infinity():
    for dtype in ("float16", "float32"):
        values = np.array([[np.finfo(dtype).max], [np.finfo(dtype).min], [0]], dtype)
        for fields in ({"bits": 8}, {"bits": 3}, {"bits": 4, "range": "mse"}):
            got, _ = quantized(values, **fields)
            assert np.isfinite(got).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fields", [{}, {"group": 2}, {"range": "mse"}, {"average_bits": 3}])
def test_what_is_not_finite_is_left_alone_with_a_reason(odd, fields):
    from modelcut.model.measure import Meter

    values = np.ones((4, 3), "float32")
    values[1, 2] = odd
    tensor = next(Linear(**fields).apply(toy_model({"a": (values, None)}), Context()).model.tensors)
    meter = Meter()
    got, encoding = tensor.pull(meter)
    np.testing.assert_array_equal(got, values)
    assert encoding.kinds == ("dense",)
    assert meter.left_alone == [(0, "holds NaN or infinite values")]


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("fields", [{}, {"group": 7}, {"range": "mse", "bits": 4}])
def test_every_float_type_keeps_its_type(dtype, fields):
    values = np.random.default_rng(0).normal(size=(50, 8)).astype(dtype)
    got, encoding = quantized(values, **fields)
    assert got.dtype == values.dtype
    assert error(values, got) < 0.02 * values.size
    np.testing.assert_array_equal(encoding.project(got), got)
    assert encoding.decode(encoding.codes(got), got.dtype).tobytes() == got.tobytes()


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
    with pytest.raises(RecipeError, match="quantized already"):
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

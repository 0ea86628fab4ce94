"""Signs and scales against brute force and the closed forms."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from toys import toy_model

from modelcut.model.measure import Meter
from modelcut.steps import find
from modelcut.steps.base import Context
from modelcut.steps.quantize._signs import Bases, _one_by_one, fit_bases, solve

Binary = find("quantize", "binary")
Magnitude = find("prune", "magnitude")
RNG = np.random.default_rng(0)


def signed(array, meter=None, sparsity=0.0, **fields):
    model = toy_model({"a": (array, None)})
    if sparsity:
        model = Magnitude(sparsity=sparsity).apply(model, Context()).model
    tensor = next(Binary(**fields).apply(model, Context(index=1)).model.tensors)
    return tensor.pull(meter)


def error(values, got):
    return float(np.square(values.astype("f8") - got.astype("f8")).sum())


def test_one_basis_by_hand():
    values = np.array([[1.0, -2.0], [-3.0, 2.0], [-0.0, 0.0]], "float32")
    got, encoding = signed(values, per="tensor")
    np.testing.assert_allclose(got, np.array([[1, -1], [-1, 1], [1, 1]]) * (8 / 6), rtol=1e-6)
    assert encoding.label == "binary"
    got, _ = signed(values, per="channel")
    np.testing.assert_allclose(np.abs(got[0]), [4 / 3, 4 / 3], rtol=1 / 256)


def test_the_scale_is_the_least_squares_one():
    values = RNG.standard_t(3, size=(300, 7)).astype("float32")
    got, encoding = signed(values)
    for channel in range(7):
        best = error(values[:, channel], got[:, channel])
        for factor in (0.98, 1.02):
            assert best < error(values[:, channel], got[:, channel] * factor)
    np.testing.assert_allclose(encoding.scale[0, 0], np.abs(values).mean(axis=0), rtol=1 / 256)


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("bases", [1, 2, 3])
def test_pruned_zeros_stay_zero_and_are_no_part_of_the_scale(per, bases):
    values = RNG.normal(size=(80, 6)).astype("float32")
    got, encoding = signed(values, sparsity=0.75, per=per, bases=bases)
    assert np.count_nonzero(got) == round(0.25 * values.size)
    assert encoding.kinds == ("sparse", "binary")
    kept = got != 0
    alone = np.abs(values[kept]).mean()
    if bases == 1 and per == "tensor":
        np.testing.assert_allclose(np.abs(got[kept]), alone, rtol=1e-6)
    assert error(values[kept], got[kept]) < 0.2 * np.square(values[kept]).sum()


def least_error(values, k):
    """Over all ways to give a code to each value, the scales solved for."""
    best = np.inf
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=k)))
    for codes in itertools.product(range(1 << k), repeat=values.size):
        matrix = signs[list(codes)]
        scales = np.linalg.lstsq(matrix, values, rcond=None)[0]
        best = min(best, np.square(values - matrix @ scales).sum())
    return best


def test_two_bases_come_near_the_best_of_all_codes():
    near = 0
    for seed in range(10):
        values = np.random.default_rng(seed).normal(size=(5, 1)).astype("float32")
        got, _ = signed(values, bases=2, per="tensor")
        best = least_error(values.ravel().astype("f8"), 2)
        assert error(values, got) >= best - 1e-6
        near += error(values, got) <= best + 0.05 * np.square(values).sum()
    assert near >= 8


def test_more_bases_leave_less_error_than_one_by_one():
    values = RNG.normal(size=(500, 8)).astype("float32")
    errors = [error(values, signed(values, bases=k, per="channel")[0]) for k in (1, 2, 3, 4, 5)]
    assert all(b < 0.4 * a for a, b in itertools.pairwise(errors))
    # The greedy fit, which the rounds begin with.
    left, greedy = values.astype("f8"), np.zeros(values.shape)
    for _ in range(3):
        basis = np.abs(left).mean(axis=0) * np.where(left >= 0, 1, -1)
        greedy, left = greedy + basis, left - basis
    assert errors[2] < 0.97 * error(values, greedy)


def test_two_bits_of_a_normal_distribution_are_those_of_lloyd_and_max():
    values = RNG.normal(size=(1000, 200)).astype("float32")
    got, _ = signed(values, bases=2, per="tensor")
    # Max 1960, table I: the best four levels leave 0.1175 of the variance.
    assert error(values, got) / np.square(values).sum() == pytest.approx(0.1175, abs=0.001)


def test_rounds_never_make_it_worse():
    sizes = np.abs(RNG.standard_t(3, size=(20, 200)))
    fitted = fit_bases(sizes, 3, zeros=True)

    def errors(bases):
        levels = np.einsum("clk,ck->cl", bases.signs, bases.scales)
        return np.square(np.abs(sizes[..., None] - levels[:, None])).min(-1).sum(1)

    greedy = errors(Bases.of(_one_by_one(sizes, 3, sizes >= 0)))
    assert np.all(errors(fitted) <= greedy)
    assert errors(fitted).sum() < 0.95 * greedy.sum()


def test_scales_are_solved_as_numpy_does():
    signs = np.array([[[1.0, -1.0], [1.0, 1.0]]])
    values = np.array([0.2, 0.4, 1.9, 2.1, 2.0])  # two at the low level, three at the high one
    counts, sums = np.array([[5, 3]]), np.array([[6.6, 6.0]])
    matrix = signs[0][[0, 0, 1, 1, 1]]
    expected = np.linalg.lstsq(matrix, values, rcond=None)[0]
    np.testing.assert_allclose(solve(signs, counts, sums)[0], np.sort(np.abs(expected))[::-1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("bases", [1, 3])
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_every_float_type_keeps_its_type(dtype, bases, per):
    values = RNG.normal(size=(300, 250)).astype(dtype)
    got, encoding = signed(values, bases=bases, per=per)
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(encoding.project(got), got)
    assert encoding.decode(encoding.codes(got), got.dtype).tobytes() == got.tobytes()
    assert error(values, got) < {1: 0.38, 3: 0.042}[bases] * np.square(values.astype("f8")).sum()


@pytest.mark.parametrize("bases", [1, 2])
def test_constant_and_zero_tensors(bases):
    for number in (0.5, 0.0, -0.0):
        got, _ = signed(np.full((4, 3), number, "float32"), bases=bases)
        np.testing.assert_array_equal(got, np.full((4, 3), number + 0.0))
        assert not np.any(np.signbit(got))
    tiny = np.full((4, 3), -1e-60)
    got, _ = signed(tiny, bases=bases)
    assert np.all(got == 0)
    assert not np.any(np.signbit(got))


@pytest.mark.parametrize(
    ("odd", "reason"),
    [(np.nan, "NaN or infinite"), (-np.inf, "NaN or infinite"), (1e300, "too large")],
)
@pytest.mark.parametrize("bases", [1, 2])
def test_what_has_no_scale_is_left_alone_with_a_reason(odd, reason, bases):
    values = RNG.normal(size=(40, 3))
    values[1, 2] = odd
    meter = Meter()
    got, encoding = signed(values, meter, bases=bases)
    np.testing.assert_array_equal(got, values)
    assert encoding.kinds == ("dense",)
    assert reason in meter.left_alone[0][1]


def test_a_channel_may_be_the_first_axis():
    from dataclasses import replace

    values = RNG.normal(size=(6, 500)).astype("float32")
    model = toy_model({"a": (values, None)})
    turned = {"a/kernel": replace(next(model.tensors), out_axis=0, in_axis=1)}
    model = model.with_tensors(turned)
    for bases in (1, 3):
        got = next(Binary(bases=bases).apply(model, Context()).model.tensors).pull()[0]
        straight, _ = signed(np.ascontiguousarray(values.T), bases=bases)
        np.testing.assert_allclose(got, straight.T, rtol=1e-5)

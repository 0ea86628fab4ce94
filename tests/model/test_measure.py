"""Numbers about tensors, against NumPy on the whole array."""

from __future__ import annotations

import zlib

import ml_dtypes
import numpy as np
import pytest

from modelcut.arrays.deflate import Deflater, choose
from modelcut.model.encoding import Dense, Sparse
from modelcut.model.encodings.affine import Affine
from modelcut.model.measure import Meter, compare, deflated_size, summarize


def test_summary_counts():
    values = np.array([[0.0, 1.0, -4.0], [np.nan, np.inf, 0.0]], "float32")
    found = summarize(values, Dense())
    assert (found.size, found.nonzeros, found.nonfinite, found.peak) == (6, 4, 2, 4.0)
    assert found.bytes == 24
    assert found.distinct is None


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
@pytest.mark.parametrize("odd", [[], [np.nan], [np.inf, -np.inf, np.nan]])
def test_summary_of_every_float_type(dtype, odd):
    values = np.array([0.0, -0.0, 1.5, -2.5, 2.0**-14, *odd], dtype)
    found = summarize(values, Dense())
    assert (found.size, found.nonzeros) == (values.size, 3 + len(odd))
    assert (found.nonfinite, found.peak) == (len(odd), 2.5)


def test_a_scalar_has_no_rows_and_is_counted_all_the_same():
    found = summarize(np.array(3, "int64"), Dense())
    assert (found.size, found.nonzeros, found.bytes) == (1, 1, 8)
    change = compare(np.array(4, "float32"), np.array(3, "float32"))
    assert (change.error, change.peak_error) == (0.25, 1.0)


def test_entropy_of_codes():
    grid = Affine(4, np.array([[1.0]], "float32"))
    values = np.array([[0, 0, 1, 2]], "float32")
    found = summarize(values, grid)
    assert found.distinct == 3
    assert found.entropy == pytest.approx(1.5)


def test_large_arrays_are_summed_as_a_whole():
    rng = np.random.default_rng(1)
    before = rng.normal(size=(3000, 1000)).astype("float32")
    after = np.where(np.abs(before) < 0.5, 0, before).astype("float32")
    change = compare(before, after)
    exact = np.linalg.norm((before - after).astype("float64")) / np.linalg.norm(
        before.astype("float64")
    )
    assert change.error == pytest.approx(exact, rel=1e-5)
    assert change.sqnr_db == pytest.approx(-20 * np.log10(exact), abs=1e-3)
    assert change.peak_error == pytest.approx(np.abs(before - after).max())
    assert summarize(after, Sparse()).nonzeros == np.count_nonzero(after)


def test_no_change_is_none():
    values = np.ones((4, 4), "float32")
    assert compare(values, values.copy()).sqnr_db is None


def test_deflated_size_is_that_of_a_real_stream():
    values = np.zeros((100, 100), "float32")
    assert 0 < deflated_size(values) < 1000
    noise = np.random.default_rng(0).bytes(40_000)
    array = np.frombuffer(noise, "float32")
    assert abs(deflated_size(array) - len(zlib.compress(noise, 1))) < 400


@pytest.mark.parametrize("kind", ["pruned", "plain", "grid"])
def test_of_a_large_tensor_pieces_are_deflated(kind, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(16 * 262, 1000)).astype("float32")
    if kind == "pruned":
        values[rng.random(values.shape) < 0.9] = 0
    elif kind == "grid":
        values = np.rint(values * 20) / np.float32(20)
    part, small = values[:262], values[:1000]
    way = choose(small)
    assert deflated_size(small) == sum(
        len(way.pack(small[i : i + 262])) for i in range(0, 1000, 262)
    )
    packed = []
    pack = Deflater.pack
    monkeypatch.setattr(Deflater, "pack", lambda *args: packed.append(args[1].size) or pack(*args))
    assert deflated_size(values) == pytest.approx(16 * deflated_size(part), rel=0.01)
    packed.clear()
    deflated_size(values)
    assert sum(packed) < values.size / 4


def test_a_meter_sees_every_edit(toy):
    from modelcut.model.rewrite import Rewrite

    meter = Meter(deflate=True)
    kernel = next(toy.tensors)

    def halve(values, encoding):
        return Rewrite(encoding, lambda part, rows: part / 2)

    kernel.then(0, halve, ("dense",)).then(3, halve, ("dense",)).pull(meter)
    assert [step for step, _ in meter.changes] == [0, 3]
    assert meter.changes[0][1].error == pytest.approx(0.5)
    assert meter.after[-1][1].peak == pytest.approx(meter.before.peak / 4)


def test_what_a_writer_deflated_is_not_deflated_again(toy):
    meter = Meter(deflate=True)
    kernel = next(toy.tensors)
    values, _ = kernel.pull(meter, deflates=True)
    assert meter.before.deflated is None
    meter.done_with(values, 17)
    assert meter.before.deflated == 17

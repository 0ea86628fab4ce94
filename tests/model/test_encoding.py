"""Every encoding: projection is idempotent, codes are exact, blocks are the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcut.model.encoding import Dense, Sparse, from_record
from modelcut.model.encodings.affine import Affine
from modelcut.model.encodings.binary import Binary
from modelcut.model.encodings.codebook import Codebook
from modelcut.model.encodings.keras_int import KerasInt

RNG = np.random.default_rng(0)


def encodings(shape):
    channel = (1,) * (len(shape) - 1) + (shape[-1],)
    scale = (0.02 + RNG.random(channel) / 20).astype("float32")
    zero = RNG.integers(0, 200, channel).astype("int32")
    groups = (-(-shape[0] // 3), *(1,) * (len(shape) - 2), shape[-1])
    grouped = (0.02 + RNG.random(groups) / 20).astype("float32")
    plain = [
        Affine(8, np.full((1,) * len(shape), 0.03, "float32")),
        Affine(4, scale),
        Affine(8, scale, zero),
        Affine(2, scale),
        Affine(5, grouped, group=3, group_axis=0),
        KerasInt(8, scale, stored=8),
        KerasInt(4, scale, zero % 16, stored=4),
        Binary(np.full((1, *(1,) * len(shape)), 0.7, "float32")),
        Binary(np.stack([scale, scale / 2])),
        Codebook(np.array([-1.5, -0.25, 0.0, 0.5, 2.0], "float32")),
        Codebook(np.sort(RNG.normal(size=100)).astype("float32")),
    ]
    return [Dense("float16"), Dense("bfloat16"), *plain, *(Sparse(inner) for inner in plain)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 5), (3, 3, 4, 6), (11, 1)])
def test_projection_is_idempotent_and_codes_are_exact(shape, dtype):
    values = RNG.normal(size=shape).astype(dtype)
    values[RNG.random(shape) < 0.4] = 0
    for encoding in encodings(shape):
        once = encoding.project(values)
        assert once.dtype == values.dtype
        np.testing.assert_array_equal(encoding.project(once), once, err_msg=str(encoding))
        if encoding.symbols is None:
            continue
        codes = encoding.codes(once)
        assert codes.min() >= 0
        assert codes.max() < encoding.symbols
        decoded = encoding.decode(codes, once.dtype)
        assert decoded.tobytes() == once.tobytes(), encoding


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 5), (300, 200)])
def test_values_and_codes_at_once_are_the_same_as_one_after_the_other(shape, dtype):
    values = RNG.normal(size=shape).astype(dtype)
    values[RNG.random(shape) < 0.4] = 0
    for encoding in encodings(shape):
        nearest, codes = encoding.coded(values)
        assert nearest.tobytes() == encoding.project(values).tobytes(), encoding
        if encoding.symbols is None:
            assert codes is None
        else:
            np.testing.assert_array_equal(codes, encoding.codes(nearest), err_msg=str(encoding))


def test_blocks_of_rows_are_the_whole():
    values = RNG.normal(size=(9, 6)).astype("float32")
    for encoding in encodings(values.shape):
        whole = encoding.project(values)
        parts = [encoding.project(values[r], r) for r in (slice(0, 4), slice(4, 9))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        if encoding.symbols is not None:
            codes = [encoding.codes(whole[r], r) for r in (slice(0, 4), slice(4, 9))]
            np.testing.assert_array_equal(np.concatenate(codes), encoding.codes(whole))


def test_sparse_keeps_the_zeros_of_another_array():
    latent = np.array([[0.5, -2.0], [0.1, 3.0]], "float32")
    mask = np.array([[1.0, 0.0], [1.0, 1.0]], "float32")
    kept = Sparse().project(latent, like=mask)
    np.testing.assert_array_equal(kept, np.array([[0.5, 0.0], [0.1, 3.0]], "float32"))
    assert not np.signbit(kept[0, 1]), "removed weights are +0.0"


def test_affine_by_hand():
    # 3 bits, symmetric: codes -3..3 around zero, steps of a half.
    grid = Affine(3, np.array([[0.5]], "float32"))
    values = np.array([[-9.0, -0.7, -0.2, 0.0, 0.3, 9.0]], "float32")
    np.testing.assert_array_equal(grid.project(values), [[-1.5, -0.5, 0.0, 0.0, 0.5, 1.5]])
    np.testing.assert_array_equal(grid.codes(values), [[0, 2, 3, 3, 4, 6]])


def test_bits_by_hand():
    assert Dense().bits(100, 40, 4) == 3200
    assert Sparse().bits(100, 40, 4) == 100 + 40 * 32
    grid = Affine(4, np.ones((1, 5), "float32"))
    assert Sparse(grid).bits(100, 40, 4) == 100 + 40 * 4 + 5 * 32


@pytest.mark.parametrize("shape", [(7, 5), (2, 2, 3, 4)])
def test_records_make_the_same_encoding_again(shape):
    values = RNG.normal(size=shape).astype("float32")
    for encoding in encodings(shape):
        again = from_record(encoding.record())
        assert again.label == encoding.label
        np.testing.assert_array_equal(again.project(values), encoding.project(values))


def test_an_unknown_record_is_refused():
    with pytest.raises(ValueError, match="unknown encoding 'magic'"):
        from_record({"kind": "magic"})


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=50))
def test_codebook_takes_the_nearest_centre(values):
    centres = np.array([-2.0, -0.5, 0.0, 0.75, 1.5], "float32")
    array = np.array(values, "float32")
    got = Codebook(centres).project(array)
    distance = np.abs(array[:, None].astype("float64") - centres).min(axis=1)
    np.testing.assert_allclose(np.abs(array - got), distance, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_many_codes_of_a_codebook_are_decoded_as_few_are(dtype):
    book = Codebook(np.array([-2, -0.5, 0.25, 1], "float32"))
    codes = np.random.default_rng(0).integers(0, 4, (1 << 9, 1 << 8)).astype("uint8")
    found = book.decode(codes, np.dtype(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, book.centres.astype(dtype)[codes])


def test_only_the_encoding_of_the_values_is_replaced():
    dense, coded = Dense(), Dense("float16")
    assert not dense.masked
    assert dense.recoded(coded) == coded
    sparse = Sparse(dense, "2:4")
    assert sparse.masked
    assert sparse.recoded(coded) == Sparse(coded, "2:4")
    assert sparse.recoded(coded).unmasked == coded

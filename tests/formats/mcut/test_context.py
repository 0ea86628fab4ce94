"""Matrices come back from their contexts, in fewer bits than their symbols alone would take."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcut.formats.mcut.coding import CodingError, context, fixed, ranged, symbols
from modelcut.formats.mcut.coding.bits import ByteReader
from modelcut.formats.mcut.coding.symbols import Symbols


def matrix(height, width, alphabet=9, seed=0, density=0.1):
    """Rows and columns of different density, as pruned networks have them."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.exp(1.5 * rng.normal(size=n)) for n in (height, width))
    chance = np.minimum(0.9, density * rows[:, None] * columns / (rows.mean() * columns.mean()))
    values = rng.integers(1, alphabet, (height, width))
    return np.where(rng.random((height, width)) < chance, values, 0).astype(np.uint16)


def image(side, width, seed=0):
    """Rows are the pixels of an image, whose neighbours are alike."""
    rng = np.random.default_rng(seed)
    found = np.zeros((side, side, width), np.uint16)
    for column in range(width):
        for _ in range(3):
            y, x = rng.integers(0, side - 3, 2)
            found[y : y + 3, x : x + 3, column] = rng.integers(1, 9)
    return found.reshape(side * side, width)


def there_and_back(values, alphabet, common=0):
    data = context.encode(values.reshape(-1), values.shape[1], alphabet, common)
    found = context.decode(ByteReader(data), values.size, values.shape[1], alphabet)
    np.testing.assert_array_equal(found.reshape(values.shape), values)
    return data


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 40),
    st.integers(2, 60),
    st.sampled_from([2, 3, 9, 33, 34, 257]),
    st.integers(0, 99),
    st.integers(0, 1),
)
def test_matrices_come_back(height, width, alphabet, seed, common):
    values = matrix(height, width, alphabet, seed)
    values = np.where(values == 0, common, np.where(values == common, 0, values))
    there_and_back(values.astype(np.uint16), alphabet, common)


def test_what_is_all_common_or_all_others_comes_back():
    for value in (0, 3):
        there_and_back(np.full((20, 30), value, np.uint16), 5)


def static(values):
    counts = np.bincount(values.reshape(-1))
    return ranged.bits_of(counts) / 8


def test_density_of_rows_and_columns_is_used():
    values = matrix(200, 150, 2)
    assert len(there_and_back(values, 2)) < 0.85 * static(values)


def test_neighbours_in_an_image_are_used_and_their_values():
    values = image(16, 90)
    data = there_and_back(values, 9)
    assert len(data) < 0.55 * static(values)
    assert ByteReader(data[1:]).varint(1000) == 16  # the lag


def test_signs_of_columns_are_used():
    rng = np.random.default_rng(0)
    values = matrix(200, 60, 2, density=0.3)
    high = rng.random(60) < 0.5
    values = np.where(values > 0, np.where(high, 4, 0) + rng.integers(1, 5, values.shape), 0)
    mixed = rng.permuted(values, axis=1)
    assert len(there_and_back(values.astype(np.uint16), 9)) < len(
        there_and_back(mixed.astype(np.uint16), 9)
    )


@pytest.mark.parametrize("coder", ["range", "best"])
def test_noise_takes_no_more_than_it_did(coder):
    rng = np.random.default_rng(0)
    for shape in ((90, 40), (800, 500)):
        values = np.where(rng.random(shape) < 0.1, rng.integers(1, 9, shape), 0).astype(np.uint16)
        data = symbols.encode(Symbols.of(values, 9), coder)
        assert len(data) <= static(values)


def test_contexts_are_chosen_where_they_pay():
    for values in (matrix(60, 50), image(28, 100)):
        data = symbols.encode(Symbols.of(values, 9), "best")
        assert symbols.name_of(data) == "context"
        found = symbols.decode(data, values.size, 9, values.shape[1])
        np.testing.assert_array_equal(found.dense(np.uint16), values.reshape(-1))
        flat = symbols.encode(Symbols.of(values.reshape(-1), 9), "best")
        assert len(data) < len(flat)


def test_a_flipped_byte_ends_in_symbols_or_in_a_coding_error():
    values = matrix(12, 25)
    data = there_and_back(values, 9)
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[at] ^= mask
            try:
                found = context.decode(ByteReader(bytes(broken)), values.size, 25, 9)
            except CodingError:
                continue
            assert found.max(initial=0) < 9


def test_a_cut_stream_ends_in_symbols_or_in_a_coding_error():
    data = there_and_back(matrix(12, 25), 9)
    for length in range(len(data)):
        try:
            assert context.decode(ByteReader(data[:length]), 300, 25, 9).size == 300
        except CodingError:
            continue


@pytest.mark.parametrize(
    ("size", "width", "alphabet"),
    [(300, 0, 9), (300, 7, 9), (300, 300, 9), (2 * context.MOST_ROWS + 2, 2, 9), (300, 25, 999)],
)
def test_other_shapes_are_refused(size, width, alphabet):
    data = there_and_back(matrix(12, 25), 9)
    data = bytes([data[0] & ~1]) + data[1:]
    with pytest.raises(CodingError, match="wrong shape"):
        context.decode(ByteReader(data), size, width, alphabet)


def test_tables_are_right_and_the_same_everywhere():
    logs, chances = fixed.logs(), fixed.chances()
    exact = 32 * np.log2(np.arange(1, fixed.ONE + 1) / fixed.ONE)
    assert np.abs(logs[1:] - exact).max() < 1.01
    assert (chances.sum(axis=1) == fixed.TOTAL).all()
    odds = np.arange(-fixed.MIDDLE, fixed.MIDDLE + 1) / fixed.ODDS_STEPS
    np.testing.assert_allclose(chances[:, 1], fixed.TOTAL / (1 + 2.0**-odds), atol=1.01)
    digest = hashlib.sha256(logs.astype("<i4").tobytes() + chances.astype("<i8").tobytes())
    assert digest.hexdigest() == "a7353f949f67e86384f9ed7f86c0a7da73cb93d5bd4d61243f177f5c7a5deafa"

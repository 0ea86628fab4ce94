"""Symbols come back, cost what their entropy says, and damage is noticed or harmless."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcut.formats.mcut.coding import CodingError, huffman, raw, symbols
from modelcut.formats.mcut.coding.bits import ByteReader, pack, varint
from modelcut.formats.mcut.coding.symbols import Symbols

CODERS = ("huffman", "range", "best")


def draw(size, density, alphabet, seed=0):
    rng = np.random.default_rng(seed)
    values = np.minimum(alphabet - 1, 1 + np.abs(rng.normal(size=size) * alphabet / 6).astype(int))
    return np.where(rng.random(size) < density, values, 0).astype(np.uint16)


def entropy(values):
    share = np.bincount(values)[np.bincount(values) > 0] / values.size
    return float(-(share * np.log2(share)).sum())


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 5000),
    st.sampled_from([0.0, 0.001, 0.05, 0.4, 0.7, 1.0]),
    st.sampled_from([1, 2, 3, 16, 17, 255, 257]),
    st.sampled_from(CODERS),
    st.integers(0, 99),
)
def test_symbols_come_back(size, density, alphabet, coder, seed):
    values = draw(size, density, alphabet, seed)
    data = symbols.encode(Symbols.of(values, alphabet), coder)
    np.testing.assert_array_equal(symbols.decode(data, size, alphabet).dense(np.uint16), values)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9000),
    st.sampled_from([0.001, 0.05, 0.4, 0.7, 1.0]),
    st.sampled_from([2, 3, 16, 255, 257]),
    st.integers(0, 99),
)
def test_how_long_a_stream_will_be_is_known_before(size, density, alphabet, seed):
    even = np.random.default_rng(seed).integers(0, 16, size).astype(np.uint8)
    made = Symbols.of(draw(size, density, alphabet, seed) if seed % 4 else even, max(16, alphabet))
    if np.count_nonzero(made.counts) < 2:
        return
    blocks = [symbols._Plain(made)]
    if 2 * made.counts.max() > size:
        blocks.append(symbols._Runs(made))
    for one in blocks:
        assert one.size == len(one.written())
        assert one.bits <= 8 * one.size


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("size", [4095, 300_001])
def test_many_lanes_come_back(coder, size):
    for density in (0.02, 0.1, 0.9):
        values = draw(size, density, 16)
        data = symbols.encode(Symbols.of(values, 16), coder)
        np.testing.assert_array_equal(symbols.decode(data, size, 16).dense(np.uint16), values)


def test_the_range_coder_is_at_the_entropy_and_huffman_within_5_percent_of_its_parts():
    values = draw(1 << 20, 0.1, 16)
    bits = entropy(values) * values.size
    ranged = 8 * len(symbols.encode(Symbols.of(values, 16), "range"))
    assert ranged <= 1.001 * bits
    others = values[values > 0]
    gaps = np.diff(np.flatnonzero(values), prepend=-1) - 1
    parts = (entropy(gaps) + entropy(others)) * others.size
    assert 8 * len(symbols.encode(Symbols.of(values, 16), "huffman")) <= 1.05 * parts


def test_the_better_coder_is_taken():
    for size, density in ((300, 0.1), (5000, 1.0), (200_000, 0.3)):
        found = Symbols.of(draw(size, density, 200), 200)
        sizes = {coder: len(symbols.encode(found, coder)) for coder in CODERS}
        assert sizes["best"] == min(sizes.values())


def test_code_lengths_by_hand():
    assert huffman.code_lengths(np.array([5, 0, 2, 1, 1])).tolist() == [1, 0, 2, 3, 3]
    assert [int(c) for c in huffman.canonical(np.array([1, 0, 2, 3, 3]))] == [0, 0, 2, 6, 7]


def test_lengths_are_limited_and_still_a_full_set():
    counts = 2 ** np.arange(40)
    lengths = huffman.code_lengths(counts).astype(int)
    assert lengths.max() == huffman.LIMIT
    assert (2.0**-lengths).sum() == 1
    assert (np.diff(lengths) <= 0).all()


@pytest.mark.parametrize("coder", CODERS)
def test_a_flipped_byte_ends_in_symbols_or_in_a_coding_error(coder):
    values = draw(3000, 0.1, 9)
    data = symbols.encode(Symbols.of(values, 9), coder)
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[at] ^= mask
            try:
                found = symbols.decode(bytes(broken), values.size, 9)
            except CodingError:
                continue
            assert found.size == values.size
            assert found.dense(np.uint16).max(initial=0) < 9


@pytest.mark.parametrize("coder", CODERS)
def test_a_cut_stream_ends_in_symbols_or_in_a_coding_error(coder):
    data = symbols.encode(Symbols.of(draw(3000, 0.1, 9), 9), coder)
    for length in range(len(data)):
        try:
            assert symbols.decode(data[:length], 3000, 9).size == 3000
        except CodingError:
            continue


def test_a_table_that_is_no_full_set_is_refused():
    with pytest.raises(CodingError, match="not a complete prefix code"):
        huffman.decode(ByteReader(b"\0"), 5, np.array([2, 2, 2], np.uint8))


def test_numbers_have_a_limit():
    assert ByteReader(varint(300)).varint(300) == 300
    for data, limit in ((varint(300), 299), (b"\xff" * 20, 1 << 60), (b"\x80", 9)):
        with pytest.raises(CodingError):
            ByteReader(data).varint(limit)
    values = np.array([0, 5, 7, 2])
    np.testing.assert_array_equal(ByteReader(pack(values, 3)).fields(4, 3), values)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", "int64"])
def test_raw_bytes_come_back(dtype):
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=999), np.zeros(7), np.zeros(0), np.full(3, 2.0)):
        values = values.astype(dtype)
        reader = ByteReader(raw.encode(values) + b"rest")
        found = raw.decode(reader, values.size, values.dtype)
        assert found.tobytes() == values.tobytes()
        assert bytes(reader.rest()) == b"rest"


def test_a_plane_that_unpacks_to_more_than_it_should_is_refused():
    data = raw.deflate(bytes(1 << 20))
    with pytest.raises(CodingError, match="wrong size"):
        raw.inflate(data, 1000)

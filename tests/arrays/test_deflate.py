"""Deflate with and without shuffled bytes, against zlib and HDF5's own filters."""

from __future__ import annotations

import zlib

import h5py
import numpy as np
import pytest

from modelcut.arrays.deflate import Deflater, choose, inflate
from modelcut.formats.keras import hdf5_values


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
@pytest.mark.parametrize("effort", ["fast", "best"])
def test_chunks_come_back(dtype, shuffle, effort):
    values = np.random.default_rng(0).normal(0, 30, (37, 11)).astype(dtype)
    packed = Deflater(effort, shuffle).pack(values)
    assert len(zlib.decompress(packed)) == values.nbytes
    found = inflate(packed, values.nbytes, values.itemsize, shuffled=shuffle)
    assert found.view(dtype).reshape(values.shape).tobytes() == values.tobytes()


def two_planes(symbols):
    """Two bytes a value, each one of so many at random; none of them in both planes."""
    drawn = np.random.default_rng(0).integers(0, symbols, (2, 1 << 14)).astype("uint8")
    return np.ascontiguousarray((drawn + np.array([[0], [100]], "uint8")).T).view("uint16")


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_planes_of_bytes_do_not_share_codes(effort):
    values = two_planes(31)
    assert len(Deflater(effort, shuffle=True).pack(values)) * 8 < values.nbytes * 5.1


def test_the_best_seeks_no_repetitions_where_they_cost_more():
    values = two_planes(4)
    packed = Deflater("best", shuffle=True).pack(values)
    planes = np.ascontiguousarray(values.view("uint8").T)
    assert len(packed) < 0.92 * sum(len(zlib.compress(plane.tobytes(), 9)) for plane in planes)
    still = np.repeat(values, 3, axis=0)
    assert len(Deflater("best", shuffle=True).pack(still)) < 1.8 * len(packed)


def test_planes_of_noise_are_stored():
    values = np.random.default_rng(0).normal(size=(300, 400)).astype("float32")
    way = choose(values)
    assert way.noise == {0, 1, 2}
    packed = way.pack(values)
    assert len(packed) < 1.001 * way.share * values.nbytes
    for plane in values.view("uint8").reshape(-1, 4).T[:3]:
        assert plane[:60_000].tobytes() in packed
    few = np.round(values * 4).astype("float32")
    assert choose(few).noise == set()
    assert choose(values, "best").noise == set()
    # A chunk unlike those that were looked at: most of it is zero.
    values[30:] = 0
    assert len(way.pack(values)) < 0.12 * values.nbytes


def test_what_pads_the_last_chunk_costs_little(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 140_000)).astype("float32")
    with h5py.File(tmp_path / "one.h5", "w") as file:
        stored, _ = hdf5_values.write(file, "kernel", values, "fast", {})
        assert file["kernel"].chunks == (1, 140_000)
        hdf5_values.write(file, "other", values[:, :130_000], "fast", {})
        assert file["other"].chunks == (2, 130_000)  # 6 rows
        assert file["other"].id.get_storage_size() < values[:, :130_000].nbytes
    assert stored < values.nbytes


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ((700, 900), (234, 900)),
        ((3, 3, 512, 512), (1, 1, 512, 512)),
        ((25_088, 4096), (64, 4096)),
        ((1, 500_000), (1, 250_000)),
        ((7, 5), (7, 5)),
    ],
)
def test_chunks_are_cut_evenly(shape, chunk):
    assert hdf5_values.chunk_shape(shape, 4) == chunk


def test_a_chunk_of_another_size_is_refused():
    with pytest.raises(ValueError, match="declares"):
        inflate(zlib.compress(b"12345678"), 4, 4, shuffled=True)


def test_bytes_are_shuffled_where_that_is_less():
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(300, 400)).astype("float32")
    pruned = np.where(np.abs(plain) < 1.6, 0, plain).astype("float32")
    signs = np.where(plain > 0, 1, -1) * rng.random((1, 400)).astype("float16")
    assert choose(plain).shuffle
    assert choose(signs.astype("float32")).shuffle
    assert not choose(pruned).shuffle
    assert choose(np.zeros((0, 4), "float32")).share == 1


@pytest.mark.parametrize("compression", ["fast", "best"])
@pytest.mark.parametrize("kind", ["plain", "few", "bfloat16"])
def test_hdf5_reads_either(tmp_path, compression, kind):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(700, 1000)).astype("float32")
    if kind == "few":
        values = np.where(rng.random(values.shape) < 0.9, 0, 0.1).astype("float32")
    path = tmp_path / "one.h5"
    with h5py.File(path, "w") as file:
        bits = values.view("uint32") & 0xFFFF0000 if kind == "bfloat16" else values.view("uint32")
        values = bits.view("float32")
        hdf5_values.write(file, "kernel", values, compression, {})
        assert file["kernel"].shuffle == (kind != "few")
    with h5py.File(path) as file:
        assert np.array_equal(file["kernel"][()], values)
        assert np.array_equal(hdf5_values.source(file["kernel"], "one.h5").read(), values)


def test_a_large_contiguous_dataset_is_read_side_by_side(tmp_path):
    values = np.random.default_rng(2).normal(size=(2_100_001 + 7, 1)).astype("float32")
    path = tmp_path / "one.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["plain"] = values
        file["swapped"] = values.astype(">f4")
    with h5py.File(path) as file:
        for name in ("plain", "swapped"):
            assert np.array_equal(hdf5_values.source(file[name], "one.h5").read(), values)
        target = np.empty_like(values)
        assert hdf5_values._read_side_by_side(file["plain"], target)
        assert np.array_equal(target, values)
        assert not hdf5_values._read_side_by_side(file["swapped"], target)

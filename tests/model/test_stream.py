"""A tensor that is read block by block becomes the same as one that is pulled as a whole."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from modelcut import steps
from modelcut.arrays.blocks import in_threads
from modelcut.errors import InputError
from modelcut.formats.keras import hdf5_values
from modelcut.model.encoding import Sparse
from modelcut.model.measure import Meter
from modelcut.model.model import Layer, Model, Origin, Source, Tensor
from modelcut.steps.base import Context

SETTINGS = [
    ("prune", "magnitude", {"sparsity": 0.7}),
    ("prune", "magnitude", {"sparsity": 0.7, "scope": "global"}),
    ("prune", "magnitude", {"threshold": 0.5}),
    ("quantize", "linear", {"bits": 8}),
    ("quantize", "linear", {"bits": 4, "symmetric": False, "per": "tensor"}),
    ("quantize", "cluster", {"bits": 4}),
    ("quantize", "cluster", {"values": 5, "entropy_weight": 0.05}),
    ("quantize", "float16", {}),
    ("quantize", "bfloat16", {}),
]


def model_of(values, tmp_path, encoding=None, *, whole=False):
    def flat(start, stop):
        return values.reshape(-1)[start:stop].copy()

    source = Source(values.copy, flat=None if whole else flat)
    tensor = Tensor("d/kernel", "kernel", "kernel", values.shape, values.dtype, source, 1, 0)
    tensor = tensor if encoding is None else replace(tensor, encoding=encoding)
    layer = Layer(("d",), "Dense", {}, (tensor,))
    return Model((layer,), None, Origin(tmp_path, "hdf5", "keras3", "Keras 3"))


def applied(model, family, method, fields):
    context = Context(index=0, seed=0, say=lambda _: None, runtime=None)
    outcome = steps.find(family, method)(**fields).apply(model, context)
    return next(outcome.model.tensors)


def measured(summary):
    """Without what pieces tell of a tensor that is not in memory."""
    return replace(summary, deflated=None, estimated=False)


@pytest.fixture(params=["float32", "float64", "float16", "odd"])
def values(request):
    rng = np.random.default_rng(3)
    made = rng.standard_normal((700, 150)).astype(
        "float32" if request.param == "odd" else request.param
    )
    if request.param == "odd":
        made[rng.random(made.shape) < 0.3] = 0
        made[7:200] = made[0]  # ties
        made[300] = -0.0
    return made


@pytest.mark.parametrize(("family", "method", "fields"), SETTINGS, ids=str)
def test_it_becomes_the_same(family, method, fields, values, tmp_path):
    if method in ("float16", "bfloat16") and values.dtype == np.float16:
        pytest.skip("is one already")
    pulled = applied(model_of(values, tmp_path, whole=True), family, method, fields)
    streamed = applied(model_of(values, tmp_path), family, method, fields)
    one, two = Meter(deflate=True), Meter(deflate=True)
    expected, encoding = pulled.pull(one)
    assert pulled.stream(Meter()) is None
    stream = streamed.stream(two)
    blocks = [slice(start, min(start + 99, 700)) for start in range(0, 700, 99)]
    got = np.concatenate(list(in_threads(stream.take, blocks)))
    stream.done()
    assert got.dtype == expected.dtype == stream.dtype
    assert got.tobytes() == expected.tobytes()
    assert stream.encoding.kinds == encoding.kinds
    assert measured(two.before) == measured(one.before)
    assert [step for step, _ in two.after] == [0]
    assert measured(two.after[0][1]) == measured(one.after[0][1])
    # Of what is not in memory, pieces tell it.
    assert two.before.deflated == pytest.approx(one.before.deflated, rel=0.5)
    assert two.after[0][1].deflated == pytest.approx(one.after[0][1].deflated, rel=0.5)
    for name in ("before", "after"):
        counts = getattr(two.histogram, name)
        np.testing.assert_array_equal(counts, getattr(one.histogram, name))
    for name in ("error", "peak_error"):
        found = getattr(two.changes[0][1], name)
        assert found == pytest.approx(getattr(one.changes[0][1], name), rel=1e-4, abs=1e-7)
    np.testing.assert_array_equal(stream.flat(1234, 98765), expected.reshape(-1)[1234:98765])


@pytest.mark.parametrize("compression", ["none", "fast", "best"])
def test_a_writer_writes_the_same_bytes(compression, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2001, 300)).astype("float32")
    values[rng.random(values.shape) < 0.9] = 0
    sizes = []
    for whole in (True, False):
        tensor = next(model_of(values, tmp_path, whole=whole).tensors)
        with h5py.File(tmp_path / f"{whole}.h5", "w", track_order=False) as file:
            given = tensor.pull()[0] if whole else tensor.stream()
            sizes.append(hdf5_values.write(file, "x", given, compression, {"a": 1}))
    assert sizes[0] == sizes[1]
    assert (tmp_path / "True.h5").read_bytes() == (tmp_path / "False.h5").read_bytes()
    with h5py.File(tmp_path / "False.h5") as file:
        np.testing.assert_array_equal(file["x"][()], values)


def test_values_that_are_not_finite_are_left_alone(tmp_path):
    values = np.ones((4000, 300), "float32")
    values[3999, 299] = np.nan
    tensor = applied(model_of(values, tmp_path), "quantize", "linear", {})
    meter = Meter()
    stream = tensor.stream(meter)
    stream.measure()
    assert len(meter.left_alone) == 1
    assert meter.before.nonfinite == 1
    assert not meter.after


def test_what_needs_the_whole_tensor_is_pulled(tmp_path):
    values = np.random.default_rng(0).standard_normal((400, 300)).astype("float32")
    for fields in ({"pattern": "2:4"}, {"cutoff": 1.0}, {"sparsity": 0.5, "block": (2, 2)}):
        assert applied(model_of(values, tmp_path), "prune", "magnitude", fields).stream() is None
    twice = applied(model_of(values, tmp_path), "prune", "magnitude", {"sparsity": 0.5})
    twice = twice.then(1, twice.edits[0].edit, twice.kinds)
    assert twice.stream() is None


def test_a_mask_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3000, 200)).astype("float32")
    values[rng.random(values.shape) < 0.5] = 0
    found = []
    for whole in (True, False):
        model = model_of(values, tmp_path, Sparse(), whole=whole)
        tensor = applied(model, "quantize", "linear", {"bits": 4})
        if whole:
            found.append(tensor.pull()[0])
        else:
            found.append(
                np.concatenate(
                    [tensor.stream().take(slice(i, i + 100)) for i in range(0, 3000, 100)]
                )
            )
    np.testing.assert_array_equal(*found)
    assert ((found[1] == 0) >= (values == 0)).all()


def test_a_file_that_ends_too_early_is_said(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones((3000, 1000), "float32")
    with h5py.File(path) as file:
        source = hdf5_values.source(file["x"], str(path))
        np.testing.assert_array_equal(source.flat(5, 3005), np.ones(3000, "float32"))
        with path.open("r+b") as raw:
            raw.truncate(6_000_000)
        with pytest.raises(InputError, match="ends too early"):
            source.flat(1_000_000, 2_000_000)
    with pytest.raises(InputError, match="the file is closed"):
        source.flat(0, 5)

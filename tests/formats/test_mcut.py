"""What is packed comes back bit for bit, and unpacks to the very file that a plain write makes."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zlib

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from toys import MODELS, dense, legacy

from modelcut import steps
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.formats.mcut import payload as mcut_payload
from modelcut.formats.mcut.coding import symbols
from modelcut.formats.mcut.coding.bits import ByteReader
from modelcut.formats.mcut.sink import Sink
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.model.encoding import Dense, Sparse
from modelcut.model.encodings.affine import Affine
from modelcut.model.encodings.binary import Binary
from modelcut.model.encodings.codebook import Codebook
from modelcut.recipe.recipe import Recipe

GOLDEN = sorted(path for path in MODELS.iterdir() if path.suffix in (".h5", ".keras"))
HISTORY = {"history": [{"modelcut": "x", "input_sha256": "0f" * 32}]}
CODERS = ("huffman", "range", "best")


def write(model, path, **options):
    path.unlink(missing_ok=True)
    return registry.for_output(path, model).write(model, path, WriteOptions(**options))


def there_and_back(values, encoding, coder="best"):
    file = io.BytesIO()
    sink = Sink(file)
    packed = mcut_payload.pack(values, encoding, coder, sink)
    payload = file.getvalue()
    assert (sink.length, sink.checksum) == (len(payload), zlib.crc32(payload))
    reader = ByteReader(payload)
    return mcut_payload.unpack(packed.record, reader, values.shape, values.dtype), payload


DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"]


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda name: nps.arrays(name, nps.array_shapes(min_dims=0, max_dims=4, min_side=0))
    ),
    st.sampled_from(CODERS),
)
def test_any_values_come_back(values, coder):
    (found, encoding), _ = there_and_back(values, Dense(), coder)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert found.tobytes() == values.tobytes()
    assert encoding == Dense()


def encodings(shape):
    """Of all kinds, their arrays fit for the shape."""
    rank = len(shape)
    ones = (1,) * rank
    channels = (*ones[:-1], shape[-1]) if rank else ()
    scales = [np.full(own, 0.25, "float32") for own in ((), ones, channels)]
    inner = [Dense(), Dense("float16"), Dense("bfloat16")]
    inner += [Affine(4, scale) for scale in scales]
    inner += [Affine(3, scale, np.full(scale.shape, 2, "int32")) for scale in scales]
    inner += [Binary(np.stack([scale, scale / 4])) for scale in scales]
    inner += [Codebook(np.array([-1, -0.5, 0.25, 2], "float32"))]
    inner += [Codebook(np.linspace(-1, 1, 256, dtype="float32"))]
    if rank and shape[0]:
        groups = (-(-shape[0] // 2), *ones[1:])
        inner += [
            Affine(4, np.linspace(0.1, 1, groups[0], dtype="float32").reshape(groups), group=2)
        ]
    return [*inner, *map(Sparse, inner)]


SHAPES = [(), (1,), (7,), (0,), (0, 3), (5, 4), (3, 3, 2, 4), (40, 30)]
STRANGE = [np.nan, np.inf, -np.inf, -0.0, 1e-42]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_encoding_comes_back_also_where_it_does_not_hold(shape, dtype):
    rng = np.random.default_rng(0)
    for number, encoding in enumerate(encodings(shape)):
        plain = np.where(rng.random(shape) < 0.4, rng.normal(size=shape), 0).astype(dtype)
        with np.errstate(all="ignore"):
            # Encodings are of rows; a scalar has none.
            held = encoding.project(plain).astype(dtype) if shape else np.asarray(plain)
            held = np.require(held, requirements="C")
        odd = held.copy()
        if odd.size:
            odd.reshape(-1)[0] = STRANGE[number % len(STRANGE)]
        for values in (held, odd, np.full(shape, 0.5, dtype), np.zeros(shape, dtype)):
            (found, again), _ = there_and_back(values, encoding, CODERS[number % 3])
            assert found.tobytes() == values.tobytes(), encoding.label
            assert again.label == encoding.label
            assert again.kinds == encoding.kinds


def test_payloads_of_nan_survive():
    bits = np.array([0x7FC00001, 0xFFC0BEEF, 0x7F800001, 0x80000000, 0, 1], "uint32")
    values = np.tile(bits, 50).view("float32")
    for encoding in (Dense(), Sparse(), Sparse(Codebook(np.array([1.0], "float32")))):
        (found, _), _ = there_and_back(values, encoding)
        assert found.tobytes() == values.tobytes()


def test_bfloat16_comes_back():
    values = np.random.default_rng(0).normal(size=(9, 5)).astype(ml_dtypes.bfloat16)
    (found, _), _ = there_and_back(values, Dense())
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()


def test_large_tensors_are_cut_into_blocks(monkeypatch):
    monkeypatch.setattr(mcut_payload, "BLOCK_VALUES", 500)
    monkeypatch.setattr(mcut_payload, "_SMALL_BYTES", 0)
    rng = np.random.default_rng(0)
    values = np.where(rng.random((90, 20)) < 0.1, rng.integers(1, 4, (90, 20)), 0).astype("float32")
    scale = np.ones((1, 20), "float32")
    for encoding in (Dense(), Sparse(), Sparse(Affine(4, scale)), Affine(4, scale)):
        (found, _), _ = there_and_back(values, encoding)
        assert found.tobytes() == values.tobytes()


def test_what_is_pruned_or_shared_is_seen_without_an_encoding():
    rng = np.random.default_rng(0)
    shared = rng.choice(np.linspace(-1, 1, 16, dtype="float32"), 50_000)
    _, payload = there_and_back(shared, Dense())
    assert len(payload) < 50_000 * 4.1 / 8
    pruned = np.where(rng.random(50_000) < 0.02, rng.normal(size=50_000), 0).astype("float32")
    _, payload = there_and_back(pruned, Dense())
    assert len(payload) < 1000 * 4 + 50_000 * 0.15 / 8 + 200


def steps_for(path):
    if path.name.endswith("weights.h5"):
        return ()
    return (
        steps.find("prune", "magnitude")(sparsity=0.8),
        steps.find("quantize", "linear")(bits=4),
    )


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
@pytest.mark.parametrize("coder", CODERS)
def test_it_unpacks_to_the_file_that_a_plain_write_makes(path, coder, tmp_path):
    model = registry.open_model(path)
    direct, packed, back = (
        tmp_path / name for name in ("d" + path.suffix, "p.mcut", "b" + path.suffix)
    )
    write(model, direct, provenance=lambda: HISTORY)
    write(model, packed, provenance=lambda: HISTORY, coder=coder)
    again = registry.open_model(packed)
    assert again.origin.provenance == HISTORY
    write(again, back, provenance=lambda: again.origin.provenance)
    assert back.read_bytes() == direct.read_bytes()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_an_edited_model_comes_back(path, tmp_path):
    recipe = Recipe(steps_for(path))
    direct, packed = tmp_path / f"direct{path.suffix}", tmp_path / "x.mcut"
    pipeline.run(Job(path, recipe, direct, report=False))
    pipeline.run(Job(path, recipe, packed, report=False))
    one, two = registry.open_model(direct), registry.open_model(packed)
    kinds = {t.name: t.encoding.label for t in one.tensors}
    assert kinds == {t.name: t.encoding.label for t in two.tensors}
    for a, b in zip(one.tensors, two.tensors, strict=True):
        assert a.name == b.name
        assert a.pull()[0].tobytes() == b.pull()[0].tobytes()
    if one.architecture is not None:
        assert one.architecture.text == two.architecture.text
    assert packed.stat().st_size < direct.stat().st_size


def test_the_same_job_gives_the_same_bytes(tmp_path):
    for path in GOLDEN[:4]:
        model = registry.open_model(path)
        write(model, tmp_path / "a.mcut")
        write(registry.open_model(path), tmp_path / "b.mcut")
        assert (tmp_path / "a.mcut").read_bytes() == (tmp_path / "b.mcut").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mcut", "b.mcut"]


def test_what_other_tools_keep_in_the_file_comes_back(tmp_path):
    path = tmp_path / "in.h5"
    path.write_bytes((MODELS / "tf_keras_sequential.h5").read_bytes())
    with h5py.File(path, "a") as file:
        made = file.create_dataset(
            "meta/labels", data=np.arange(5), chunks=(2,), compression="gzip"
        )
        made.attrs["unit"] = "m"
        file["meta/names"] = ["a", "bc"]
        file["meta"].attrs["who"] = "another tool"
        file.attrs["custom"] = np.arange(3)
        file.attrs["flag"] = True
        file.attrs["empty"] = h5py.Empty("f4")
        file.attrs["words"] = np.array(["x", "yz"], object)
    direct, packed, back = (tmp_path / name for name in ("d.h5", "p.mcut", "b.h5"))
    write(registry.open_model(path), direct)
    write(registry.open_model(path), packed)
    write(registry.open_model(packed), back)
    assert back.read_bytes() == direct.read_bytes()
    with h5py.File(back) as out:
        np.testing.assert_array_equal(out["meta/labels"][()], np.arange(5))
        assert out.attrs["words"].tolist() == ["x", "yz"]


def test_the_optimizer_can_be_kept(tmp_path):
    model = registry.open_model(MODELS / "keras3_cnn.h5")
    written = write(model, tmp_path / "p.mcut")
    assert "optimizer state" in written.dropped[0]
    for path in (MODELS / "keras3_cnn.h5", MODELS / "keras3_cnn.keras"):
        model = registry.open_model(path)
        options = {"keep_optimizer": True}
        write(model, tmp_path / f"d{path.suffix}", **options)
        write(model, tmp_path / "p.mcut", **options)
        again = registry.open_model(tmp_path / "p.mcut")
        write(again, tmp_path / f"b{path.suffix}", **options)
        assert (tmp_path / f"b{path.suffix}").read_bytes() == (
            tmp_path / f"d{path.suffix}"
        ).read_bytes()


def test_it_may_go_over_to_another_format_as_the_original_may(tmp_path):
    for name in ("keras3_nested.h5", "tf_keras_cnn.h5"):
        write(registry.open_model(MODELS / name), tmp_path / "p.mcut")
        write(registry.open_model(tmp_path / "p.mcut"), tmp_path / "o.keras")
        assert registry.open_model(tmp_path / "o.keras").origin.format == "keras_zip"
    write(registry.open_model(MODELS / "keras3_cnn.weights.h5"), tmp_path / "p.mcut")
    packed = registry.open_model(tmp_path / "p.mcut")
    assert "bare weights" in registry.by_name("keras_zip").refusal(packed)


def test_little_is_spent_beyond_the_values(tmp_path):
    for path in GOLDEN:
        written = write(registry.open_model(path), tmp_path / "p.mcut", provenance=lambda: HISTORY)
        more = (tmp_path / "p.mcut").stat().st_size - sum(written.stored.values())
        assert more < 1000, path.name
    path = MODELS / "keras3_sequential.h5"
    written = write(registry.open_model(path), tmp_path / "p.mcut", provenance=lambda: HISTORY)
    assert (tmp_path / "p.mcut").stat().st_size - sum(written.stored.values()) < 400


def test_a_wholly_pruned_giant_pads_its_payload(tmp_path, monkeypatch):
    from modelcut.formats.mcut import container

    monkeypatch.setattr(container, "_FREE_BYTES", 1 << 20)
    config = {"class_name": "Sequential", "config": {"layers": [dense("d", 1000)]}}
    weights = {"d/kernel:0": np.zeros((1000, 1000), "float32"), "d/bias:0": np.zeros(1000, "f4")}
    legacy(tmp_path / "m.h5", {"d": weights}, config)
    write(registry.open_model(tmp_path / "m.h5"), tmp_path / "p.mcut")
    assert (tmp_path / "p.mcut").stat().st_size > 4_000_000 / 4096
    for tensor in registry.open_model(tmp_path / "p.mcut").tensors:
        assert not tensor.pull()[0].any()


VERSION_1 = "67afb3d6a1deeb76a40fcd37f16464b42fcbdb2286928b0f4cb8bf40d35d316d"
"""Names and values of the tensors in it, digested."""


BLOCKS = "5ba41f61ccabff5b2b1e571961bb5c3e9f80ec59a9b2b95d226d7373f0f6922a"


def test_a_file_of_version_1_still_reads(tmp_path):
    """Checked in when version 1 was made; it must read the same for ever."""
    model = registry.open_model(MODELS / "version1.mcut")
    whole = registry.open_model(MODELS / "keras3_cnn.h5")
    found = hashlib.sha256()
    for tensor in model.tensors:
        found.update(tensor.name.encode() + tensor.pull()[0].tobytes())
    assert found.hexdigest() == VERSION_1
    assert {tensor.encoding.label for tensor in model.tensors} == {"sparse, int4", "dense"}
    assert model.architecture.text == whole.architecture.text


@pytest.mark.parametrize(
    ("name", "digest", "kinds"),
    [("version1_blocks", BLOCKS, range(4)), ("version2_blocks", BLOCKS, range(5))],
)
def test_every_kind_of_block_still_reads(name, digest, kinds, monkeypatch):
    """Made by `make_mcut_files.py` when each version was; it must read the same for ever."""
    ways, blocks = set(), set()
    fill, decode = mcut_payload._fill, symbols.decode

    def seen(target, data, way, palette):
        ways.add(way)
        return fill(target, data, way, palette)

    def seen_too(data, *more):
        blocks.add(data[0])
        return decode(data, *more)

    monkeypatch.setattr(mcut_payload, "_fill", seen)
    monkeypatch.setattr(symbols, "decode", seen_too)
    found = hashlib.sha256()
    for tensor in registry.open_model(MODELS / f"{name}.mcut").tensors:
        found.update(tensor.name.encode() + tensor.pull()[0].tobytes())
    assert found.hexdigest() == digest
    assert ways == {0, 1, 2}, "codes (3) are in version1.mcut"
    assert blocks == set(kinds)


@pytest.mark.parametrize("kept", [False, True])
def test_unpack_gives_back_the_optimizer_that_was_packed(kept, modelcut, tmp_path):
    path, packed = MODELS / "keras3_cnn.h5", tmp_path / "p.mcut"
    flags = ["--keep-optimizer"] if kept else []
    assert modelcut("pack", path, "-o", packed, "-q", *flags).code == 0
    assert modelcut("unpack", packed, "-o", tmp_path / "b.h5", "-q").code == 0
    with h5py.File(path) as before, h5py.File(tmp_path / "b.h5") as after:
        assert "optimizer_weights" in before
        assert ("optimizer_weights" in after) == kept
    # Another format cannot hold it: it is left out and that is said.
    said = modelcut("unpack", packed, "-o", tmp_path / "b.keras", "--json")
    assert said.code == 0, said
    assert bool(json.loads(said.out)["output"]["dropped"]) == kept


def test_the_commands(modelcut, tmp_path):
    path = MODELS / "keras3_cnn.h5"
    packed, back = tmp_path / "p.mcut", tmp_path / "b.h5"
    said = modelcut("pack", path, "-o", packed, "--json", "--coder", "huffman")
    assert said.code == 0, said.err
    report = json.loads(said.out)
    assert report["output"]["format"] == "mcut"
    assert report["output"]["bytes"] == packed.stat().st_size
    assert report["ledger"][-1]["stage"].startswith("coded: ")
    stored = [t["stored_bytes"] for layer in report["layers"] for t in layer["tensors"]]
    assert sum(stored) == report["ledger"][-1]["bytes"] == report["sizes"]["after"]["stored_bytes"]
    assert {t["coder"] for layer in report["layers"] for t in layer["tensors"]} <= {
        "zstd", "huffman", "range", "context", "constant"
    }  # fmt: skip
    assert modelcut("pack", path, "-o", packed).code == 0, "what modelcut wrote, it may replace"
    assert modelcut("unpack", packed, "-o", back).code == 0
    assert modelcut("unpack", packed, "-o", back).code == 0
    said = modelcut("inspect", packed)
    assert "mcut, packed hdf5" in said.out
    assert modelcut("prune", packed, "--sparsity", "0.5", "-o", tmp_path / "q.mcut").code == 0
    said = modelcut("prune", path, "--sparsity", "0.9", "-o", packed, "--max-bytes", "10B", "-q")
    assert said.code in (1, 2)
    assert modelcut("pack", path, "-o", packed, "--min-ratio", "900", "-q").code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pack", "M"), "no output named"),
        (("pack", "M", "-o", "x.h5"), "`modelcut pack` does not write this format"),
        (("unpack", "M", "-o", "x.mcut"), "`modelcut unpack` does not write this format"),
        (("pack", "M", "-o", "x.mcut", "--coder", "zip"), "is not huffman, range or best"),
        (
            ("prune", "M", "--sparsity", "0.5", "-o", "x.h5", "--coder", "best"),
            "is not a packed file",
        ),
        (
            ("prune", "M", "--sparsity", "0.5", "-o", "x.mcut", "--compression", "fast"),
            "has coders of its own",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, words, modelcut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [str(MODELS / "keras3_sequential.h5") if a == "M" else a for a in arguments]
    said = modelcut(*named)
    assert said.code == 2
    assert words in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["keras3_cnn.h5", "tf_keras_text.h5", "keras3_nested.keras"])
def test_it_loads_into_keras_and_evaluates(name, tmp_path):
    import modelcut

    write(registry.open_model(MODELS / name), tmp_path / "p.mcut")
    recorded = np.load(MODELS / f"{name.split('.')[0]}.npz")
    found = modelcut.load(tmp_path / "p.mcut")
    output = np.asarray(found(recorded["input_0"], training=False))
    np.testing.assert_allclose(output, recorded["output_0"], rtol=1e-4, atol=1e-5)


def test_images_of_strange_objects_are_small(tmp_path):
    """HDF5 in HDF5 is for what is no tensor only."""
    write(registry.open_model(MODELS / "keras3_cnn.h5"), tmp_path / "p.mcut")
    assert b"OHDR" not in io.BytesIO((tmp_path / "p.mcut").read_bytes()).getvalue()


@pytest.mark.parametrize("name", ["tf_keras_cnn.keras", "tf_keras_cnn.weights.h5"])
def test_the_same_bytes_a_second_later(name, tmp_path):
    """HDF5 stamps objects with the time of the system, in whole seconds."""
    path, packed = MODELS / name, []
    for number in range(2):
        out = tmp_path / f"{number}.mcut"
        pipeline.run(Job(path, Recipe(()), out, report=False))
        packed.append(out.read_bytes())
        time.sleep(1.1 * (1 - number))
    assert packed[0] == packed[1]

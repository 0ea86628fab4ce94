"""SavedModels: what is read out of a graph, and that only the weights change."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import contents, saved_model

from modelcut import steps
from modelcut.errors import InputError, RecipeError, UsageError
from modelcut.formats import registry
from modelcut.formats.saved_model import bundle as saved_model_bundle
from modelcut.formats.saved_model import fingerprint, sstable
from modelcut.formats.saved_model.proto import Message, ProtoError
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.model.encoding import Sparse
from modelcut.model.encodings.affine import Affine
from modelcut.recipe.recipe import Recipe

KINDS = ["keras3", "tf_keras", "module", "v1"]

ROLES = {
    "keras3": {
        "sequential/conv2d/kernel": ("kernel", 3, 2),
        "sequential/conv2d/bias": ("bias", None, None),
        "sequential/batch_normalization/gamma": ("norm", None, None),
        "sequential/batch_normalization/beta": ("norm", None, None),
        "sequential/batch_normalization/moving_mean": ("state", None, None),
        "sequential/batch_normalization/moving_variance": ("state", None, None),
        "sequential/depthwise_conv2d/kernel": ("kernel", 2, None),
        "sequential/depthwise_conv2d/bias": ("bias", None, None),
        "sequential/dense/kernel": ("kernel", 1, 0),
        "sequential/dense/bias": ("bias", None, None),
    },
    "tf_keras": {
        "wide/kernel": ("kernel", 1, 0),
        "wide/bias": ("bias", None, None),
        "norm/gamma": ("norm", None, None),
        "norm/beta": ("norm", None, None),
        "norm/moving_mean": ("state", None, None),
        "norm/moving_variance": ("state", None, None),
        "inside/hidden/kernel": ("kernel", 1, 0),
        "inside/hidden/bias": ("bias", None, None),
        "end/kernel": ("kernel", 1, 0),
        "end/bias": ("bias", None, None),
    },
    "module": {
        "rows/embeddings": ("embedding", 1, None),
        "one/kernel": ("kernel", 1, 0),
        "two/kernel": ("kernel", 0, 1),
        "three/kernel": ("kernel", 2, 0),
        "filters/kernel": ("kernel", 2, 1),
        "shift/bias": ("bias", None, None),
        "centre/value": ("other", None, None),
        "spread/value": ("other", None, None),
        "idle/value": ("state", None, None),
    },
    "v1": {
        "dense/kernel": ("kernel", 1, 0),
        "dense/bias": ("bias", None, None),
        "norm/moving_mean": ("state", None, None),
        "norm/moving_variance": ("state", None, None),
        "norm/beta": ("norm", None, None),
        "norm/gamma": ("norm", None, None),
        "out/w": ("kernel", 1, 0),
    },
}


@pytest.fixture(params=KINDS)
def golden(request, tmp_path):
    return saved_model(request.param, tmp_path)


def run(path, out, *made, **more):
    pipeline.run(Job(path, Recipe(made), out, report=False, **more))
    return registry.open_model(out)


def prune(**fields):
    return steps.find("prune", "magnitude")(**fields)


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def shard(folder):
    return folder / "variables" / "variables.data-00000-of-00001"


def test_what_the_variables_are(golden):
    model = registry.open_model(golden)
    assert {t.name: (t.kind, t.out_axis, t.in_axis) for t in model.tensors} == ROLES[golden.name]
    assert model.origin.dialect == "saved_model"
    assert not model.origin.warnings


def test_without_a_step_nothing_changes_but_the_storage(golden, tmp_path):
    out = tmp_path / "out"
    again = run(golden, out, prune(threshold=0.0), keep_optimizer=True)
    for one, two in zip(registry.open_model(golden).tensors, again.tensors, strict=True):
        assert one.name == two.name
        assert one.pull()[0].tobytes() == two.pull()[0].tobytes()
    assert files(out) - files(golden) == {"assets.extra/modelcut.json"}
    same = files(golden) if golden.name != "keras3" else files(golden) - {
        "fingerprint.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"
    }  # fmt: skip
    assert filecmp.cmpfiles(golden, out, same, shallow=False)[0] == list(same)


def test_weights_that_are_stored_twice_are_stored_once(tmp_path):
    golden = saved_model("keras3", tmp_path)
    run(golden, tmp_path / "out", prune(sparsity=0.5))
    old = saved_model_bundle.Bundle(golden / "variables" / "variables", "old")
    new = saved_model_bundle.Bundle(tmp_path / "out" / "variables" / "variables", "new")
    assert new.entries.keys() == old.entries.keys()
    weights = sum(e.size for e in old.entries.values() if e.plain) // 2
    # More is saved: biases that are still all zero share a place too.
    assert shard(golden).stat().st_size - shard(tmp_path / "out").stat().st_size >= weights
    kernel, copy = (entry for entry in new.entries.values() if entry.shape == (27, 4))
    assert (kernel.offset, kernel.shape) == (copy.offset, copy.shape)
    assert np.count_nonzero(new.read(copy) == 0) > 0.3 * 27 * 4


def test_the_fingerprint_is_that_of_the_new_checkpoint(tmp_path):
    golden = saved_model("tf_keras", tmp_path)
    run(golden, tmp_path / "out", prune(sparsity=0.5))

    def hashes(folder):
        message = Message((folder / "fingerprint.pb").read_bytes())
        return {number: message.integer(number) for number in range(1, 6)}

    old, new = hashes(golden), hashes(tmp_path / "out")
    # TensorFlow wrote the old ones, so this holds our hash against its own.
    for folder, found in ((golden, old), (tmp_path / "out", new)):
        index = (folder / "variables" / "variables.index").read_bytes()
        assert found[5] == fingerprint.hash64(index)
    assert new[5] != old.pop(5)
    assert old.items() <= new.items()


def test_statistics_are_never_pruned(golden, tmp_path):
    before = {t.name: t.pull()[0] for t in registry.open_model(golden).tensors}
    for tensor in run(golden, tmp_path / "out", prune(sparsity=0.9)).tensors:
        changed = tensor.pull()[0].tobytes() != before[tensor.name].tobytes()
        assert changed == (tensor.kind == "kernel")


def test_the_optimizer_is_left_out_unless_it_is_asked_for(tmp_path):
    golden = saved_model("tf_keras", tmp_path)
    run(golden, tmp_path / "out", prune(sparsity=0.1))
    run(golden, tmp_path / "kept", prune(sparsity=0.1), keep_optimizer=True)
    slots = {}
    for name in ("tf_keras", "out", "kept"):
        bundle = saved_model_bundle.Bundle(tmp_path / name / "variables" / "variables", name)
        slots[name] = [
            bundle.read(entry)
            for entry in bundle.entries.values()
            if entry.name.startswith("optimizer/_variables/")
        ]
    assert len(slots["tf_keras"]) == len(slots["out"]) == 16
    assert not any(values.any() for values in slots["out"])
    for one, two in zip(slots["tf_keras"], slots["kept"], strict=True):
        np.testing.assert_array_equal(one, two)
    assert shard(tmp_path / "out").stat().st_size < shard(tmp_path / "kept").stat().st_size - 700


def test_what_the_graph_reads_keeps_its_type(tmp_path):
    golden = saved_model("module", tmp_path)
    again = run(golden, tmp_path / "out", steps.find("quantize", "float16")())
    for tensor in again.tensors:
        values = tensor.pull()[0]
        assert values.dtype == np.float32
        if tensor.kind == "kernel":
            np.testing.assert_array_equal(values, values.astype("float16"))


def test_encodings_and_the_recipe_are_known_again(tmp_path):
    golden = saved_model("v1", tmp_path)
    made = (prune(sparsity=0.5), steps.find("quantize", "linear")(bits=4))
    again = run(golden, tmp_path / "out", *made)
    kernel = next(t for t in again.tensors if t.name == "dense/kernel")
    assert isinstance(kernel.encoding, Sparse)
    assert isinstance(kernel.encoding.inner, Affine)
    history = again.origin.provenance["history"]
    assert history[0]["recipe"]["steps"][0]["prune"] == "magnitude"
    run(tmp_path / "out", tmp_path / "twice", prune(sparsity=0.6))
    assert len(registry.open_model(tmp_path / "twice").origin.provenance["history"]) == 2


def test_the_same_job_gives_the_same_bytes(golden, tmp_path):
    for name in ("one", "two"):
        run(golden, tmp_path / name, prune(sparsity=0.5))
    found = filecmp.cmpfiles(
        tmp_path / "one", tmp_path / "two", files(tmp_path / "one"), shallow=False
    )
    assert not found[1]
    assert not found[2]


def test_keras_2_goes_over_to_h5(tmp_path):
    golden = saved_model("tf_keras", tmp_path)
    again = run(golden, tmp_path / "out.h5", prune(sparsity=0.5))
    assert again.origin.dialect == "keras2"
    assert {t.name for t in again.tensors} == set(ROLES["tf_keras"])
    with h5py.File(tmp_path / "out.h5") as file:
        config = json.loads(file.attrs["training_config"])
        assert config["loss"] == "sparse_categorical_crossentropy"
        assert list(file["model_weights/wide"].attrs["weight_names"]) == [
            b"wide/kernel:0",
            b"wide/bias:0",
        ]


def test_a_graph_keeps_its_layers(tmp_path):
    svd = steps.find("factorize", "svd")(rank=1)
    keras2 = saved_model("tf_keras", tmp_path)
    with pytest.raises(UsageError, match=r"step 1, factorize: svd: .*write it, and pack that"):
        run(keras2, tmp_path / "out.mcut", svd)
    again = run(keras2, tmp_path / "out.h5", svd)
    assert "inside/hidden_factor/kernel" in {tensor.name for tensor in again.tensors}
    with pytest.raises(UsageError, match="no architecture"):
        run(saved_model("module", tmp_path), tmp_path / "no.h5", prune(sparsity=0.5))
    with pytest.raises(RecipeError, match="architecture"):
        run(saved_model("keras3", tmp_path), tmp_path / "out", svd)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.mcut").exists()


def test_what_a_folder_may_replace(tmp_path, modelcut):
    golden = saved_model("v1", tmp_path)
    out = tmp_path / "out"

    def call(place, *more):
        return modelcut("prune", golden, "--sparsity", "0.5", "-o", place, "-q", *more)

    out.mkdir()
    assert call(out).code == 0  # an empty one holds nothing to lose
    assert call(out).code == 0  # modelcut wrote it
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").write_text("dear")
    assert "other files" in call(tmp_path / "other", "--force").err
    assert (tmp_path / "other" / "letters.txt").read_text() == "dear"
    foreign = saved_model("module", tmp_path)
    assert "did not write" in call(foreign).err
    assert "is inside the input" in call(golden / "inside").err
    assert "contains the input" in call(tmp_path, "--force").err
    assert "is the input" in call(golden).err
    before = shard(golden).read_bytes()
    assert modelcut("prune", golden, "--sparsity", "0.5", "--in-place", "-q").code == 0
    assert shard(golden).read_bytes() != before
    assert call(foreign, "--force").code == 0
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path, monkeypatch):
    golden = saved_model("v1", tmp_path)
    run(golden, tmp_path / "out", prune(sparsity=0.5))
    before = shard(tmp_path / "out").read_bytes()
    real = pipeline.Outputs.publish.__globals__["os"].rename
    calls = []

    def rename(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("modelcut.job.outputs.os.rename", rename)
    with pytest.raises(OSError, match="No space"):
        run(golden, tmp_path / "out", prune(sparsity=0.9))
    assert shard(tmp_path / "out").read_bytes() == before
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_tensorflows_own_tables_are_written_to_the_byte(golden):
    raw = (golden / "variables" / "variables.index").read_bytes()
    assert sstable.write(sstable.read(raw)) == raw


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.binary(max_size=40), st.binary(max_size=60), max_size=60),
    st.integers(0, 3),
)
def test_tables_of_any_keys(entries, large):
    rows = sorted(entries.items())
    rows += [(b"\xff" * 41 + bytes([i]), bytes(300_000)) for i in range(large)]
    assert sstable.read(sstable.write(rows)) == rows


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data):
    try:
        message = Message(data)
        for number in range(1, 8):
            message.integers(number)
            message.messages(number)
    except ProtoError:
        pass


def test_shards_of_several_files_become_one(tmp_path):
    """As a distributed save leaves them."""
    golden = saved_model("v1", tmp_path)
    prefix = golden / "variables" / "variables"
    bundle = saved_model_bundle.Bundle(prefix, "v1")
    data, rows = {0: b"", 1: b""}, []
    for index, entry in enumerate(bundle.entries.values()):
        number = index % 2
        moved = replace(entry, shard=number, offset=len(data[number]))
        data[number] += b"".join(bundle.pieces(entry))
        rows.append((entry.key, saved_model_bundle.packed(moved)))
    header = b"\x08\x02" + bundle.header[2:]
    shard(golden).unlink()
    for number, content in data.items():
        saved_model_bundle.shard_path(prefix, number, 2).write_bytes(content)
    (golden / "variables" / "variables.index").write_bytes(sstable.write([(b"", header), *rows]))
    before = {t.name: t.pull()[0] for t in registry.open_model(golden).tensors}
    again = run(golden, tmp_path / "out", prune(threshold=0.0))
    for tensor in again.tensors:
        np.testing.assert_array_equal(tensor.pull()[0], before[tensor.name])
    assert shard(tmp_path / "out").exists()


def test_a_flipped_bit_in_the_weights_is_noticed(golden):
    data = bytearray(shard(golden).read_bytes())
    data[40] ^= 4
    shard(golden).write_bytes(data)
    with pytest.raises(InputError, match="checksum"):
        run(golden, golden.parent / "out", prune(sparsity=0.5))


def test_edits_are_the_same_bytes_in_every_process(tmp_path):
    """The order of sets differs between processes: nothing may be written in it."""
    for kind in KINDS:
        saved_model(kind, tmp_path)
    call = (
        "import sys; from pathlib import Path; from modelcut import steps\n"
        "from modelcut.job import pipeline\n"
        "from modelcut.job.request import Job; from modelcut.recipe.recipe import Recipe\n"
        "prune = steps.find('prune', 'magnitude')(sparsity=0.5)\n"
        "share = steps.find('quantize', 'cluster')(bits=3)\n"
        f"for kind in {KINDS!r}:\n"
        "    for suffix in ('', '.tar.gz', '.zip', '.mcut'):\n"
        "        out = Path(sys.argv[1]) / (kind + suffix)\n"
        "        pipeline.run(Job(Path(kind), Recipe((prune, share)), out, report=False))\n"
    )
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        subprocess.run(
            [sys.executable, "-c", call, seed],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
    assert len(list((tmp_path / "1").iterdir())) == 4 * len(KINDS)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_random_name_gives_way_to_one_of_the_hashes(tmp_path):
    old = (saved_model("keras3", tmp_path) / "fingerprint.pb").read_bytes()
    new = fingerprint.renamed(old)
    before, after = Message(old), Message(new)
    assert [before.integer(n) for n in range(1, 6)] == [after.integer(n) for n in range(1, 6)]
    assert before.text(7) != after.text(7)
    assert after.text(7).isdigit()
    assert fingerprint.renamed(new) == new

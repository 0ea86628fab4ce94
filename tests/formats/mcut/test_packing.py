"""A tensor that is packed block by block becomes the same bytes as one that is in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from toys import dense, legacy

from modelcut import steps
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.formats.keras import hdf5_values
from modelcut.formats.mcut import payload
from modelcut.formats.mcut.coding import raw
from modelcut.model.encodings.codebook import Codebook
from modelcut.model.model import Tensor
from modelcut.model.stream import Stream
from modelcut.steps.base import Context

SHAPE = (120, 100)
EDITS = {
    "as it is": None,
    "pruned": ("prune", "magnitude", {"sparsity": 0.9}),
    "clustered": ("quantize", "cluster", {"bits": 4}),
    "8 bits": ("quantize", "linear", {"bits": 8}),
    "halves": ("quantize", "float16", {}),
}


def drawn(name):
    rng = np.random.default_rng(5)
    values = rng.standard_normal(SHAPE, np.float32)
    if name == "sparse":
        values[rng.random(SHAPE) < 0.3] = 0
    if name == "few":
        values = np.round(values)
    if name == "few at first":
        values[:70] = np.round(values[:70])
    return values


@pytest.fixture
def small_blocks(monkeypatch):
    """All that is large otherwise is so from the first byte."""
    monkeypatch.setattr(hdf5_values, "_LARGE_BYTES", 0)
    monkeypatch.setattr(payload, "_SMALL_BYTES", 0)
    monkeypatch.setattr(payload, "BLOCK_VALUES", 3000)


def edited(path, edit):
    model = registry.open_model(path)
    if edit is None:
        return model
    family, method, fields = edit
    context = Context(index=0, seed=0, say=lambda _: None, runtime=None)
    return steps.find(family, method)(**fields).apply(model, context).model


def written(path, values):
    config = {
        "class_name": "Sequential",
        "config": {"layers": [dense("d", values.shape[1], use_bias=False)]},
    }
    legacy(path, {"d": {"d/kernel:0": values}}, config)
    return path


def packed(model, path):
    registry.by_name("mcut").write(model, path, WriteOptions())
    return path.read_bytes()


CASES = [
    *((edit, kind) for edit in EDITS for kind in ("normal", "few at first")),
    ("as it is", "sparse"),
    ("as it is", "few"),
    ("clustered", "sparse"),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_stream_becomes_the_same_bytes(name, kind, tmp_path, small_blocks, monkeypatch):
    values, edit = drawn(kind), EDITS[name]
    path = written(tmp_path / "m.h5", values)
    streamed = 0
    begin = Tensor.stream

    def seen(tensor, meter=None):
        nonlocal streamed
        found = begin(tensor, meter)
        streamed += isinstance(found, Stream)
        return found

    monkeypatch.setattr(Tensor, "stream", seen)
    found = packed(edited(path, edit), tmp_path / "s.mcut")
    assert streamed
    monkeypatch.setattr(Tensor, "stream", lambda tensor, meter=None: None)
    assert found == packed(edited(path, edit), tmp_path / "p.mcut")
    if edit is None:
        again = registry.open_model(tmp_path / "s.mcut")
        assert next(again.tensors).pull()[0].tobytes() == values.tobytes()


def test_codes_that_do_not_hold_to_the_end_are_dropped(tmp_path, small_blocks, monkeypatch):
    """What was written of the way that fails is not left in the file."""
    values = np.linspace(-1, 1, 16, dtype="f4")[np.random.default_rng(0).integers(0, 16, SHAPE)]
    book = Codebook(np.linspace(-1, 1, 16, dtype="f4"))
    values[-1, -1] = 0.123
    path = written(tmp_path / "m.h5", values)
    begin = Tensor.stream

    def coded(tensor, meter=None):
        found = begin(tensor, meter)
        if found is not None:
            found.encoding = book
        return found

    monkeypatch.setattr(Tensor, "stream", coded)
    packed(registry.open_model(path), tmp_path / "s.mcut")
    again, encoding = next(registry.open_model(tmp_path / "s.mcut").tensors).pull()
    assert again.tobytes() == values.tobytes()
    assert encoding.kinds == ("codebook",)


def test_neither_values_nor_payload_are_in_memory_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "BLOCK_VALUES", 1 << 17)
    monkeypatch.setattr(raw, "_LARGE", 0)
    values = np.random.default_rng(0).standard_normal((4096, 2048), np.float32)
    nbytes = values.nbytes
    path = written(tmp_path / "m.h5", values)
    del values
    with registry.open_model(path) as model:
        tracemalloc.start()
        packed_size = len(packed(model, tmp_path / "p.mcut"))
        del model
        _, most = tracemalloc.get_traced_memory()
        # `packed` itself reads the whole file in the end.
        assert most < packed_size + nbytes / 4
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        again = registry.open_model(tmp_path / "p.mcut")
        _, opened = tracemalloc.get_traced_memory()
        found = next(again.tensors).pull()[0]
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert opened - before < nbytes / 4
    assert most - before < 1.3 * nbytes
    assert found.nbytes == nbytes

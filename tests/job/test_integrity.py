"""`modelcut verify`: damage that the format itself does not tell."""

from __future__ import annotations

import json

import h5py
import pytest
from toys import MODELS

import modelcut as package

MODEL = MODELS / "keras3_cnn.h5"


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("compression", ["none", "fast"])
def test_what_modelcut_writes_matches(suffix, compression, tmp_path):
    out = tmp_path / f"o{suffix}"
    package.quantize(MODEL, out, bits=4, compression=compression)
    found = package.verify(out)
    assert found.sound
    assert found.matched == found.tensors > 0
    again = tmp_path / f"again{suffix}"
    package.pack(out, tmp_path / "p.mcut")
    packed = package.verify(tmp_path / "p.mcut")
    assert packed.sound
    assert packed.checksums
    package.unpack(tmp_path / "p.mcut", again)
    found = package.verify(again)
    assert found.matched == found.tensors


def test_a_changed_value_is_named(tmp_path, modelcut):
    out = tmp_path / "o.h5"
    package.prune(MODEL, out, sparsity=0.1, compression="none")
    with h5py.File(out, "a") as file:
        places = []
        file["model_weights"].visititems(
            lambda name, item: places.append(name) if isinstance(item, h5py.Dataset) else None
        )
        values = file["model_weights"][places[0]][()]
        values.reshape(-1)[0] += 1
        file["model_weights"][places[0]][...] = values
    said = modelcut("verify", out, "--json")
    assert said.code == 2, said
    found = json.loads(said.out)
    assert [one["what"] for one in found["damaged"]] == ["does not match its checksum"]
    assert found["matched"] == found["tensors"] - 1
    assert modelcut("verify", out).out.count("\n") == 2


def test_a_file_without_checksums_says_so(modelcut):
    said = modelcut("verify", MODEL)
    assert said.code == 0
    assert "nothing: neither" in said.out
    said = modelcut("verify", MODELS / "keras3_cnn.keras")
    assert "told by the CRC-32" in said.out

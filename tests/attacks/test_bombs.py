"""Files that are small, and become large: graphs that multiply, archives, configurations."""

from __future__ import annotations

import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from test_hdf5 import config, model
from test_keras_zip import GOOD, members, rezip
from toys import MODELS, dense

from modelcut import safety


def _input(name):
    return {
        "class_name": "InputLayer",
        "config": {"name": name, "batch_input_shape": [None, 4], "dtype": "float32"},
        "name": name,
        "inbound_nodes": [],
    }


def diamond(path, depth):
    """Each submodel calls the one inside it twice: 2^depth calls of one layer."""
    inner = {**dense("d0", 4), "name": "d0", "inbound_nodes": [[["i0", 0, 0, {}]]]}
    layers, last = [_input("i0"), inner], ["d0", 0, 0]
    for level in range(depth + 1):
        name = f"m{level}"
        graph = {"name": name, "layers": layers, "output_layers": [last]}
        made = {"class_name": "Functional", "name": name, "config": graph}
        graph["input_layers"] = [[f"i{level}", 0, 0]]
        if level == depth:
            break
        given = f"i{level + 1}"
        made["inbound_nodes"] = [[[given, 0, 0, {}]], [[name, 1, 0, {}]]]
        layers, last = [_input(given), made], [name, 2, 0]
    top = layers[1]["config"]["name"] if depth else "d0"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(made), "2.12.0"
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"i%d" % depth, top.encode()]
        root.create_group(f"i{depth}").attrs["weight_names"] = np.zeros(0, "S1")
        group = root.create_group(top)
        group.attrs["weight_names"] = [b"d0/kernel:0", b"d0/bias:0"]
        group["d0/kernel:0"], group["d0/bias:0"] = np.eye(4, dtype="f4"), np.zeros(4, "f4")
    return path


@pytest.mark.parametrize("depth", [30, 60])
def test_submodels_that_multiply(depth, tmp_path, refused, modelcut):
    path = diamond(tmp_path / "m.h5", depth)
    refused(path, 2, words="calls are run")
    assert modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5").code == 0


def test_submodels_that_are_shared_a_few_times_run(tmp_path, rows, modelcut):
    assert modelcut("eval", diamond(tmp_path / "m.h5", 3), "--test", rows).code == 0


def test_more_members_than_any_model_has(tmp_path, refused):
    extra = [(f"assets/{number}", b"") for number in range(20_001)]
    refused(rezip(tmp_path / "m.keras", [*members().items(), *extra]), 2, words="20000 files")


def test_assets_that_expand_without_end(tmp_path, refused):
    path = tmp_path / "m.keras"
    shutil.copyfile(GOOD, path)
    piece = bytes(1 << 20)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("assets/zeros.txt", "w", force_zip64=True) as member,
    ):
        for _ in range(1060):
            member.write(piece)
    refused(path, 2, words="expands from")


def test_a_member_is_copied_a_piece_at_a_time(tmp_path, modelcut):
    data = np.random.default_rng(0).bytes(3 << 20)
    path = rezip(tmp_path / "m.keras", [*members().items(), ("assets/words.bin", data)])
    assert modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.keras").code == 0
    with zipfile.ZipFile(tmp_path / "o.keras") as archive:
        assert archive.read("assets/words.bin") == data


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x" * (33 << 20), "larger than 32 MiB"),
        ([[]] * 400_001, "more objects"),
        ([0] * 1_000_001, "more objects"),
    ],
    ids=["text", "objects", "numbers"],
)
def test_configurations_larger_than_any(value, words, tmp_path, refused):
    layers = config()
    layers["config"]["layers"][1]["config"]["junk"] = value
    text = json.dumps(layers, separators=(",", ":"))
    path = rezip(tmp_path / "m.keras", [(n, d) for n, d in members().items() if n != "config.json"])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", text)
    refused(path, 2, words=words)


def test_more_memory_allows_more():
    text = "[" + ",".join(["0"] * 1_000_002) + "]"
    with pytest.raises(Exception, match="more objects"):
        safety.load_json(text, where="m", what="w")
    safety.allow(16 << 30)
    try:
        assert len(safety.load_json(text, where="m", what="w")) == 1_000_002
    finally:
        safety.allow(None)


def test_a_key_that_stands_twice(tmp_path, refused):
    path = model(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = text.replace('"units": 8', '"units": 8, "units": 8')
    refused(path, 2, words="stands twice")


def test_a_network_that_needs_more_than_may_be_taken(tmp_path, modelcut, rows, in_one_line):
    path = model(tmp_path / "m.h5", config(dense("d1", 8), dense("d2", 3)))
    said = modelcut("eval", path, "--test", rows, "--max-memory", "much")
    in_one_line(said, 2, words="--max-memory")
    layers = config(dense("d1", 8), {"class_name": "RepeatVector", "config": {"n": 1 << 23}})
    layers["config"]["layers"][1]["config"]["name"] = "again"
    wide = model(tmp_path / "w.h5", layers, {"d1": {"w/kernel:0": (4, 8), "w/bias:0": (8,)}})
    said = modelcut("eval", wide, "--test", rows, "--max-memory", "200MB")
    in_one_line(said, 2, words="one sample takes 0.268 GB")


@pytest.mark.parametrize("position", range(8))
def test_a_flipped_bit_in_the_weights_is_noticed(position, tmp_path, refused):
    """They are read in place, so that nothing but the archive's checksum tells."""
    raw = bytearray((MODELS / "keras3_cnn.keras").read_bytes())
    with zipfile.ZipFile(MODELS / "keras3_cnn.keras") as archive:
        info = archive.getinfo("model.weights.h5")
    assert info.compress_type == zipfile.ZIP_STORED
    start = info.header_offset + 30 + len(info.filename)
    raw[start + int((position + 0.5) * info.file_size / 8)] ^= 1 << position
    path = tmp_path / "m.keras"
    path.write_bytes(raw)
    refused(path, 2)


@pytest.mark.parametrize("units", [3.0, 8.5, "8", True])
def test_sizes_of_layers_that_are_no_whole_numbers(units, tmp_path, modelcut, rows, in_one_line):
    layers = config(dense("d1", 8), dense("d2", 3))
    layers["config"]["layers"][1]["config"]["units"] = units
    path = model(tmp_path / "m.h5", layers)
    in_one_line(modelcut("eval", path, "--test", rows), 2)

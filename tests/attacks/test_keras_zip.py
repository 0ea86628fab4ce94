"""`.keras` archives that climb out of themselves, lie about sizes, or carry code."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import h5py
import numpy as np
import pytest
from toys import MODELS

GOOD = MODELS / "keras3_sequential.keras"


def members():
    with zipfile.ZipFile(GOOD) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def with_config(path, change):
    parts = members()
    config = json.loads(parts["config.json"])
    change(config["config"]["layers"])
    parts["config.json"] = json.dumps(config)
    return rezip(path, parts.items())


def with_weights(path, change):
    parts = members()
    spool = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(spool, "a") as file:
        change(file)
    parts["model.weights.h5"] = spool.getvalue()
    return rezip(path, parts.items())


def _layer(**fields):
    def change(layers):
        layers[-1]["config"].update(fields)

    return change


def _function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def _lambda(function):
    return lambda layers: layers.append(
        {
            "module": "keras.layers",
            "class_name": "Lambda",
            "config": {"name": "l", "function": function},
        }
    )


RUNS = {
    "lambda as activation": _layer(
        activation={"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}
    ),
    "a function beside the model": _layer(activation=_function("mc_sidecar", "run")),
    "a class beside the model": lambda layers: layers[-1].update(module="mc_sidecar"),
    "Popen": _lambda(_function("subprocess", "Popen")),
    "enable_unsafe": _layer(
        activation=_function("keras.config", "enable_unsafe_deserialization")
    ),
    "get_file": _lambda(_function("keras.utils", "get_file")),
    "set_floatx": _lambda(_function("keras.config", "set_floatx")),
    "legacy deserialize": _lambda(_function("keras.utils.legacy", "deserialize_keras_object")),
    "TFSMLayer": lambda layers: layers.append(
        {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"name": "t", "filepath": "planted"},
        }
    ),
    "typespec": _layer(
        activation={"class_name": "__typespec__", "spec_name": "os.system", "config": []}
    ),
    "vocabulary of a path": lambda layers: layers.append(
        {
            "module": "keras.layers",
            "class_name": "StringLookup",
            "config": {"name": "s", "vocabulary": "/etc/hostname"},
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_code_is_refused(case, tmp_path, refused):
    refused(with_config(tmp_path / "m.keras", RUNS[case]), 3)


NAMES = ["../up.marker", "assets/..\\..\\up.marker", "/up.marker", "assets/../../up.marker"]


@pytest.mark.parametrize("name", NAMES)
def test_members_that_climb_out(name, tmp_path, refused):
    refused(rezip(tmp_path / "m.keras", [*members().items(), (name, b"x")]))
    assert not (tmp_path.parent / "up.marker").exists()


def test_links_in_an_archive(tmp_path, refused):
    info = zipfile.ZipInfo("assets/l")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    refused(
        rezip(
            tmp_path / "m.keras", [*members().items(), (info, str(tmp_path)), ("assets/l/x", b"")]
        )
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path, refused):
    refused(rezip(tmp_path / "m.keras", [*members().items(), ("config.json", b"{}")]), 2)


def _without(name):
    return [(other, data) for other, data in members().items() if other != name]


def test_members_missing(tmp_path, refused):
    refused(rezip(tmp_path / "a.keras", _without("config.json")), 2)
    refused(rezip(tmp_path / "b.keras", _without("model.weights.h5")), 2)


def test_broken_archives(tmp_path, refused):
    raw = GOOD.read_bytes()
    path = tmp_path / "m.keras"
    for data in (b"", raw[: len(raw) // 20], raw[: len(raw) // 2], b"PK\x03\x04" + bytes(500)):
        path.write_bytes(data)
        refused(path, 2)


def test_an_unknown_compression_method(tmp_path, refused):
    raw = bytearray(GOOD.read_bytes())
    local, central = raw.find(b"PK\x03\x04"), raw.find(b"PK\x01\x02")
    struct.pack_into("<H", raw, local + 8, 99)
    struct.pack_into("<H", raw, central + 10, 99)
    path = tmp_path / "m.keras"
    path.write_bytes(raw)
    refused(path, 2)


def test_sizes_that_lie(tmp_path, refused):
    raw = bytearray(GOOD.read_bytes())
    at = -1
    while (at := raw.find(b"PK\x01\x02", at + 1)) >= 0:
        length = struct.unpack_from("<H", raw, at + 28)[0]
        if raw[at + 46 : at + 46 + length] == b"model.weights.h5":
            struct.pack_into("<I", raw, at + 24, 0xFFFFFFF0)
    path = tmp_path / "m.keras"
    path.write_bytes(raw)
    refused(path, 2)


def test_a_bomb_in_the_configuration(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members().items():
            if name != "config.json":
                archive.writestr(name, data)
        with archive.open("config.json", "w") as file:
            for _ in range(256):
                file.write(b" " * (1 << 20))
    refused(tmp_path / "m.keras", 2)


def test_a_configuration_too_deep(tmp_path, refused):
    deep = '{"config": ' * 200_000 + "{}" + "}" * 200_000
    refused(rezip(tmp_path / "m.keras", [*_without("config.json"), ("config.json", deep)]), 2)


def test_units_that_no_weights_go_with(tmp_path, refused):
    refused(with_config(tmp_path / "m.keras", _layer(units=10**9)), 2, words="declares")


def _kernel(file):
    found = []
    file.visititems(lambda name, item: found.append(name) if name.endswith("vars/0") else None)
    return found[0]


def test_weights_that_are_none(tmp_path, refused):
    def hollow(file):
        name = _kernel(file)
        del file[name]
        file.create_dataset(name, (1 << 17, 1 << 17), "f4")

    def other_shape(file):
        name = _kernel(file)
        del file[name]
        file[name] = np.ones((3, 3), "f4")

    def renamed(file):
        file.move("layers/dense", "layers/other")

    def virtual(file):
        name = _kernel(file)
        shape = file[name].shape
        del file[name]
        layout = h5py.VirtualLayout(shape, "f4")
        layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape)
        file.create_virtual_dataset(name, layout)

    for change in (hollow, other_shape, renamed, virtual):
        refused(with_weights(tmp_path / "m.keras", change))


@pytest.mark.parametrize("position", range(12))
def test_flipped_bits_end_in_a_result_or_one_line(position, tmp_path, modelcut):
    raw = bytearray(GOOD.read_bytes())
    raw[int((position + 0.5) * len(raw) / 12)] ^= 1 << (position % 8)
    path = tmp_path / "m.keras"
    path.write_bytes(raw)
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.keras", "-q")
    assert said.code in (0, 2, 3), said
    assert said.err.count("\n") == (said.code != 0), said
    assert (tmp_path / "o.keras").exists() == (said.code == 0)


def test_what_is_odd_but_harmless(tmp_path, rows, modelcut, in_one_line):
    for name, entries in {
        "case.keras": [*members().items(), ("Config.JSON", b"{}")],
        "ansi.keras": [*members().items(), ("assets/\x1b[31m\n::error::x", b"x")],
    }.items():
        path = rezip(tmp_path / name, entries)
        said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / f"o{name}")
        assert said.code in (0, 2, 3), said
        assert "\x1b" not in said.out + said.err
    script = tmp_path / "script.keras"
    script.write_bytes(b"#!/bin/sh\ntouch ran.marker\n" + GOOD.read_bytes())
    said = modelcut("prune", script, "--sparsity", "0.5", "-o", tmp_path / "o.keras")
    assert said.code in (0, 2), said
    folder = tmp_path / "folder.keras"
    folder.mkdir()
    (folder / "config.json").write_bytes(members()["config.json"])
    in_one_line(modelcut("prune", folder, "--sparsity", "0.5", "-o", tmp_path / "p.keras"), 2)

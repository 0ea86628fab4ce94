"""HDF5 files on which libhdf5 comes to no end, takes all memory or crashes: an error, no more."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile

import h5py
import pytest
from toys import MODELS

import modelcut
from modelcut import safety
from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.formats.keras import hdf5_file, probe

OLD, NEW = MODELS / "tf_keras_sequential.h5", MODELS / "keras3_sequential.h5"


def free_object_of_no_size():
    """The rest of a global heap is an object that says it is empty: the next one is itself."""
    raw = bytearray(NEW.read_bytes())
    start = raw.index(b"GCOL")
    place = start + 16
    while (number := struct.unpack_from("<H", raw, place)[0]) != 0:
        size = struct.unpack_from("<Q", raw, place + 8)[0]
        assert number < 100
        place += 16 + -(-size // 8) * 8
    struct.pack_into("<Q", raw, place + 8, 0)
    return bytes(raw)


def free_blocks_in_a_circle():
    """The list of a local heap's free blocks leads back to its beginning."""
    raw = bytearray(OLD.read_bytes())
    for found in re.finditer(b"HEAP", bytes(raw)):
        _, free, data = struct.unpack_from("<QQQ", raw, found.start() + 8)
        struct.pack_into("<Q", raw, data + free, free)
    return bytes(raw)


def node_that_is_its_own_child():
    """A node of a group's tree is said to be an inner one, and has itself for its child."""
    raw = bytearray(OLD.read_bytes())
    for found in re.finditer(b"TREE", bytes(raw)):
        raw[found.start() + 5] = 1
        struct.pack_into("<Q", raw, found.start() + 32, found.start())
    return bytes(raw)


def siblings_in_a_circle():
    raw = bytearray(OLD.read_bytes())
    for found in re.finditer(b"TREE", bytes(raw)):
        struct.pack_into("<QQ", raw, found.start() + 8, found.start(), found.start())
    return bytes(raw)


BAD = {
    free_object_of_no_size: "no end",
    free_blocks_in_a_circle: "all memory|no end",  # whichever is spent first
    node_that_is_its_own_child: "crashes",
    siblings_in_a_circle: "no end",
}


@pytest.fixture(autouse=True)
def little(monkeypatch):
    monkeypatch.setattr(probe, "_seconds", lambda size: 0)
    monkeypatch.setattr(probe, "_memory", lambda: 1 << 29)


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_is_an_error_and_the_next_file_opens(make, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(make())
    with pytest.raises(InputError, match=BAD[make]) as error:
        modelcut.inspect(path)
    assert str(path) in str(error.value)
    assert modelcut.inspect(NEW).layers


def test_inside_of_a_keras_file_and_of_what_is_packed(tmp_path):
    with zipfile.ZipFile(NEW.with_suffix(".keras")) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["model.weights.h5"] = node_that_is_its_own_child()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / "m.keras"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        with pytest.raises(InputError, match="crashes"):
            modelcut.inspect(path)
    with pytest.raises(InputError, match="crashes"):
        hdf5_file.open_file(io.BytesIO(members["model.weights.h5"]), "part")


def test_no_other_process_where_a_parent_watches(monkeypatch):
    monkeypatch.setattr(probe, "check", lambda *_: pytest.fail("a process was started"))
    safety.watch(True)
    try:
        registry.open_model(NEW).close()
    finally:
        safety.watch(False)


def test_a_link_to_another_file_is_not_followed(tmp_path):
    other = tmp_path / "other.h5"
    other.write_bytes(node_that_is_its_own_child())
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink("other.h5", "/")
        file["b"] = h5py.SoftLink("/b")
    probe.check(str(path), "m.h5")


def test_a_child_of_fork_asks_a_process_of_its_own():
    probe.check(str(NEW), "m.h5")
    child = os.fork()
    if child == 0:
        try:
            probe.check(str(NEW), "m.h5")
        finally:
            os._exit(0 if probe._process is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    probe.check(str(OLD), "m.h5")


@pytest.mark.slow
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_on_the_command_line_the_parent_tells(make, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(make())
    line = [sys.executable, "-m", "modelcut", "inspect", str(path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    if done.returncode == 0:  # what goes round is not looked at for what is asked here
        assert make is siblings_in_a_circle
        return
    assert done.returncode == 2
    assert done.stderr.startswith("modelcut: ")
    assert done.stderr.count("\n") == 1


def test_a_file_that_another_process_writes(tmp_path):
    """HDF5 takes a lock; it is neither damaged nor to be copied again."""
    import fcntl

    path = tmp_path / "m.h5"
    shutil.copyfile(MODELS / "keras3_sequential.h5", path)
    with path.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process holds a lock"):
            registry.open_model(path)
    with registry.open_model(path) as model:
        assert model.layers

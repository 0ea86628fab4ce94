"""A model closes what it was read from: files, archives, folders that were unpacked."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from toys import MODELS

import modelcut
from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions

DATA = MODELS.parent
FILES = {
    ".h5": MODELS / "keras3_sequential.h5",
    ".keras": MODELS / "keras3_sequential.keras",
    ".mcut": MODELS / "version2_blocks.mcut",
    ".tflite": DATA / "tflite" / "int8.tflite",
    ".zip": DATA / "saved_models" / "v1.zip",
}

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them"
)


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def no_collector():
    """Nothing is closed by chance: the collector of cycles is off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """One small file of each format, and a SavedModel folder."""
    folder = tmp_path_factory.mktemp("saved") / "v1"
    with zipfile.ZipFile(FILES[".zip"]) as archive:
        archive.extractall(folder)
    found = {**FILES, "folder": next(folder.rglob("saved_model.pb")).parent}
    found["deflated"] = tmp_path_factory.mktemp("deflated") / "m.keras"
    with zipfile.ZipFile(FILES[".keras"]) as old, zipfile.ZipFile(found["deflated"], "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    model = registry.open_model(FILES[".keras"])
    found["packed .keras"] = tmp_path_factory.mktemp("packed") / "m.mcut"
    writer = registry.for_output(found["packed .keras"], model)
    writer.write(model, found["packed .keras"], WriteOptions())
    return found


@pytest.mark.usefixtures("no_collector")
def test_many_reads_leave_no_file_open(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = []  # a model that lives on does not keep its file open
    before = open_files()
    for _ in range(25):
        for path in paths.values():
            with registry.open_model(path) as model:
                next(iter(model.tensors)).pull()
            kept.append(model)
    assert len(kept) == 200
    assert open_files() == before
    assert not list(tmp_path.iterdir()), "a folder that was unpacked is still there"


@pytest.mark.usefixtures("no_collector")
def test_a_model_holds_its_file_until_it_is_closed(paths):
    for name in (".h5", ".keras", ".mcut", "deflated"):
        before = open_files()
        model = registry.open_model(paths[name])
        assert open_files() > before, name
        derived = model.with_tensors({})
        derived.close()
        assert open_files() == before, name
        model.close()


@pytest.mark.usefixtures("no_collector")
def test_a_refused_file_is_closed(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    before = open_files()
    for path in paths.values():
        if path.is_dir():
            continue
        whole = path.read_bytes()
        for length in (len(whole) // 3, len(whole) - 40):
            broken = tmp_path / f"broken{path.suffix}"
            broken.write_bytes(whole[:length])
            try:
                registry.open_model(broken).close()
            except ModelcutError as error:
                error.__traceback__ = None
    sys.exc_info()
    assert open_files() == before
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.usefixtures("no_collector")
def test_the_python_api_closes_its_models(paths, tmp_path):
    kept = []
    modelcut.inspect(paths[".h5"])
    before = open_files()
    for number in range(4):
        kept += [modelcut.inspect(path) for path in paths.values()]
        for name in (".h5", ".keras", "packed .keras", "folder"):
            source = paths[name]
            kept.append(modelcut.pack(source, tmp_path / f"{name}{number}.mcut".replace(" ", "")))
            recipe = {"version": 1, "steps": [{"prune": "magnitude", "sparsity": 0.5}]}
            kept.append(modelcut.run(recipe, source, dry_run=True))
    assert open_files() == before

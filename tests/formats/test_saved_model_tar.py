"""SavedModels as one archive: others read it, the same bytes every time, read as the folder is."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from toys import contents, saved_model

from modelcut import steps
from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.formats.saved_model import archive as saved_model_archive
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe

KINDS = ["keras3", "tf_keras", "module", "v1"]
SUFFIXES = [".tar.gz", ".tgz", ".zip"]
PRUNE = (steps.find("prune", "magnitude")(sparsity=0.5),)


def write(model, path, **options):
    writer = registry.for_output(path, model)
    if writer.folder:
        path.mkdir()
    return writer.write(model, path, WriteOptions(**options))


def extract(path, folder):
    """By Python's own libraries."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            archive.extractall(folder)
    else:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_holds_the_files_of_the_folder(kind, suffix, tmp_path):
    model = registry.open_model(saved_model(kind, tmp_path))
    write(model, tmp_path / "direct")
    packed = tmp_path / f"m{suffix}"
    write(model, packed)
    direct = contents(tmp_path / "direct")
    assert contents(extract(packed, tmp_path / "theirs")) == direct
    again = registry.open_model(packed)
    assert again.origin.format == "saved_model"
    assert again.origin.path == packed
    write(again, tmp_path / "ours")
    assert contents(tmp_path / "ours") == direct
    write(again, tmp_path / f"again{suffix}")
    assert (tmp_path / f"again{suffix}").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_of_this_machine_is_in_it(suffix, tmp_path):
    model = registry.open_model(saved_model("module", tmp_path))
    path = tmp_path / f"m{suffix}"
    write(model, path)
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in infos} == {0o40755, 0o100644}
    else:
        assert path.read_bytes()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
        with tarfile.open(path) as archive:
            infos = archive.getmembers()
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname) for i in infos} == {(0, 0, 0, "", "")}
        assert {info.mode for info in infos} == {0o755, 0o644}


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_compression_is_what_was_asked_for(suffix, tmp_path):
    model = registry.open_model(saved_model("tf_keras", tmp_path))
    sizes = {}
    for name in ("none", "fast", "best"):
        path = tmp_path / f"{name}{suffix}"
        write(model, path, compression=name)
        sizes[name] = path.stat().st_size
    assert sizes["best"] < sizes["fast"] < sizes["none"] / 4


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_what_each_tensor_takes_is_measured(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model_archive, "PIECE", 100)
    rng = np.random.default_rng(0)
    model = registry.open_model(saved_model("v1", tmp_path))
    noise = {}
    for tensor in model.tensors:
        values = rng.normal(size=tensor.shape).astype("float32")
        noise[tensor.name] = tensor.then(
            0, lambda v, e, values=values: _rewrite(values), ("dense",)
        )
    written = write(model.with_tensors(noise), tmp_path / f"m{suffix}", compression="best")
    for tensor in model.tensors:
        alone = len(zlib.compress(noise[tensor.name].pull()[0].tobytes(), 9))
        assert abs(written.stored[tensor.name] - alone) < 24, tensor.name


def _rewrite(values):
    from modelcut.model.encoding import Dense
    from modelcut.model.rewrite import Rewrite

    return Rewrite(Dense(), lambda part, rows: values[rows] if values.ndim else values)


def test_the_command_line_takes_and_gives_them(tmp_path, modelcut):
    path = saved_model("keras3", tmp_path)
    small = tmp_path / "small.tar.gz"
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", small, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["output"]["compression"] == "fast"
    assert report["sizes"]["after"]["file_bytes"] == small.stat().st_size
    assert (tmp_path / "small.report.json").is_file()
    # A foreign archive is not replaced, ours is.
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(foreign, "w") as archive:
        for name, data in contents(path).items():
            archive.writestr(name if data is not None else f"{name}/", data or b"")
    said = modelcut("quantize", small, "--bits", "4", "-o", foreign, "-q")
    assert said.code == 2
    assert "did not write" in said.err
    assert modelcut("quantize", foreign, "--bits", "4", "-o", small, "-q").code == 0
    assert "saved_model_tar, packed saved_model" in modelcut("inspect", small).out
    for out in ("m.mcut", "folder"):
        command = "pack" if out == "m.mcut" else "unpack"
        assert modelcut(command, small, "-o", tmp_path / out, "-q").code == 0
    assert modelcut("unpack", tmp_path / "m.mcut", "-o", tmp_path / "b.tgz", "-q").code == 0
    write(registry.open_model(tmp_path / "folder"), tmp_path / "direct")
    write(registry.open_model(tmp_path / "b.tgz"), tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "direct")


def tar_of(folder, path, prefix, mode="w:gz", style=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=style) as archive:
        archive.add(folder, prefix)
    return path


@pytest.mark.parametrize("prefix", [".", "nmp", "models/1", "deep/" * 40 + "m"])
@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_others(prefix, style, tmp_path):
    folder = saved_model("v1", tmp_path)
    expected = {t.name: t.pull()[0].tobytes() for t in registry.open_model(folder).tensors}
    for mode, name in (("w:gz", "m.tar.gz"), ("w", "m.tar")):
        path = tar_of(folder, tmp_path / name, prefix, mode, style)
        model = registry.open_model(path)
        assert {t.name: t.pull()[0].tobytes() for t in model.tensors} == expected
        assert not model.origin.warnings


def test_what_stands_beside_the_model_is_told(tmp_path):
    folder = saved_model("v1", tmp_path)
    (tmp_path / "README").write_text("hello")
    (tmp_path / "._v1").write_text("of macOS")
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("v1", "README", "._v1"):
            archive.add(tmp_path / name, name)
    assert folder.name == "v1"
    warnings = registry.open_model(path).origin.warnings
    assert warnings == ("1 files beside the model are left out: README",)


def test_several_models_are_told_apart(tmp_path):
    for kind in ("v1", "module"):
        saved_model(kind, tmp_path / "all")
    path = tar_of(tmp_path / "all", tmp_path / "m.tar.gz", "all")
    with pytest.raises(InputError, match="several SavedModels: all/module, all/v1"):
        registry.open_model(path)


def test_the_private_folder_is_gone_with_the_model(tmp_path, monkeypatch):
    import gc
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    folder = saved_model("v1", tmp_path)
    path = tar_of(folder, tmp_path / "m.tar.gz", ".")
    model = registry.open_model(path)
    assert list((tmp_path / "tmp").iterdir())
    assert next(iter(model.tensors)).pull()[0].size
    del model
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError):
        registry.open_model(broken)
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())


def test_large_members_go_through_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model_archive, "PIECE", 100)
    monkeypatch.setattr("modelcut.formats.saved_model.tar.PIECE", 100)
    monkeypatch.setattr("modelcut.formats.saved_model.zip.PIECE", 100)
    folder = saved_model("module", tmp_path)
    job = Job(folder, Recipe(PRUNE), tmp_path / "direct", report=False)
    pipeline.run(job)
    for suffix in (".tar.gz", ".zip"):
        out = tmp_path / f"m{suffix}"
        pipeline.run(Job(folder, Recipe(PRUNE), out, report=False))
        assert contents(extract(out, tmp_path / f"x{suffix}")) == contents(tmp_path / "direct")


def test_zip_by_streams_without_sizes_in_front(tmp_path):
    """As `zip -` writes to a pipe: sizes follow the data."""
    folder = saved_model("v1", tmp_path)

    class Pipe(io.RawIOBase):
        def __init__(self, path):
            self.file = path.open("wb")

        def writable(self):
            return True

        def write(self, data):
            return self.file.write(data)

        def close(self):
            self.file.close()

    path = tmp_path / "m.zip"
    pipe = Pipe(path)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(folder).items():
            if data is not None:
                archive.writestr(f"m/{name}", data)
    pipe.close()
    assert len(list(registry.open_model(path).tensors)) == 7

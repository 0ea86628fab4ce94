"""Archives that lead out, link, lie about sizes, never end, or are broken: refused in one line."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile

import pytest
from toys import contents, saved_model

from modelcut.formats.saved_model import archive as saved_model_archive

OUTSIDE = [
    "../evil.marker",
    "m/../../evil.marker",
    "/tmp/evil.marker",
    "..\\evil.marker",
    "C:\\evil.marker",
    "C:/evil.marker",
    "./../evil.marker",
    "//evil.marker",
]


def members(tmp_path):
    return {f"m/{k}": v for k, v in contents(saved_model("v1", tmp_path)).items() if v is not None}


def tar(path, files, *more, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return path


def zipped(path, files, *more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for info, data in more:
            archive.writestr(info, data)
    return path


def linked(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out(name, tmp_path, refused):
    files = members(tmp_path)
    refused(tar(tmp_path / "x.tar.gz", {**files, name: b"x"}), 3, words="leads out")
    path = tmp_path / "x.zip"
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    refused(zipped(path, files, (info, b"x")), 3, words="leads out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "saved_model.pb", "../.."])
def test_links_in_tar(kind, target, tmp_path, refused):
    path = tar(tmp_path / "x.tar.gz", members(tmp_path), linked("m/assets/l", target, kind))
    refused(path, 3, words="is a link")


def test_a_link_that_a_later_member_goes_through(tmp_path, refused):
    files = members(tmp_path)
    link = linked("m/l", str(tmp_path))
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(link)
        for name, data in {**files, "m/l/evil.marker": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    refused(tmp_path / "x.tar.gz", 3, words="is a link")
    info = zipfile.ZipInfo("m/l")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    more = [(info, str(tmp_path)), (zipfile.ZipInfo("m/l/evil.marker"), b"x")]
    refused(zipped(tmp_path / "x.zip", files, *more), 3, words="is a link")
    assert not (tmp_path / "evil.marker").exists()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(kind, tmp_path, refused):
    info = tarfile.TarInfo("m/assets/device")
    info.type, info.devmajor, info.devminor = kind, 1, 5
    refused(tar(tmp_path / "x.tar.gz", members(tmp_path), info), 3, words="is a device")


def test_names_that_are_there_twice(tmp_path, refused):
    files = members(tmp_path)
    again = tarfile.TarInfo("./m/saved_model.pb")
    refused(tar(tmp_path / "x.tar.gz", files, again), 2, words="twice")
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "x.zip", files, (zipfile.ZipInfo("m/saved_model.pb"), b"x"))
    refused(path, 2, words="twice")
    below = {**files, "m/saved_model.pb/x": b"x"}
    refused(tar(tmp_path / "y.tar.gz", below), 2, words="file and as a folder")


def test_bombs(tmp_path, refused, monkeypatch):
    files = {**members(tmp_path), "m/assets/zeros": bytes(40 << 20)}
    monkeypatch.setattr(saved_model_archive, "_FREE_BYTES", 1 << 20)
    refused(tar(tmp_path / "x.tar.gz", files), 2, words="far more than an archive")
    refused(zipped(tmp_path / "x.zip", files), 2, words="far more than an archive")


def test_a_size_of_terabytes_is_refused_before_anything_is_unpacked(tmp_path, refused):
    info = tarfile.TarInfo("m/assets/large")
    info.size = 1 << 43
    raw = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(raw + bytes(4096)))
    refused(tmp_path / "x.tar.gz", 2, words="far more than an archive")
    path = zipped(tmp_path / "x.zip", members(tmp_path))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(data)
    refused(path, 2)


def test_a_zip_that_lies_about_a_size(tmp_path, refused):
    path = zipped(tmp_path / "x.zip", members(tmp_path))
    for change in (-7, 7):
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\x01\x02")
        size = struct.unpack("<I", data[at + 24 : at + 28])[0]
        data[at + 24 : at + 28] = struct.pack("<I", size + change)
        (tmp_path / "y.zip").write_bytes(data)
        refused(tmp_path / "y.zip", 2)


def test_headers_that_do_not_end(tmp_path, refused):
    for kind in (b"x", b"L", b"g"):
        info = tarfile.TarInfo("h")
        info.type, info.size = kind, 100 << 20
        raw = info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20)
        (tmp_path / "x.tar.gz").write_bytes(gzip.compress(raw))
        refused(tmp_path / "x.tar.gz", 2, words="a header of")


def test_too_many_members(tmp_path, refused):
    files = members(tmp_path) | {f"m/assets/{i}": b"" for i in range(20_001)}
    refused(tar(tmp_path / "x.tar.gz", files, mode="w"), 2, words="more than 20000 files")


@pytest.mark.parametrize(
    "record", [b"99999 path=x\n", b"7 path\n", b"x path=y\n", b"14 size=-99999\n"]
)
def test_extensions_that_are_damaged(record, tmp_path, refused):
    info = tarfile.TarInfo("h")
    info.type, info.size = b"x", len(record)
    raw = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    raw += tarfile.TarInfo("m/x").tobuf() + bytes(1024)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(raw))
    refused(tmp_path / "x.tar.gz", 2)


def test_sparse_members(tmp_path, refused):
    info = tarfile.TarInfo("m/assets/s")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999999"}
    refused(tar(tmp_path / "x.tar.gz", members(tmp_path), info), 2, words="sparse")
    info = tarfile.TarInfo("m/assets/s")
    info.type = b"S"
    refused(tar(tmp_path / "y.tar.gz", members(tmp_path), info), 2, words="does not unpack")


def test_what_is_no_archive_of_a_model(tmp_path, refused):
    files = members(tmp_path)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"some text"))
    refused(tmp_path / "a.gz", 2, words="not a tar archive")
    refused(tar(tmp_path / "b.tar.gz", {"letters.txt": b"dear"}), 2, words="holds no SavedModel")
    refused(zipped(tmp_path / "c.zip", {"letters.txt": b"dear"}), 2, words="holds no SavedModel")
    (tmp_path / "d.zip").write_bytes(b"PK\x03\x04" + bytes(200))
    refused(tmp_path / "d.zip", 2)
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_BZIP2) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    refused(tmp_path / "e.zip", 2, words="unknown compression")
    after = gzip.decompress(tar(tmp_path / "f.tar.gz", files).read_bytes()) + b"more"
    (tmp_path / "f.tar.gz").write_bytes(gzip.compress(after))
    refused(tmp_path / "f.tar.gz", 2, words="continues after its end")


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_what_is_in_it_is_looked_at_as_in_a_folder(suffix, tmp_path, refused):
    from test_saved_model import in_main_graph, node

    folder = in_main_graph(saved_model("module", tmp_path), node("evil", "WriteFile"))
    files = {k: v for k, v in contents(folder).items() if v is not None}
    path = tmp_path / f"x{suffix}"
    refused(tar(path, files) if suffix == ".tar.gz" else zipped(path, files), 3, words="WriteFile")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar", ".zip"])
def test_cuts_and_flips_give_one_line_or_a_result(suffix, tmp_path, modelcut):
    path = tmp_path / f"x{suffix}"
    files = members(tmp_path)
    if suffix == ".zip":
        zipped(path, files)
    else:
        tar(path, files, mode="w:gz" if suffix == ".tar.gz" else "w")
    raw = path.read_bytes()
    for position in range(1, len(raw), len(raw) // 12):
        flipped = bytearray(raw)
        flipped[position] ^= 1 << position % 8
        for data in (raw[:position], flipped):
            path.write_bytes(data)
            said = modelcut("prune", path, "--sparsity", "0.5", "-q", "-o", tmp_path / "out")
            assert said.code in (0, 2, 3), (position, said)
            assert said.err.count("\n") == (1 if said.code else 0), said

"""A SavedModel as `.zip`, the files at the top of the archive."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelcut.errors import InputError, UnsafeError
from modelcut.formats.base import Compression
from modelcut.formats.saved_model import folder
from modelcut.formats.saved_model.archive import PIECE, Archive, Part, SectionDeflater, Unpacking
from modelcut.safety import printable

_EPOCH = (1980, 1, 1, 0, 0, 0)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LARGE = 1 << 31


class ZippedSavedModel(Archive):
    """A `.zip`."""

    def sniff(self, path: Path) -> bool:
        """A zip with a SavedModel somewhere in it; one of Keras has a config.json at its top."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError):
            return path.name.endswith(".zip")
        return "config.json" not in names and (
            any(name.rpartition("/")[2] in (folder.GRAPH, folder.TEXT_GRAPH)
                for name in names)
            or path.name.endswith(".zip")
        )  # fmt: skip

    def unpack(self, path: Path, target: Unpacking) -> None:
        """See `Archive`."""
        try:
            with zipfile.ZipFile(path) as archive:
                found = [(info, _declared(info, target)) for info in archive.infolist()]
                for info, name in found:
                    if name.endswith("/"):
                        (target.folder / name).mkdir(parents=True, exist_ok=True)
                    elif name:
                        target.put(name, info.file_size, _pieces(archive, info))
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            EOFError,
            zlib.error,
            ValueError,
            RuntimeError,
        ) as error:
            what = printable(str(error) or type(error).__name__, 120)
            raise InputError(
                f"{path}: damaged: {what}", "copy it again from where it came"
            ) from None

    def pack(
        self, path: Path, folders: list[str], parts: list[Part], compression: Compression
    ) -> Mapping[str, int]:
        """See `Archive`."""
        taken: dict[str, int] = {}
        with zipfile.ZipFile(path, "w") as archive:
            for name in folders:
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system, info.external_attr = 3, (0o40755 << 16) | 0x10
                archive.writestr(info, b"")
            for part in parts:
                info = zipfile.ZipInfo(part.name, _EPOCH)
                info.create_system, info.external_attr = 3, 0o100644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                coder = SectionDeflater(compression)
                with archive.open(info, "w", force_zip64=part.size >= _LARGE) as file:
                    member: Any = file
                    member._compressor = coder  # ISA-L's, which tells what each tensor took
                    for piece, coder.section in part.pieces():
                        member.write(piece)
                taken |= coder.taken
        return taken


def _declared(info: zipfile.ZipInfo, target: Unpacking) -> str:
    """Looks at a member before anything is unpacked."""
    shown = printable(info.orig_filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise UnsafeError(f"{target.where}: {shown!r} is a link, which may point outside the model",
                          "pack it again without --symlinks")  # fmt: skip
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeError(f"{target.where}: {shown!r} is a device, not a file")
    if info.flag_bits & 1:
        raise InputError(
            f"{target.where}: {shown!r} is encrypted", "unpack it, and give the folder"
        )
    if info.compress_type not in _METHODS:
        raise InputError(f"{target.where}: {shown!r} uses an unknown compression")
    # What Python made of the name ends at a NUL, and turns its own system's separators.
    return target.declare(info.orig_filename, info.file_size)


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as file:
        while piece := file.read(PIECE):
            yield piece

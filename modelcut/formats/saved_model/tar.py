"""A SavedModel as `.tar.gz`, the files at the top of the archive, as TensorFlow Hub has them.

Headers are read here and not by `tarfile`, which takes names and extensions of any length into
memory, follows links and makes devices.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from isal import igzip, isal_zlib

from modelcut.errors import InputError, UnsafeError
from modelcut.formats.base import Compression
from modelcut.formats.saved_model.archive import PIECE, Archive, Part, SectionDeflater, Unpacking
from modelcut.safety import printable

_BLOCK = 512
_MAX_EXTENSION = 1 << 16
_MAX_PADDING = 1 << 20
_GZIP = b"\x1f\x8b"
_HEAD = _GZIP + b"\x08\0\0\0\0\0\0\xff"
"""Of a gzip stream: deflate, no name, no time, no system."""
_FILE, _FOLDER, _LINKS, _DEVICES = b"\x000", b"5", b"12", b"346"
_NAME, _EXTENSION, _FOR_ALL = b"L", b"x", b"g"


class TarredSavedModel(Archive):
    """A `.tar.gz`, or a `.tar` that is read."""

    def sniff(self, path: Path) -> bool:
        """A gzip stream, or the header of a tar archive."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_BLOCK)
        return head[:2] == _GZIP or (head[257:262] == b"ustar" and _sum_holds(head))

    def unpack(self, path: Path, target: Unpacking) -> None:
        """See `Archive`."""
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        try:
            with igzip.open(path, "rb") if packed else path.open("rb") as stream:
                _unpack(stream, target)
        except (EOFError, gzip.BadGzipFile, isal_zlib.IsalError) as error:  # type: ignore[misc]
            what = printable(str(error) or type(error).__name__, 120)
            raise InputError(
                f"{path}: damaged: {what}", "copy it again from where it came"
            ) from None

    def pack(
        self, path: Path, folders: list[str], parts: list[Part], compression: Compression
    ) -> Mapping[str, int]:
        """See `Archive`."""
        coder = SectionDeflater(compression)
        crc, length = 0, 0
        with path.open("wb") as file:
            file.write(_HEAD)

            def put(data: bytes) -> None:
                nonlocal crc, length
                crc, length = isal_zlib.crc32(data, crc), length + len(data)
                file.write(coder.compress(data))

            for name in folders:
                put(_header(name, 0))
            for part in parts:
                put(_header(part.name, part.size))
                for piece, coder.section in part.pieces():
                    put(piece)
                coder.section = ""
                put(bytes(-part.size % _BLOCK))
            put(bytes(2 * _BLOCK))
            file.write(coder.flush())
            file.write(crc.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little"))
        return coder.taken


def _unpack(stream: IO[bytes], target: Unpacking) -> None:
    where = target.where
    name, size = "", -1
    while True:
        header = stream.read(_BLOCK)
        if len(header) < _BLOCK:
            raise InputError(f"{where}: is truncated, or is not a tar archive")
        if not any(header):
            break
        if not _sum_holds(header):
            raise InputError(f"{where}: is not a tar archive, or is damaged")
        kind = header[156:157]
        declared = _number(header[124:136], where)
        if kind in _NAME + _EXTENSION + _FOR_ALL:
            if declared > _MAX_EXTENSION:
                raise InputError(f"{where}: a header of {declared:.3g} bytes")
            data = b"".join(_pieces(stream, declared, where))
            if kind == _NAME:
                name = _text(data.rstrip(b"\0"))
            elif kind == _EXTENSION:
                name, size = _extended(data, name, size, where)
            continue
        name, size = name or _own_name(header), declared if size < 0 else size
        shown = printable(name)
        if kind in _LINKS:
            raise UnsafeError(f"{where}: {shown!r} is a link, which may point outside the model",
                              "pack it again with tar --dereference")  # fmt: skip
        if kind in _DEVICES:
            raise UnsafeError(f"{where}: {shown!r} is a device, not a file")
        if kind not in _FILE + _FOLDER + b"7":
            raise InputError(f"{where}: {shown!r} is of a kind that modelcut does not unpack")
        folder = kind == _FOLDER or name.endswith("/")
        name = target.declare(name.rstrip("/") + "/" if folder else name, size)
        if folder and size:
            raise InputError(f"{where}: the folder {shown!r} has content")
        if folder and name:
            (target.folder / name).mkdir(parents=True, exist_ok=True)
        elif name:
            target.put(name, size, _pieces(stream, size, where))
        name, size = "", -1
    rest = stream.read(_MAX_PADDING + 1)
    if len(rest) > _MAX_PADDING or any(rest):
        raise InputError(f"{where}: continues after its end")


def _pieces(stream: IO[bytes], size: int, where: str) -> Iterator[bytes]:
    """The content of a member, without what fills its last block."""
    left = size
    while left:
        piece = stream.read(min(left, PIECE))
        if not piece:
            raise InputError(f"{where}: is truncated", "copy it again from where it came")
        left -= len(piece)
        yield piece
    stream.read(-size % _BLOCK)


def _sum_holds(header: bytes) -> bool:
    """Whether a header's checksum is that of its bytes."""
    if len(header) < _BLOCK:
        return False
    digits = header[148:156].strip(b" \0")
    own = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return digits.isdigit() and not set(digits) - set(b"01234567") and int(digits, 8) == own


def _number(field: bytes, where: str) -> int:
    """Octal digits, or for large numbers the bytes themselves."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if set(digits) - set(b"01234567"):
        raise InputError(f"{where}: a size is not a number")
    return int(digits or b"0", 8)


def _own_name(header: bytes) -> str:
    name = _text(header[:100].split(b"\0")[0])
    above = _text(header[345:500].split(b"\0")[0]) if header[257:263] == b"ustar\0" else ""
    return f"{above}/{name}" if above else name


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _extended(data: bytes, name: str, size: int, where: str) -> tuple[str, int]:
    """Name and size of the next member, as an extension has them: "length key=value" a line."""
    at = 0
    while at < len(data):
        digits = data[at : at + 8].split(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length - 1]
        key, equals, value = record.partition(b"=")
        if not equals or data[at + length - 1 : at + length] != b"\n":
            raise InputError(f"{where}: a header is damaged")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise InputError(f"{where}: a size is not a number")
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise InputError(f"{where}: sparse files are not unpacked", "pack it without --sparse")
        at += length
    return name, size


def _header(name: str, size: int) -> bytes:
    info: Any = tarfile.TarInfo(name.rstrip("/"))
    if name.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    info.size = size
    return bytes(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

"""What the archives of a SavedModel have in common: unpacking with guards, packing with none.

A stranger's archive is unpacked into a private temporary folder only, member by member, each looked
at before anything of it is written. Ours are the same bytes every time: names sorted, and no times,
owners or modes of this machine.
"""

from __future__ import annotations

import abc
import contextlib
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isal import isal_zlib

from modelcut.errors import InputError
from modelcut.formats.base import Compression, WriteOptions, Written, opening
from modelcut.formats.files import Names, OnDisk
from modelcut.formats.saved_model.bundle import Bundle
from modelcut.formats.saved_model.folder import GRAPH, MODEL, TEXT_GRAPH, SavedModel, read_folder
from modelcut.model.model import Model
from modelcut.safety import printable

_FREE_BYTES = 1 << 30
_MOST_RATIO = 200
"""An archive may hold `_FREE_BYTES`, or so many times its own size."""
PIECE = 1 << 20
_HINT = "unpack it yourself, and give the folder"


class Unpacking:
    """A private folder that members are put into, as long as they keep the rules."""

    def __init__(self, path: Path, opened: contextlib.ExitStack) -> None:
        """Makes the folder.

        Args:
            path: of the archive.
            opened: removes the folder when it is closed.
        """
        self.where = str(path)
        self._opened = opened
        scratch = tempfile.TemporaryDirectory(prefix="modelcut-")
        self.folder = Path(opened.enter_context(scratch))
        self.files: list[str] = []
        self._names = Names(self.where)
        self._most = max(_FREE_BYTES, _MOST_RATIO * path.stat().st_size)
        self._declared = 0

    def declare(self, name: str, size: int) -> str:
        """Looks at a member before it is unpacked.

        Args:
            name: as the archive has it; that of a folder ends in "/".
            size: as the archive says.

        Returns:
            The name without a leading "./"; "" for the top itself.

        Raises:
            UnsafeError: it leads out of the archive.
            InputError: it is there already, or is too large.
        """
        while name.startswith("./"):
            name = name[2:].lstrip("/")
        if name in ("", "."):
            return ""
        self._names.add(name)
        self._declared += size
        if size < 0 or self._declared > self._most:
            raise InputError(
                f"{self.where}: declares {self._declared:.3g} bytes, far more than an archive of "
                "its size should hold", _HINT,
            )  # fmt: skip
        return name

    def put(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        """Unpacks a file that was declared.

        Raises:
            InputError: it holds more or less than it declared.
        """
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        left = size
        with target.open("xb") as file:
            for piece in pieces:
                left -= len(piece)
                if left < 0:
                    break
                file.write(piece)
        if left:
            raise InputError(
                f"{self.where}: the member {printable(name)!r} is not of the declared size"
            )
        self.files.append(name)

    def model(self, container: str) -> Model:
        """The SavedModel among the members.

        Args:
            container: name of the format that the archive is of.

        Raises:
            InputError: there is none, or there are several.
        """
        tops = [n for n in self.files if n.rpartition("/")[2] in _GRAPHS]
        depth = min((name.count("/") for name in tops), default=0)
        roots = sorted({name.rpartition("/")[0] for name in tops if name.count("/") == depth})
        if not roots:
            raise InputError(f"{self.where}: holds no SavedModel (no {GRAPH})")
        if len(roots) > 1:
            names = printable(", ".join(roots), 200)
            raise InputError(f"{self.where}: holds several SavedModels: {names}", _HINT)
        root = roots[0]
        files = OnDisk(self.folder / root, self.where)
        model = read_folder(files, Path(self.where))
        beside = [n for n in self.files if root and not n.startswith(f"{root}/")]
        beside = [n for n in beside if not n.rpartition("/")[2].startswith("._")]  # of macOS
        warnings = model.origin.warnings
        if beside:
            names = printable(", ".join(beside), 120)
            warnings = (*warnings, f"{len(beside)} files beside the model are left out: {names}")
        origin = replace(
            model.origin, container=container, warnings=warnings, close=self._opened.close
        )
        return replace(model, origin=origin)


_GRAPHS = (GRAPH, TEXT_GRAPH)


@dataclass(frozen=True)
class Part:
    """One file to be packed.

    Attributes:
        name: of it.
        path: its content.
        sections: (bytes, tensor or "") one behind the other, to its end.
    """

    name: str
    path: Path
    sections: tuple[tuple[int, str], ...]

    @property
    def size(self) -> int:
        """Bytes of it."""
        return sum(size for size, _ in self.sections)

    def pieces(self) -> Iterator[tuple[bytes, str]]:
        """Its content, piece by piece, and the tensor that each belongs to, or ""."""
        with self.path.open("rb") as file:
            for size, name in self.sections:
                left = size
                while left:
                    piece = file.read(min(left, PIECE))
                    left -= len(piece)
                    yield piece, name


class SectionDeflater:
    """Deflates a stream and tells what each section of it took.

    Attributes:
        section: that the bytes which come next belong to.
        taken: section -> bytes.
    """

    def __init__(self, compression: Compression) -> None:
        self._inner: Any
        if compression == "fast":
            self._inner = isal_zlib.compressobj(isal_zlib.ISAL_BEST_COMPRESSION, wbits=-15)
        else:
            self._inner = zlib.compressobj(9 if compression == "best" else 0, zlib.DEFLATED, -15)
        self.section = self._current = ""
        self.taken: dict[str, int] = {}

    def compress(self, data: bytes) -> bytes:
        """Takes bytes of a section; what is still open of the one before is closed first."""
        closed = b""
        if self.section != self._current:
            closed = self._counted(self._inner.flush(zlib.Z_SYNC_FLUSH))
            self._current = self.section
        return closed + self._counted(self._inner.compress(data))

    def flush(self) -> bytes:
        """The end of the stream."""
        return self._counted(self._inner.flush())

    def _counted(self, result: bytes) -> bytes:
        self.taken[self._current] = self.taken.get(self._current, 0) + len(result)
        return result


class Archive(SavedModel):
    """A SavedModel in one file. A subclass recognises, unpacks and packs its kind of archive."""

    folder = False
    packed = True
    packable = False
    own_coding = ""

    @abc.abstractmethod
    def unpack(self, path: Path, target: Unpacking) -> None:
        """Unpacks the archive at `path`, member by member.

        Raises:
            InputError: it is damaged, or is no such archive.
            UnsafeError: a member leads out of it.
        """

    @abc.abstractmethod
    def pack(
        self, path: Path, folders: list[str], parts: list[Part], compression: Compression
    ) -> Mapping[str, int]:
        """Makes an archive of folders and files; returns the bytes that each section took."""

    def read(self, path: Path) -> Model:
        """Reads an archive from a private copy of its members; see `Format`."""
        with opening() as opened:
            target = Unpacking(path, opened)
            self.unpack(path, target)
            return target.model(self.name)

    def unpacked(self, model: Model) -> Path:
        """The private folder that the archive was unpacked into."""
        files = model.origin.layout.files
        assert isinstance(files, OnDisk)
        return files.folder

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Writes the model as a folder, and that as an archive; see `Format`."""
        scratch = path.with_name(f"{path.name}.folder")
        scratch.mkdir()
        try:
            written = super().write(model, scratch, options)
            inside = model if model.origin.format == MODEL else super().read(scratch)
            names = OnDisk(scratch, str(path)).names()
            parts = [
                Part(name, scratch / name, sections)
                for name in names
                if not name.endswith("/")
                for sections in [_sections(scratch, name, inside, written)]
            ]
            folders = [name for name in names if name.endswith("/")]
            taken = self.pack(path, folders, parts, options.compression)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        stored = {name: taken.get(name, 0) for name in written.stored}
        return replace(written, stored=stored)


def _sections(
    folder: Path, name: str, model: Model, written: Written
) -> tuple[tuple[int, str], ...]:
    """Where in a shard each tensor lies."""
    size = (folder / name).stat().st_size
    if not name.startswith("variables/variables.data-"):
        return ((size, ""),)
    bundle = Bundle(folder / "variables" / "variables", str(folder))
    found, at = [], 0
    by_key = {t.key: t.name for t in model.tensors if written.stored[t.name]}
    for entry in bundle.in_order():
        tensor = by_key.get(entry.name)
        if tensor is not None and entry.size and entry.offset >= at:
            found += [(entry.offset - at, ""), (entry.size, tensor)]
            at = entry.offset + entry.size
    return tuple(section for section in [*found, (size - at, "")] if section[0])

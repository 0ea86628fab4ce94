"""The files of a SavedModel by name, on disk or in memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelcut.errors import InputError, UnsafeError
from modelcut.safety import printable

MAX_FILES = 20_000
_MAX_NAME = 4096


class Files(Protocol):
    """What stands under one name, which ends messages too.

    Attributes:
        where: the model, for messages.
    """

    @property
    def where(self) -> str:
        """The model, for messages."""

    def names(self) -> list[str]:
        """All names, sorted; that of a folder ends in "/"."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def copy(self, name: str, target: Path) -> None:
        """Writes the content of a file to a new one."""


@dataclass(frozen=True)
class OnDisk:
    """The files in a folder.

    Attributes:
        folder: it; nothing in it may lead out of it (`check`).
        where: the model, for messages.
    """

    folder: Path
    where: str

    def names(self) -> list[str]:
        found = []
        for item in self.folder.rglob("*"):
            if not item.is_symlink():
                found.append(item.relative_to(self.folder).as_posix() + "/" * item.is_dir())
        return sorted(found)

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def copy(self, name: str, target: Path) -> None:
        shutil.copyfile(self.folder / name, target)

    def check(self) -> None:
        """Refuses links and devices.

        Raises:
            UnsafeError: something leads out of the folder.
            InputError: something is no file, or there are too many.
        """
        count, waiting = 0, [self.folder]
        while waiting:
            for item in os.scandir(waiting.pop()):
                name = printable(os.path.relpath(item.path, self.folder))
                count += 1
                if count > MAX_FILES:
                    raise InputError(f"{self.where}: holds more than {MAX_FILES} files")
                if item.is_symlink():
                    raise UnsafeError(
                        f"{self.where}: {name!r} is a link, which may point outside the model",
                        "copy it with cp -rL",
                    )
                if item.is_dir(follow_symlinks=False):
                    waiting.append(Path(item.path))
                elif not item.is_file(follow_symlinks=False):
                    raise InputError(f"{self.where}: {name!r} is not a regular file")


@dataclass(frozen=True)
class InMemory:
    """Files out of a packed one.

    Attributes:
        contents: name -> content; None for a folder, whose name ends in "/".
        where: the model, for messages.
    """

    contents: Mapping[str, bytes | None]
    where: str

    def names(self) -> list[str]:
        return sorted(self.contents)

    def size(self, name: str) -> int | None:
        content = self.contents.get(name)
        return None if content is None else len(content)

    def read(self, name: str) -> bytes:
        content = self.contents[name]
        assert content is not None
        return content

    def copy(self, name: str, target: Path) -> None:
        target.write_bytes(self.read(name))


def bounded(files: Files, name: str, most: int) -> bytes:
    """The content of a file; empty where there is none.

    Raises:
        InputError: it is larger than `most`.
    """
    size = files.size(name)
    if size is None:
        return b""
    if size > most:
        raise InputError(f"{files.where}: {name} is larger than {most >> 20} MiB")
    return files.read(name)


def leads_out(name: str) -> bool:
    """Whether a file name in a model would lead outside the model, on any system."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or ".." in parts or ":" in parts[0] or "\0" in name


class Names:
    """Names that come from a container, checked against each other and the rules."""

    def __init__(self, where: str) -> None:
        """Knows none yet.

        Args:
            where: the container, for messages.
        """
        self._where = where
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._count = 0

    def add(self, name: str) -> None:
        """Takes the name of a file, or of a folder, which ends in "/".

        Raises:
            UnsafeError: it leads out of the model.
            InputError: it is there twice, is none, or is both a file and a folder.
        """
        self._count += 1
        if self._count > MAX_FILES:
            raise InputError(f"{self._where}: holds more than {MAX_FILES} files")
        shown = printable(name)
        if leads_out(name) or "\\" in name:
            raise UnsafeError(
                f"{self._where}: the path of the member {shown!r} leads outside the model"
            )
        whole = name.rstrip("/")
        parts = whole.split("/")
        if len(name) > _MAX_NAME or not all(parts) or "." in parts:
            raise InputError(f"{self._where}: the name of the member {shown!r} is not a file name")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if name.endswith("/"):
            above.add(whole)
        elif whole in self._files:
            raise InputError(f"{self._where}: holds {shown!r} twice")
        else:
            self._files.add(whole)
        self._folders |= above
        if whole in self._folders & self._files or above & self._files:
            raise InputError(f"{self._where}: holds {shown!r} as a file and as a folder")

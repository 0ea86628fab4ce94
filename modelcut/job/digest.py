"""What a file was when it was read: its SHA-256, and whether it has changed since."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

_PIECE = 256 << 10
"""Bytes read at a time; they are still in the cache when they are hashed."""


class Digest:
    """The SHA-256 of a file or of a folder, computed beside the work (hashing needs no lock).

    Used as a context manager: leaving it stops a computation that nobody waited for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _state(path)
        self._stop = Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="modelcut-digest")
        self._future: Future[str] = self._pool.submit(sha256, path, self._stop)

    def __enter__(self) -> Digest:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True)

    def hex(self) -> str:
        """The digest; waits until it is there.

        Raises:
            OSError: the file cannot be read.
        """
        return self._future.result()

    def changed(self) -> bool:
        """Whether the file is another one now, or has been written to."""
        try:
            return _state(self._path) != self._state
        except OSError:
            return True


def sha256(path: Path, stop: Event | None = None) -> str:
    """The SHA-256 of a file; of a folder, that of its files' names and digests in sorted order."""
    total = hashlib.sha256()
    if path.is_dir():
        for part in _files(path):
            total.update(f"{part.relative_to(path).as_posix()}\0{sha256(part, stop)}\n".encode())
        return total.hexdigest()
    for part in _shards(path):
        total.update(f"{part.name}\0{sha256(part, stop)}\n".encode())
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            if stop is not None and stop.is_set():
                return ""
            total.update(piece)
    return total.hexdigest()


def sha256_of(text: str) -> bytes:
    """The SHA-256 of a text, as bytes."""
    return hashlib.sha256(text.encode()).digest()


def size(path: Path) -> int:
    """Bytes of a file and its shards, or of all files in a folder."""
    if path.is_dir():
        return sum(part.stat().st_size for part in _files(path))
    return sum(part.stat().st_size for part in (path, *_shards(path)))


def _shards(path: Path) -> list[Path]:
    """The files that `NAME.weights.json` of Keras 3 lists; none for any other file."""
    if not path.name.endswith(".weights.json"):
        return []
    shard = re.compile(re.escape(path.name.removesuffix(".weights.json")) + r"_\d+\.weights\.h5")
    return sorted(part for part in path.parent.iterdir() if shard.fullmatch(part.name))


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(part for part in folder.rglob("*") if part.is_file())


def _state(path: Path) -> list[tuple[str, int, int, int]]:
    parts = list(_files(path)) if path.is_dir() else [path, *_shards(path)]
    stats = [(part, os.stat(part)) for part in parts]
    return [(str(part), s.st_ino, s.st_size, s.st_mtime_ns) for part, s in stats]

"""What a file was when it was read: its hash, and whether it has changed since."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from modelcut.arrays.clock import working
from modelcut.arrays.digest import hasher

_PIECE = 256 << 10
"""Bytes read at a time; they are still in the cache when they are hashed."""


class Digest:
    """The BLAKE3 of a file or of a folder, computed beside the work (hashing needs no lock).

    Used as a context manager: leaving it stops a computation that nobody waited for.
    """

    def __init__(self, path: Path, *, sha256: bool = False) -> None:
        """Begins to read.

        Args:
            path: file or folder.
            sha256: its SHA-256 is wanted too, which takes several times as long.
        """
        self._path = path
        self._state = _state(path)
        self._stop = Event()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="modelcut-digest")
        self._blake3: Future[str] = self._pool.submit(_timed, blake3, path, self._stop)
        self._sha256: Future[str] | None = None
        if sha256:
            self._sha256 = self._pool.submit(_timed, sha256_of, path, self._stop)

    def __enter__(self) -> Digest:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True)

    @property
    def blake3(self) -> str:
        """The BLAKE3 in hexadecimal; waits until it is there.

        Raises:
            OSError: the file cannot be read.
        """
        return self._blake3.result()

    @property
    def sha256(self) -> str | None:
        """The SHA-256 in hexadecimal, or None where it was not asked for; waits too."""
        return None if self._sha256 is None else self._sha256.result()

    def changed(self) -> bool:
        """Whether the file is another one now, or has been written to."""
        try:
            return _state(self._path) != self._state
        except OSError:
            return True


def _timed(function: Callable[[Path, Event], str], path: Path, stop: Event) -> str:
    with working("hash"):
        return function(path, stop)


def blake3(path: Path, stop: Event | None = None) -> str:
    """The BLAKE3 of a file; of a folder, that of its files' names and digests in sorted order."""
    return _hashed(path, hasher, stop)


def sha256_of(path: Path, stop: Event | None = None) -> str:
    """The SHA-256 of a file or folder; see `blake3`."""
    import hashlib  # which loads all of OpenSSL

    return _hashed(path, hashlib.sha256, stop)


def _hashed(path: Path, new: Callable[[], Any], stop: Event | None) -> str:
    total = new()
    if path.is_dir():
        for part in _files(path):
            name = part.relative_to(path).as_posix()
            line = f"{name}\0{_hashed(part, new, stop)}\n"
            total.update(line.encode("utf-8", "surrogateescape"))
        return str(total.hexdigest())
    for part in _shards(path):
        total.update(f"{part.name}\0{_hashed(part, new, stop)}\n".encode())
    piece = memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            if stop is not None and stop.is_set():
                return ""
            total.update(piece[:count])
    return str(total.hexdigest())


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
    beside = path.parent.iterdir()
    return sorted(part for part in beside if shard.fullmatch(part.name) and part.is_file())


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(part for part in folder.rglob("*") if part.is_file())


def _state(path: Path) -> list[tuple[str, int, int, int]]:
    parts = list(_files(path)) if path.is_dir() else [path, *_shards(path)]
    stats = [(part, os.stat(part)) for part in parts]
    return [(str(part), s.st_ino, s.st_size, s.st_mtime_ns) for part, s in stats]

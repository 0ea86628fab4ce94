"""The process that opens HDF5 files before others do; see `probe`."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from typing import IO, Any

import h5py

from modelcut.formats.keras.probe import _DONE, _HEAD, _READ

_SPENT = ("memory", "allocat")
"""What HDF5's messages hold where it was given no more memory."""


class _Remote(io.RawIOBase):
    """A file that the other side reads."""

    def __init__(self, size: int, asked: IO[bytes], answers: IO[bytes]) -> None:
        self._size = size
        self._asked = asked
        self._answers = answers
        self._place = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._place))
        if count:
            self._asked.write(_HEAD.pack(_READ, self._place, count))
            self._asked.flush()
            data = self._answers.read(count)
            if len(data) < count:
                os._exit(0)  # nobody asks any more
            view[:count] = data
        self._place += count
        return count


def serve() -> None:
    """Answers until nobody asks any more."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers, asked = sys.stdin.buffer, sys.stdout.buffer
    while line := answers.readline():
        request = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime
        _limit(resource.RLIMIT_CPU, int(spent + request["seconds"]) + 1)
        _limit(resource.RLIMIT_AS, int(request["memory"]))
        path = request["path"]
        word = _looked(path if path is not None else _Remote(request["size"], asked, answers))
        data = word.encode()
        asked.write(_HEAD.pack(_DONE, 0, len(data)) + data)
        asked.flush()


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _looked(file: str | _Remote) -> str:
    """Goes through a file; gives what there is to say of it."""
    try:
        with h5py.File(file, "r") as opened:
            _walk(opened)
    except MemoryError:
        return "takes all memory on it"
    except Exception as error:  # noqa: BLE001 - the reader says what is wrong, in its own words
        return _spent(error)
    return ""


def _spent(error: Exception) -> str:
    short = any(word in str(error) for word in _SPENT)
    return "takes all memory on it" if short else ""


def _walk(file: h5py.File) -> None:
    """Reads all attributes and links, and looks for all values without reading them."""
    seen, waiting = set(), [file]
    while waiting:
        item = waiting.pop()
        for name in _tried(lambda item=item: list(item.attrs)) or ():
            _tried(lambda item=item, name=name: item.attrs[name])
        if isinstance(item, h5py.Dataset):
            _tried(item.id.get_storage_size)
            if _tried(lambda item=item: item.chunks) is not None:
                _tried(item.id.get_num_chunks)
        if not isinstance(item, h5py.Group):
            continue
        for name in _tried(lambda item=item: list(item)) or ():
            below = _tried(lambda item=item, name=name: _child(item, name))
            if below is None:
                continue
            place = _tried(lambda below=below: h5py.h5o.get_info(below.id).addr)
            if place is not None and place not in seen:
                seen.add(place)
                waiting.append(below)


def _child(group: h5py.Group, name: str) -> Any:
    link = group.get(name, getlink=True)
    return group[name] if isinstance(link, h5py.HardLink) else None


def _tried(work: Any) -> Any:
    """What some work gives; None where HDF5 refuses."""
    try:
        return work()
    except MemoryError:
        raise
    except Exception as error:
        if _spent(error):
            raise MemoryError from error
        return None

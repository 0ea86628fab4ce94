"""Has a process of its own open an HDF5 file first: libhdf5 comes to no end on some, or crashes.

It follows what a file says of itself: a list of free blocks that leads back to its start, a tree
whose node is its own child, a free object of size 0 (HDF5 1.14.6). No `except` sees what becomes of
it. Where a parent watches this process, as on the command line, that parent tells; elsewhere a file
is opened here once the other process has been through all of its structure and is still there.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from threading import Lock
from typing import IO

from modelcut.errors import InputError
from modelcut.safety import json_bytes

_SECONDS = 3
_PER_MB = 1.0
"""Seconds for each MB, as far as it may be metadata; a thousand objects take a tenth of one."""
_MOST_MB = 60
_BYTES_PER_SECOND = 10e6
_HINT = "copy it again from where it came"
_HEAD = struct.Struct("<BQQ")
"""What comes from the process: that it is done (with a word of so many bytes), or what to read."""
_DONE, _READ = 0, 1
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
_START += "from modelcut.formats.keras import probe_process; probe_process.serve()"

_lock = Lock()
_process: subprocess.Popen[bytes] | None = None


def check(file: str | IO[bytes], where: str) -> None:
    """Returns where libhdf5 gets through a file, whatever it finds; its errors are for the reader.

    Args:
        file: a path, or a file that can be read and seeks.
        where: name of the file in messages.

    Raises:
        InputError: it comes to no end, crashes, or takes all memory.
    """
    with _lock:
        process = _started()
        try:
            word = _asked(process, file)
        except (EOFError, BrokenPipeError):
            process.wait()
            _forget()
            word = _ending(process.returncode)
        except BaseException:  # what was asked for is still under way
            process.kill()
            process.wait()
            _forget()
            raise
    if word:
        raise InputError(f"{where}: damaged: HDF5 {word}", _HINT)


def _asked(process: subprocess.Popen[bytes], file: str | IO[bytes]) -> str:
    """What there is to say of a file; "" where nothing."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    path = file if isinstance(file, str) else None
    size = os.stat(file).st_size if isinstance(file, str) else file.seek(0, os.SEEK_END)
    request = {
        "path": None if path is None else os.path.abspath(path),
        "size": size,
        "seconds": _seconds(size),
        "memory": _memory(),
    }
    stdin.write(json.dumps(request).encode() + b"\n")
    stdin.flush()
    while True:
        kind, start, count = _HEAD.unpack(_exactly(stdout, _HEAD.size))
        if kind == _DONE:
            return _exactly(stdout, count).decode()
        assert not isinstance(file, str)
        file.seek(start)
        data = file.read(count)
        stdin.write(data + bytes(count - len(data)))
        stdin.flush()


def _seconds(size: int) -> int:
    """CPU time that the structure of a file of so many bytes may take."""
    return int(_SECONDS + min(_MOST_MB, _PER_MB * size / 1e6) + size / _BYTES_PER_SECOND)


def _memory() -> int:
    """Bytes of address space that the other process may take."""
    return (2 << 30) + 64 * json_bytes()


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _ending(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "comes to no end on it"
    if code == -signal.SIGKILL:
        return "was killed on it, most likely for want of memory"
    with contextlib.suppress(ValueError):
        return f"crashes on it ({signal.Signals(-code).name})"
    return f"ends on it (code {code})"


def _started() -> subprocess.Popen[bytes]:
    global _process
    if _process is None or _process.poll() is not None:
        _forget()
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        _process = subprocess.Popen(
            [sys.executable, "-c", _START, paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    return _process


def _forget() -> None:
    """Lets go of the process, which ends by itself once nobody asks any more."""
    global _process
    if _process is not None:
        for stream in (_process.stdin, _process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
    _process = None


def _stop() -> None:
    process = _process
    _forget()
    if process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


def _forked() -> None:
    """A child of `fork` has no part in its parent's conversation."""
    global _lock
    _lock = Lock()
    if _process is not None:
        _process.returncode = 0  # not its child
    _forget()


atexit.register(_stop)
os.register_at_fork(after_in_child=_forked)

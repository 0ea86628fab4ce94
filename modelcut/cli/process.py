"""The process that does the work, and the one that waits for it and tells how it ended.

HDF5, BLAS and TensorFlow are C and C++ that may end a process in ways that no `except` sees: here
that is one line and an exit code, and what the process had begun to write is removed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from modelcut.cli.watch import Watch
from modelcut.errors import ExitCode
from modelcut.job import watched as telling

_PDEATHSIG = 1
_TEMPORARY = ".modelcut."
_CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")


def watched(work: Callable[[], int], say: Callable[[str, int], int], arguments: list[str]) -> int:
    """Does the work in a child of this process.

    Args:
        work: gives the exit code; what ends it otherwise is told here.
        say: prints one line, and gives the code that it was told.
        arguments: command-line arguments, which name the outputs.

    Returns:
        The exit code; the child does not come back.
    """
    told, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        os.close(told)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)  # a terminal's signals come by way of the parent, once
        _die_with(parent)
        _in_child(work, tell)
    os.close(tell)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # whoever comes first
    watch = Watch(child, told)
    sent = _forward(child)
    status, passed = watch.wait(sent)
    os.close(told)
    if passed is None and watch.code is not None:
        return watch.code
    code = os.waitstatus_to_exitcode(status)
    if passed is None and code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        return code
    _remove_scratch(child, arguments)
    return say(*(passed or _ending(code)))


def _in_child(work: Callable[[], int], tell: int) -> NoReturn:
    """The child's side: works, and says with what code it ended."""
    telling.by(tell)
    try:
        with _only_our_words(), _own_temporary_folder():
            code = work()
    except BaseException:  # noqa: BLE001 - too little memory even to say so
        os._exit(1)
    telling.tell(code=code)
    _leave(code)


@contextlib.contextmanager
def _only_our_words() -> Iterator[None]:
    """Keeps what C libraries print as they crash off stderr; Python's own stream goes there."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        own = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        sys.stderr = own
    yield


@contextlib.contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Has all temporary files in a folder that names this process, so that none of them stays.

    The parent removes it where this process is killed; the next run, where the parent was too.
    """
    import tempfile

    from modelcut.job.outputs import is_dead, remove_scratch, scratch_name

    before, made = tempfile.tempdir, ""
    with contextlib.suppress(OSError):
        here = tempfile.gettempdir()
        remove_scratch(here, is_dead, begins=_TEMPORARY)
        made = os.path.join(here, scratch_name("modelcut"))
        os.mkdir(made, 0o700)
        tempfile.tempdir = made
    try:
        yield
    finally:
        tempfile.tempdir = before
        if made:
            import shutil

            shutil.rmtree(made, ignore_errors=True)


def _leave(code: int) -> NoReturn:
    """Ends this process without waiting for its threads, nor taking its memory apart.

    The latter takes a tenth of the time of a small job. And a signal may come between the start of
    a thread of a pool and its entry among those that `concurrent.futures` tells to end: Python
    would wait for it for ever.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _forward(child: int) -> list[int]:
    """Sends the child what this process is sent; gives the list that this is noted in."""
    sent: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        del frame
        sent.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    def pause(number: int, frame: Any) -> None:
        del number, frame
        os.kill(child, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(child, signal.SIGCONT)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGTSTP, pause)
    return sent


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent is killed."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _ending(code: int) -> tuple[str, int]:
    """What to tell of a process that did not say how it ended, and the exit code for it."""
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if code == -signal.SIGXCPU:
        return "ran out of CPU time (ulimit -t)", ExitCode.RESOURCES
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), most likely for want of memory", ExitCode.RESOURCES
    how = f"crashed ({name})" if code < 0 else f"was ended by a library (code {code})"
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    if any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds):
        return f"{how}, most likely by the limit on memory (ulimit -v)", ExitCode.RESOURCES
    if code < 0 and name in _CRASHES:
        return (
            f"{how} in a library (TensorFlow, HDF5): the file is damaged, or the library cannot "
            "run such a network (MODELCUT_TRACEBACK=1 shows more)",
            ExitCode.USAGE,
        )
    return how, ExitCode.MISTAKE


def _remove_scratch(process: int, arguments: list[str]) -> None:
    """Removes what a process has begun to write beside the files that its arguments name."""
    import tempfile

    from modelcut.job.outputs import remove_scratch

    folders = {os.path.dirname(word.rpartition("=")[2]) or "." for word in arguments}
    with contextlib.suppress(OSError):
        folders.add(tempfile.gettempdir())
    for folder in folders:
        remove_scratch(folder, lambda owner: owner == process)

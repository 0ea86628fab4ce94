"""Where the time of a job goes: phases, one after the other, and work, in many threads at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from threading import Lock

_running: list[Clock] = []


class Clock:
    """Wall seconds of phases, and CPU seconds of work; used as a context manager.

    While it runs, `working` tells it of work in any thread of this process.
    """

    def __init__(self, phase: str) -> None:
        """Begins with a phase."""
        self._phase = phase
        self._wall: dict[str, float] = {}
        self._cpu: dict[str, float] = {}
        self._lock = Lock()
        self._begun = self._since = time.perf_counter()
        self._used = time.process_time()

    def __enter__(self) -> Clock:
        _running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _running.remove(self)

    def begin(self, phase: str) -> None:
        """Ends the phase of now; a phase that comes again is added to."""
        now = time.perf_counter()
        self._wall[self._phase] = self._wall.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def add(self, work: str, seconds: float) -> None:
        """Adds CPU seconds of some work."""
        with self._lock:
            self._cpu[work] = self._cpu.get(work, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Wall seconds of each phase that has ended or runs, and of all as `total`."""
        self.begin(self._phase)
        return {**self._wall, "total": self._since - self._begun}

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds of each work, over all threads, and of this process as `total`."""
        with self._lock:
            return {**self._cpu, "total": time.process_time() - self._used}


@contextlib.contextmanager
def working(work: str) -> Iterator[None]:
    """Counts the CPU time of this thread as some work, where a job's clock runs."""
    if not _running:
        yield
        return
    clock, start = _running[-1], time.thread_time()
    try:
        yield
    finally:
        clock.add(work, time.thread_time() - start)

"""Watches a process: reads what it tells, and kills it where it takes more than it may."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelcut.errors import ExitCode
from modelcut.job.watched import READING

_LOOK = 0.2
"""Seconds between two looks at a process that has limits."""

_IDLE = 1.0
_GRACE = 10.0
"""Seconds that a process has to end by itself after the first signal; one more after the next."""

_PATIENCE = 5
"""Seconds on the wall for each second of CPU that is allowed: one may wait for nothing as well."""

Ending = tuple[str, int]
"""What is said of a process that had to be killed, and the exit code."""


class Watch:
    """One process, its limits, and how it ended.

    Attributes:
        code: exit code, where the process said it.
    """

    def __init__(self, process: int, told: int) -> None:
        """Begins; the process has no limits until it tells some.

        Args:
            process: its number, which is that of its group too.
            told: the pipe by which it tells (`job.watched`).
        """
        self.code: int | None = None
        self._process = process
        self._told = told
        self._rest = b""
        self._memory: float = 0
        self._seconds: float = 0
        self._doing = ""
        self._since = (0.0, 0.0)

    def wait(self, sent: Sequence[int]) -> tuple[int, Ending | None]:
        """Waits until the process is no more.

        Args:
            sent: the signals that were passed on to it, a list that grows.

        Returns:
            Its status, and what to tell where it had to be killed.
        """
        first: float | None = None
        while True:
            with contextlib.suppress(ValueError, OSError):
                ready, _, _ = select.select(
                    [self._told], [], [], _LOOK if self._memory or self._seconds or sent else _IDLE
                )
                if ready and not self._read():
                    return os.waitpid(self._process, 0)[1], None
            gone, status = os.waitpid(self._process, os.WNOHANG)
            if gone:
                while select.select([self._told], [], [], 0)[0] and self._read():
                    pass
                return status, None
            passed = self._passed()
            if sent:
                first = first or time.monotonic()
                if time.monotonic() - first > (_GRACE if len(sent) == 1 else 1.0):
                    passed = _stopped(sent[0])
            if passed is not None:
                self.kill()
                return os.waitpid(self._process, 0)[1], passed

    def kill(self) -> None:
        """Ends the process for good, and those that it has started."""
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(self._process, signal.SIGKILL)

    def _read(self) -> bool:
        """Takes what was told; False where the pipe has ended."""
        data = os.read(self._told, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, AttributeError):
                self._take(json.loads(line))
        return bool(data)

    def _take(self, message: dict[str, Any]) -> None:
        if "code" in message:
            self.code = int(message["code"])
            self._memory = self._seconds = 0
        if "memory" in message:
            self._memory = float(message["memory"])
        if "seconds" in message:
            self._seconds = float(message["seconds"])
            self._doing = str(message.get("doing", ""))
            self._since = (_cpu(self._process), time.monotonic())

    def _passed(self) -> Ending | None:
        """What it has taken too much of."""
        if self._memory and (taken := resident(self._process)) > self._memory:
            if self._doing == READING:
                return (
                    f"stopped: {READING} took {taken / 1e9:.3g} GB of memory (it is damaged; "
                    "--max-memory allows more)",
                    ExitCode.USAGE,
                )
            return (
                f"stopped: took {taken / 1e9:.3g} GB of memory, and this model may take "
                f"{self._memory / 1e9:.3g} GB (--max-memory allows more)",
                ExitCode.RESOURCES,
            )
        if self._seconds:
            cpu = _cpu(self._process) - self._since[0]
            wall = time.monotonic() - self._since[1]
            if cpu > self._seconds or wall > _PATIENCE * self._seconds:
                return (
                    f"stopped: {self._doing} came to no end after {cpu:.0f} s of CPU (the file is "
                    "damaged, or the network is too large for this machine)",
                    ExitCode.USAGE,
                )
        return None


def _stopped(number: int) -> Ending:
    if number == signal.SIGTERM:
        return "terminated; nothing was written", ExitCode.TERMINATED
    return "interrupted; nothing was written", ExitCode.INTERRUPTED


def resident(process: int) -> int:
    """Bytes of memory that a process and its children hold; 0 where that cannot be told."""
    total, waiting = 0, [process]
    page = os.sysconf("SC_PAGE_SIZE")
    while waiting:
        place = Path(f"/proc/{waiting.pop()}")
        with contextlib.suppress(OSError, ValueError, IndexError):
            sizes = (place / "statm").read_text(encoding="ascii").split()
            total += page * (int(sizes[1]) - int(sizes[2]))
        with contextlib.suppress(OSError, ValueError):
            for task in (place / "task").iterdir():
                children = (task / "children").read_text(encoding="ascii").split()
                waiting += [int(child) for child in children]
    return total


def _cpu(process: int) -> float:
    """Seconds of CPU that a process has taken; 0 where that cannot be told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0

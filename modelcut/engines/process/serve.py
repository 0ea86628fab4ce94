"""The other side of `_apart`: the loop of a process that holds networks and runs rows."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from modelcut.engines.process import wire
from modelcut.errors import ModelcutError

_PATIENCE = 5
"""Seconds on the wall for each second of CPU that is allowed: one may wait for nothing as well."""


class Served(Protocol):
    """A network in this process."""

    def about(self) -> dict[str, Any]:
        """What `_apart` makes a `Network` of."""

    def run(self, arrays: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """Rows through the network: the seconds that it took, and what came out."""


def serve(load: Callable[[dict[str, Any]], Served]) -> None:
    """Answers requests until stdin ends: loads networks, and runs rows through them.

    Args:
        load: function that makes the network that a request describes.
    """
    out = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is told too, and ends this process
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runners: list[Served] = []
    outputs: list[np.ndarray] = []
    while True:
        try:
            request, arrays = wire.receive(sys.stdin.buffer)
        except EOFError:
            return
        if request["limit"] is not None:
            wind(request["limit"])
        try:
            if "run" in request:
                used = time.process_time()
                seconds, outputs = runners[request["run"]].run(arrays)
                answer: dict[str, Any] = {"seconds": seconds, "cpu": time.process_time() - used}
            else:
                runners.append(load(request))
                answer = {**runners[-1].about(), "number": len(runners) - 1}
        except ModelcutError as error:
            answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        except MemoryError:
            answer = {"error": "ResourceError", "message": "out of memory", "hint": ""}
        except Exception as error:  # noqa: BLE001 - engines raise whatever they meet
            answer = {"error": "", "message": str(error) or type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)
        wire.send(out, answer, () if "error" in answer else outputs)
        arrays, outputs = [], []


def wind(seconds: float) -> None:
    """Has the kernel end this process (SIGXCPU, SIGALRM) if it does not come back in time.

    Args:
        seconds: CPU time allowed from now on, over all threads; the wall time allowed is a multiple
            of it.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE * seconds)

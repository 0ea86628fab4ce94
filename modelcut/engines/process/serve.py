"""The other side of `host`: the loop of a process that holds networks and runs rows."""

from __future__ import annotations

import contextlib
import gc
import io
import math
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from modelcut.engines.process import wire
from modelcut.errors import ModelcutError

IDLE_SECONDS = 600
"""Seconds after which a process that holds no network ends itself."""
_PATIENCE = 5
"""Seconds on the wall for each second of CPU that is allowed: one may wait for nothing as well."""


class Served(Protocol):
    """A network in this process."""

    def about(self) -> dict[str, Any]:
        """What `host` makes a `Network` of."""

    def run(self, arrays: list[np.ndarray], *, exact: bool) -> tuple[float, list[np.ndarray]]:
        """Rows through the network: the seconds that it took, and what came out.

        Args:
            arrays: one for each input.
            exact: see `engines.Network`.
        """


def serve(
    load: Callable[[dict[str, Any]], Served], start: Callable[[], None] = lambda: None
) -> None:
    """Answers requests until stdin ends: loads networks, and runs rows through them.

    Args:
        load: function that makes the network that a request describes.
        start: what is done before the first request is read.
    """
    out = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is told too, and ends this process
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start()
    runners: dict[int, Served] = {}
    outputs: list[np.ndarray] = []
    count = 0
    source = io.FileIO(0, closefd=False)  # `_comes` sees what is not read yet
    while runners or _comes(source):
        try:
            request, arrays = wire.receive(source)
        except EOFError:
            return
        if [runners.pop(number, None) for number in request["gone"]]:
            gc.collect()
        if request.get("quiet"):
            continue
        if request["limit"] is not None:
            wind(request["limit"])
        try:
            if "run" in request:
                used = time.process_time()
                gc.disable()  # a search for garbage is no part of a latency
                seconds, outputs = runners[request["run"]].run(arrays, exact=request["exact"])
                answer: dict[str, Any] = {"seconds": seconds, "cpu": time.process_time() - used}
            else:
                made = load(request)
                answer = {**made.about(), "number": count}
                runners[count] = made
                count += 1
        except ModelcutError as error:
            answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        except MemoryError:
            answer = {"error": "ResourceError", "message": "out of memory", "hint": ""}
        except Exception as error:  # noqa: BLE001 - engines raise whatever they meet
            answer = {"error": "", "message": str(error) or type(error).__name__}
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        wire.send(out, answer, () if "error" in answer else outputs)
        arrays, outputs = [], []


def _comes(source: Any) -> bool:
    """Waits for a request; False where none comes for long."""
    return bool(select.select([source], [], [], IDLE_SECONDS)[0])


def _end_with_parent() -> None:
    """Ends this process where its parent is no more, whatever it does: nobody waits for it."""
    poll = select.poll()
    poll.register(0, 0)  # nothing but the end of the other side
    with contextlib.suppress(OSError):
        poll.poll()
        time.sleep(1)  # who reads comes to the end by itself
        os._exit(0)


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

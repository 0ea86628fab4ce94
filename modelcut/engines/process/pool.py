"""The process that holds TensorFlow: one for all networks of it, and for job after job.

It starts in two or three seconds, so it is started as soon as a job knows that it will need it, and
stays for the next one. A process that idles ends itself (`serve`).
"""

from __future__ import annotations

import threading
import time

from modelcut.engines.process import serve
from modelcut.engines.process.host import Host

NAME = "TensorFlow"
_MOST_NETWORKS = 100
"""Networks that are loaded into one process: TensorFlow does not give back all of their memory."""
_lock = threading.Lock()
_kept: list[tuple[Host, float]] = []
"""The present one, and when it was last asked for."""


def tensorflow(library: str) -> Host:
    """The process, which may still be starting.

    Args:
        library: what a new one imports at once: tensorflow, keras, tf_keras.
    """
    with _lock:
        host = _kept[0][0] if _kept else None
        if host is not None and not host.networks:
            idle = time.monotonic() - _kept[0][1]
            if idle > serve.IDLE_SECONDS / 2 or host.loaded >= _MOST_NETWORKS:
                host = None
        if host is None or not host.usable:
            host = Host(NAME, "process.tensorflow", library)
        _kept[:] = [(host, time.monotonic())]
        return host


def forget() -> None:
    """Leaves the present process to those that have networks in it."""
    with _lock:
        _kept.clear()

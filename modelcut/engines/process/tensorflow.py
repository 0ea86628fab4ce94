"""The process that holds TensorFlow, and a Keras on it where asked; `pool` starts it.

Called with the library that is imported at once, while nothing has been asked yet.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from modelcut import engines
from modelcut.engines.process import serve


class _Runner:
    """See `serve.Served`."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Loads what a request describes, with the arguments of `engines.load_here`."""
        self._network = engines.load_here(Path(request["file"]), **request["how"])

    def about(self) -> dict[str, Any]:
        network = self._network
        return {
            "engine": network.engine,
            "fixed_batch": network.fixed_batch,
            "inside": list(getattr(network, "inside", ())),
            "inputs": [
                {"name": spec.name, "shape": spec.shape, "dtype": spec.dtype}
                for spec in network.inputs
            ],
            "outputs": [
                {
                    "name": spec.name,
                    "shape": spec.shape,
                    "activation": spec.activation,
                    "alias": spec.alias,
                    "keyed": spec.keyed,
                }
                for spec in network.outputs
            ],
        }

    def run(self, arrays: list[np.ndarray], *, exact: bool) -> tuple[float, list[np.ndarray]]:
        names = [spec.name for spec in self._network.inputs]
        start = time.perf_counter()
        outputs = self._network.predict(dict(zip(names, arrays, strict=True)), exact=exact)
        return time.perf_counter() - start, outputs


def _within_memory() -> None:
    """No more address space than there is memory: a lying shape must not eat the machine.

    TensorFlow's own comes on top. A GPU's driver maps far more than it uses: there is no limit.
    """
    tf = engines.imported("tensorflow")
    if tf.config.list_physical_devices("GPU"):
        return
    with contextlib.suppress(OSError, ValueError):
        page = os.sysconf("SC_PAGE_SIZE")
        mapped = int(Path("/proc/self/statm").read_text().split()[0])
        limit = page * (mapped + os.sysconf("SC_PHYS_PAGES"))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _start(library: str) -> None:
    # A library that is missing, or broken, is told when a network needs it.
    with contextlib.suppress(Exception), tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        engines.prepare(folder)
        _within_memory()
        engines.imported(library)


if __name__ == "__main__":
    serve.serve(_Runner, lambda: _start(sys.argv[1]))

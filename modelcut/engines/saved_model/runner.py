"""The process that holds TensorFlow for SavedModels; `saved_model` asks it."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.engines import imported
from modelcut.engines.process import serve
from modelcut.engines.saved_model.signature import SignatureNetwork


class Runner:
    """See `serve.Served`."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Loads what the request names: `path`, and `signature` of it."""
        self._network = SignatureNetwork(Path(request["path"]), request["signature"])

    def about(self) -> dict[str, Any]:
        network = self._network
        return {
            "engine": network.engine,
            "fixed_batch": network.fixed_batch,
            "inputs": [
                {"name": spec.name, "shape": spec.shape, "dtype": spec.dtype}
                for spec in network.inputs
            ],
            "outputs": [
                {
                    "name": spec.name,
                    "shape": spec.shape,
                    "activation": spec.activation,
                    "keyed": spec.keyed,
                }
                for spec in network.outputs
            ],
        }

    def run(self, arrays: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        names = [spec.name for spec in self._network.inputs]
        start = time.perf_counter()
        outputs = self._network.predict(dict(zip(names, arrays, strict=True)))
        return time.perf_counter() - start, outputs


def _within_memory() -> None:
    """No more address space than there is memory: a lying shape must not eat the machine.

    TensorFlow's own comes on top. A GPU's driver maps far more than it uses: there is no limit.
    """
    tf = imported("tensorflow")
    if tf.config.list_physical_devices("GPU"):
        return
    with contextlib.suppress(OSError, ValueError):
        page = os.sysconf("SC_PAGE_SIZE")
        mapped = int(Path("/proc/self/statm").read_text().split()[0])
        limit = page * (mapped + os.sysconf("SC_PHYS_PAGES"))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    _within_memory()
    serve.serve(Runner)

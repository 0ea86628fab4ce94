"""TensorFlow itself, for SavedModels: runs a signature of one in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.engines import Bounds
from modelcut.engines.process import child
from modelcut.engines.process.host import LOAD_SECONDS
from modelcut.engines.process.networks import TensorFlowNetwork

NAME = "TensorFlow"
ROW_SECONDS = 120
"""Seconds of CPU that one row, or a fixed batch, may take."""
STAGE_SECONDS = LOAD_SECONDS
"""Seconds of CPU that loading a network for export, and exporting it, may take each."""
_QUICK = 1.0
_SLACK = 10


class SavedModelNetwork(TensorFlowNetwork):
    """A signature of a SavedModel; see `Network`."""

    _pace: float | None = None

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `Network`."""
        del exact  # a signature is traced already: no batch needs a new one
        arrays = [inputs[spec.name] for spec in self.inputs]
        rows = len(arrays[0])
        if self._pace is None:
            self._pace = self._paced(arrays, self.fixed_batch or 1)
        limit = ROW_SECONDS + _SLACK * self._pace * rows
        return self._run(arrays, limit, f"after {limit:.0f} s of CPU on {rows} rows")[1]

    def _paced(self, arrays: list[np.ndarray], size: int) -> float:
        """Seconds of CPU that a row takes; the first time, which prepares the graph, is none."""
        cpu = 0.0
        for _ in range(2):
            answer, _ = self._run(
                [array[:size] for array in arrays],
                ROW_SECONDS,
                f"after {ROW_SECONDS} s of CPU on one row",
            )
            cpu = float(answer["cpu"])
            if cpu > _QUICK:
                break
        return cpu / size


def load(
    path: Path, loss: Any, how: Mapping[str, Any], shown: str, bounds: Bounds | None
) -> SavedModelNetwork:
    """Loads a SavedModel; what is in it was looked at before."""
    return SavedModelNetwork(path.resolve(), loss, how, shown, bounds)


def export(request: Mapping[str, Any]) -> dict[str, Any]:
    """Has Keras make a SavedModel; `request` is what `exporter` takes.

    Raises:
        InputError: it cannot; one line of its reason. Or it came to no end.
        ResourceError: it was killed, for want of memory.
    """
    return child.ask(
        "saved_model.exporter",
        {**request, "seconds": STAGE_SECONDS},
        what="Keras's export {} on it",
        hint="name the output .h5 or .keras",
    )

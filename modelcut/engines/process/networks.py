"""Networks of TensorFlow and Keras in the process that holds TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.engines import Bounds, library_of
from modelcut.engines.process import pool
from modelcut.engines.process.host import NetworkApart


class TensorFlowNetwork(NetworkApart):
    """A network of any dialect but LiteRT's; see `Network`."""

    def __init__(
        self, path: Path, loss: Any, how: Mapping[str, Any], shown: str, bounds: Bounds | None
    ) -> None:
        """Has it loaded.

        Args:
            path: path of the file, whose suffix is that of its format.
            loss: the loss that the model was compiled with, or None.
            how: the other arguments of `engines.load_here`.
            shown: name of the file in messages.
            bounds: what it may take.
        """
        host = pool.tensorflow(library_of(how["dialect"]))
        super().__init__(host, {"file": str(path), "how": how}, shown, bounds)
        self.loss = loss
        self._bounds = bounds or Bounds()

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `Network`."""
        limit = self._bounds.batch_seconds
        arrays = [inputs[spec.name] for spec in self.inputs]
        return self._run(arrays, limit, f"after {limit:.0f} s of CPU", exact=exact)[1]


def load(
    path: Path, loss: Any, how: Mapping[str, Any], shown: str, bounds: Bounds | None
) -> TensorFlowNetwork:
    """Loads a network; what is in it was looked at before."""
    return TensorFlowNetwork(path, loss, how, shown, bounds)

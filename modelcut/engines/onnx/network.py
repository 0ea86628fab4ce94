"""ONNX: has Keras make an `.onnx`, and onnxruntime run one; each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.engines import Bounds
from modelcut.engines.process import child
from modelcut.engines.process.host import LOAD_SECONDS, Host, NetworkApart
from modelcut.errors import InputError, UsageError

NAME = "onnxruntime"
ROW_SECONDS = 120
"""Seconds of CPU that one row may take: a loop in an `.onnx` may have no end."""
STAGE_SECONDS = LOAD_SECONDS
_HINT = 'pip install "modelcut[onnx]"'


class OnnxNetwork(NetworkApart):
    """An `.onnx` behind onnxruntime; see `Network`."""

    def __init__(self, path: Path, shown: str = "") -> None:
        """Loads it.

        Raises:
            UsageError: onnxruntime is not installed.
            InputError: it cannot load the file.
        """
        if find_spec("onnxruntime") is None:
            raise UsageError("running it needs onnxruntime", _HINT)
        host = Host(NAME, "onnx.runner", str(path.resolve()))
        super().__init__(host, {}, shown or str(path))

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `Network`."""
        del exact
        by_name = all(spec.name in inputs for spec in self.inputs)
        arrays = [inputs[s.name] for s in self.inputs] if by_name else list(inputs.values())
        if len(arrays) != len(self.inputs):
            raise InputError(f"{self.shown}: takes {len(self.inputs)} inputs, not {len(arrays)}")
        limit = float(ROW_SECONDS * len(arrays[0]))
        return self._run(arrays, limit, f"after {limit:.0f} s of CPU on {len(arrays[0])} rows")[1]


def load(
    path: Path, loss: Any, how: Mapping[str, Any], shown: str, bounds: Bounds | None
) -> OnnxNetwork:
    """Starts onnxruntime on a file."""
    del loss, how, bounds
    return OnnxNetwork(path, shown)


def export(request: Mapping[str, Any]) -> dict[str, Any]:
    """Has Keras make an `.onnx`; `request` is what `exporter` takes.

    Raises:
        InputError: it cannot; one line of its reason. Or it came to no end.
        ResourceError: it was killed, for want of memory.
    """
    return child.ask(
        "onnx.exporter",
        {**request, "seconds": STAGE_SECONDS},
        what="Keras' export to ONNX {} on it",
        hint="name the output .h5, .keras or .tflite",
    )

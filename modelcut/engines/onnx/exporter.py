"""The process that makes an `.onnx` of a Keras file, by Keras 3's own export (tf2onnx)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from modelcut.engines.onnx import stable
from modelcut.engines.process import child
from modelcut.engines.process.exporting import exporting


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the network and exports it; see `exporting`."""
    hint = "name the output .h5, .keras or .tflite"
    with exporting(request, form="ONNX", hint=hint) as network:
        if not hasattr(np, "object"):  # tf2onnx asks for it; NumPy 1.24 has removed it
            np.object = object  # type: ignore[attr-defined]
        # Keras exports a model that was called; a loaded Sequential was not.
        shapes = [[1, *(n or 1 for n in spec.shape)] for spec in network.inputs]
        rows = [np.zeros(s, spec.dtype) for s, spec in zip(shapes, network.inputs, strict=True)]
        network.model(rows if len(rows) > 1 else rows[0])
        network.model.export(request["target"], format="onnx", verbose=False)
        stable.rewrite(request["target"])
    return {"exporter": f"{network.engine}, tf2onnx {version('tf2onnx')}"}


if __name__ == "__main__":
    import tf2onnx  # noqa: F401 - by whom Keras exports; its absence is told first

    child.answer(export)

"""The process that makes an `.onnx` of a Keras file, by Keras 3's own export (tf2onnx)."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from modelcut import engines
from modelcut.engines.keras.tf_errors import reason
from modelcut.engines.onnx import stable
from modelcut.engines.process import child
from modelcut.engines.process.serve import wind
from modelcut.errors import InputError


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the network and exports it.

    What takes longer than the request allows ends this process.

    Raises:
        InputError: Keras cannot load or export it.
    """
    wind(request["seconds"])
    custom = request["custom_objects"]
    network: Any = engines.open_network(
        Path(request["source"]),
        request["dialect"],
        suffix=request["suffix"],
        trust=request["trust"],
        custom_objects=engines.load_custom_objects(custom) if custom else {},
        apart=False,
    )
    wind(request["seconds"])
    with engines.quiet():
        try:
            if not hasattr(np, "object"):  # tf2onnx asks for it; NumPy 1.24 has removed it
                np.object = object  # type: ignore[attr-defined]
            # Keras exports a model that was called; a loaded Sequential was not.
            shapes = [[1, *(n or 1 for n in spec.shape)] for spec in network.inputs]
            rows = [np.zeros(s, spec.dtype) for s, spec in zip(shapes, network.inputs, strict=True)]
            network.model(rows if len(rows) > 1 else rows[0])
            network.model.export(request["target"], format="onnx", verbose=False)
            stable.rewrite(request["target"])
        except Exception as error:  # noqa: BLE001 - Keras and tf2onnx raise whatever they meet
            raise InputError(
                f"{request['shown']}: Keras cannot export it to ONNX: {reason(error)}",
                "name the output .h5, .keras or .tflite",
            ) from None
    return {"exporter": f"{network.engine}, tf2onnx {version('tf2onnx')}"}


if __name__ == "__main__":
    import tf2onnx  # noqa: F401 - by whom Keras exports; its absence is told first

    child.answer(export)

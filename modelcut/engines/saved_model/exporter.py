"""The process that makes a SavedModel of a Keras file, in the way of the Keras that it is of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelcut import engines
from modelcut.engines.keras.tf_errors import value_of
from modelcut.engines.process import child
from modelcut.engines.process.serve import wind
from modelcut.errors import InputError
from modelcut.safety import printable


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the network and writes the folder, with a signature for serving.

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
            if request["dialect"] == "keras3":
                with _in_order(network.model):
                    network.model.export(request["target"], format="tf_saved_model", verbose=False)
            else:
                network.model.save(request["target"], save_format="tf")
        except Exception as error:  # noqa: BLE001 - Keras raises whatever it meets
            reason = printable(" ".join(str(error).split()) or type(error).__name__, 240)
            raise InputError(
                f"{request['shown']}: {network.engine} cannot export it: {reason}",
                "name the output .h5 or .keras",
            ) from None
    return {"exporter": network.engine}


@contextlib.contextmanager
def _in_order(model: Any) -> Iterator[None]:
    """Has Keras 3 list the weights in the model's order.

    It takes them from a set of TensorFlow's, whose order is that of memory addresses: no two
    exports would be alike. A Keras that does so elsewhere exports as it does.
    """
    from keras.export import ExportArchive

    kind = type(ExportArchive())
    track = getattr(kind, "_filter_and_track_resources", None)
    if track is None:
        yield
        return
    places = {id(value_of(v)): place for place, v in enumerate(model.variables)}

    def tracked(archive: Any) -> None:
        track(archive)
        kept = archive._tf_trackable
        found = list(kept._all_variables)
        kept._all_variables = sorted(found, key=lambda v: places.get(id(v), len(places)))

    kind._filter_and_track_resources = tracked
    try:
        yield
    finally:
        kind._filter_and_track_resources = track


if __name__ == "__main__":
    child.answer(export)

"""The process that makes a SavedModel of a Keras file, in the way of the Keras that it is of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from modelcut.engines.keras.tf_errors import value_of
from modelcut.engines.process import child
from modelcut.engines.process.exporting import exporting


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the network and writes the folder, with a signature for serving; see `exporting`."""
    hint = "name the output .h5 or .keras"
    with exporting(request, form="a SavedModel", hint=hint) as network:
        if request["dialect"] == "keras3":
            with _in_order(network.model):
                network.model.export(request["target"], format="tf_saved_model", verbose=False)
        else:
            network.model.save(request["target"], save_format="tf")
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

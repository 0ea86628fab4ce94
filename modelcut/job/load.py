"""Loading a model of any format into Keras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.formats import registry
from modelcut.job.convert import _check_layers


def load(path: Path, trust: bool, custom_objects: Mapping[str, Any]) -> Any:
    """A model of any kind that modelcut reads as a Keras model; see `modelcut.load`."""
    from modelcut import engines

    safety.check_path(path)
    model = registry.open_model(path)
    if not registry.check_runnable(model, trust=trust):
        _check_layers(model, trust=trust, custom=custom_objects)
    with registry.plain_file(path, model) as (file, suffix):
        network: Any = engines.open_network(
            file,
            model.origin.dialect,
            suffix=suffix,
            trust=trust,
            custom_objects=custom_objects,
            apart=False,
        )
    return getattr(network, "loaded", network.model)

"""Loading a model of any format into Keras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.formats import registry
from modelcut.job.check import check_runnable
from modelcut.job.request import Trust


def load(path: Path, trust: bool, custom_objects: Mapping[str, Any]) -> Any:
    """A model of any kind that modelcut reads as a Keras model; see `modelcut.load`."""
    from modelcut import engines

    safety.check_path(path)
    with registry.open_model(path) as model:
        check_runnable(model, Trust(trust), custom_objects)
        with registry.plain_file(model) as (file, suffix):
            network: Any = engines.open_network(
                file,
                model.origin.dialect,
                suffix=suffix,
                trust=trust,
                custom_objects=custom_objects,
                apart=False,
            )
    return getattr(network, "loaded", network.model)

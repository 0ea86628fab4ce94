"""Keras 3, for files that it wrote."""

from __future__ import annotations

import contextlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from modelcut.engines import imported
from modelcut.engines.keras import network
from modelcut.engines.keras.network import KerasNetwork
from modelcut.graph.keras import operations

NAME = "Keras 3"


def load(
    path: Path,
    loss: Any,
    trust: bool,
    custom_objects: dict[str, Any],
    *,
    mixed: bool = True,
) -> KerasNetwork:
    """Loads a model without compiling it."""
    keras = imported("keras")
    keras.config.set_floatx("float32")
    if path.suffix == ".h5":
        custom_objects = {**_operations(path), **custom_objects}
    if trust:
        keras.config.enable_unsafe_deserialization()
    policy = keras.DTypePolicy
    with network.in_float32(policy) if not mixed else contextlib.nullcontext(()) as replaced:
        model = keras.models.load_model(
            path, custom_objects=custom_objects, compile=False, safe_mode=not trust
        )
    return KerasNetwork(model, f"keras {keras.__version__}", loss, keras, replaced)


def _operations(path: Path) -> dict[str, Any]:
    """The operations of an `.h5` file by their class, for which Keras would look among its layers.

    One that shares its name with a layer finds both, told apart by their configurations.
    """
    import h5py

    keras = imported("keras")
    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config", "{}")
    found = operations.used(json.loads(text))
    classes: dict[str, Any] = {}
    for name, module in found.items():
        operation = getattr(import_module(module), name, None)
        if operation is not None:
            classes[name] = _either(name, operation, getattr(keras.layers, name, None))
    return classes


def _either(name: str, operation: Any, layer: Any) -> type:
    def from_config(config: dict[str, Any]) -> Any:
        is_layer = layer is not None and ("dtype" in config or "trainable" in config)
        return (layer if is_layer else operation).from_config(config)

    return type(name, (), {"from_config": staticmethod(from_config)})


def set_seed(seed: int) -> None:
    """Seeds whatever is random in it (dropout, noise); Keras takes 32 bits."""
    keras = imported("keras")
    keras.utils.set_random_seed(seed % (1 << 32))

"""Keras 3, for files that it wrote."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from modelcut.engines import imported
from modelcut.engines.keras import network
from modelcut.engines.keras.network import KerasNetwork

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
    if trust:
        keras.config.enable_unsafe_deserialization()
    policy = keras.DTypePolicy
    with network.in_float32(policy) if not mixed else contextlib.nullcontext(()) as replaced:
        model = keras.models.load_model(
            path, custom_objects=custom_objects, compile=False, safe_mode=not trust
        )
    made = KerasNetwork(_functional(keras, model), f"keras {keras.__version__}", loss, replaced)
    made.loaded = model
    return made


def _functional(keras: Any, model: Any) -> Any:
    """A model of its author's own class as one with inputs and outputs; any other as it is.

    Raises:
        ValueError: it does not say what goes in.
    """
    if getattr(model, "inputs", None):
        return model
    shape = (model.get_build_config() or {}).get("input_shape")
    flat = isinstance(shape, (list, tuple)) and all(n is None or isinstance(n, int) for n in shape)
    if not flat or not shape:
        raise ValueError("a model of its author's own class runs here with one input only")
    start = keras.Input(tuple(shape)[1:], dtype=model.input_dtype)
    return keras.Model(start, model(start))


def set_seed(seed: int) -> None:
    """Seeds whatever is random in it (dropout, noise); Keras takes 32 bits."""
    keras = imported("keras")
    keras.utils.set_random_seed(seed % (1 << 32))

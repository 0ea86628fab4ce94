"""tf_keras, the Keras 2 that still runs on today's TensorFlow, for older files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelcut.engines import imported
from modelcut.engines.keras.network import KerasNetwork

NAME = "tf_keras"


def load(path: Path, loss: str | None, trust: bool, custom_objects: dict[str, Any]) -> KerasNetwork:
    """Loads a model without compiling it."""
    tf_keras = imported("tf_keras")
    tf_keras.backend.set_floatx("float32")
    model = tf_keras.models.load_model(
        path, custom_objects=custom_objects, compile=False, safe_mode=not trust
    )
    return KerasNetwork(model, f"tf_keras {tf_keras.__version__}", loss, tf_keras)


def set_seed(seed: int) -> None:
    """Seeds whatever is random in it (dropout, noise); Keras takes 32 bits."""
    tf_keras = imported("tf_keras")
    tf_keras.utils.set_random_seed(seed % (1 << 32))

"""tf_keras, the Keras 2 that still runs on today's TensorFlow, for older files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from modelcut.engines import imported
from modelcut.engines.keras import network
from modelcut.engines.keras.network import KerasNetwork

NAME = "tf_keras"


def load(
    path: Path,
    loss: Any,
    trust: bool,
    custom_objects: dict[str, Any],
    *,
    mixed: bool = True,
) -> KerasNetwork:
    """Loads a model without compiling it."""
    tf_keras = imported("tf_keras")
    tf_keras.backend.set_floatx("float32")
    policy = tf_keras.mixed_precision.Policy
    with network.in_float32(policy) if not mixed else contextlib.nullcontext(()) as replaced:
        model = tf_keras.models.load_model(
            path, custom_objects=custom_objects, compile=False, safe_mode=not trust
        )
    return KerasNetwork(model, f"tf_keras {tf_keras.__version__}", loss, tf_keras, replaced)


def set_seed(seed: int) -> None:
    """Seeds whatever is random in it (dropout, noise); Keras takes 32 bits."""
    tf_keras = imported("tf_keras")
    tf_keras.utils.set_random_seed(seed % (1 << 32))

"""The loss that a model was compiled with."""

from __future__ import annotations

from typing import Any

from modelcut import safety
from modelcut.model.model import Model


def error_in(loss: str | None) -> str:
    """Which error of numbers a loss's name means."""
    name = (loss or "").lower()
    if "absolute" in name or name == "mae":
        return "mae"
    return "huber" if "huber" in name or "cosh" in name else "mse"


def loss_of(model: Model) -> Any:
    """The loss that the model was compiled with, as its compile configuration says it; or None."""
    training: Any = None
    if model.architecture is not None:
        training = model.architecture.root.get("compile_config")
    elif model.origin.configuration:
        root = safety.load_json(
            model.origin.configuration, where=str(model.origin.path), what="model configuration"
        )
        training = root.get("compile_config")
    if model.origin.training:
        training = safety.load_json(
            model.origin.training, where=str(model.origin.path), what="training configuration"
        )
    return training.get("loss") if isinstance(training, dict) else None

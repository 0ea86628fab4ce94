"""How a model was compiled: a part of the architecture in `.keras`, an attribute of an `.h5`.

Both tell optimizer, loss and metrics; in `.keras` each object names the module that it is of. What
cannot be said in the other's way is left out: the model then is one that was never compiled.
"""

from __future__ import annotations

from typing import Any

from modelcut.graph.architecture import Dialect

_OPTIMIZERS = frozenset(
    "SGD RMSprop Adagrad Adadelta Adam AdamW Adamax Nadam Ftrl Adafactor Lion Lamb Muon".split()
)


def for_keras(training: Any, dialect: Dialect) -> dict[str, Any] | None:
    """The `training_config` of an `.h5` as the `compile_config` of a `.keras` file."""
    if not isinstance(training, dict):
        return None
    config = {key: _by_name(value) for key, value in training.items() if key != "optimizer_config"}
    optimizer = training.get("optimizer_config")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("config"), dict):
        return None
    settings = optimizer["config"]
    name = str(optimizer.get("class_name")).removeprefix("Custom>")
    if name not in _OPTIMIZERS or not _plain(config) or not _plain(settings):
        return None
    # Since 2.11 Keras 2 has two families; the older one calls these so.
    old = dialect is Dialect.KERAS2 and ("decay" in settings or "lr" in settings)
    module = "keras.optimizers.legacy" if old else "keras.optimizers"
    named = {"module": module, "class_name": name, "config": settings, "registered_name": None}
    return {"optimizer": named, **config}


def for_h5(compiled: Any) -> dict[str, Any] | None:
    """The inverse of `for_keras`: without an optimizer Keras compiles no `.h5`."""
    if not isinstance(compiled, dict):
        return None
    optimizer = compiled.get("optimizer")
    if isinstance(optimizer, str):
        optimizer = {"class_name": optimizer, "config": {}}
    if not isinstance(optimizer, dict) or "class_name" not in optimizer:
        return None
    rest = {key: value for key, value in compiled.items() if key != "optimizer"}
    kept = {key: optimizer.get(key) for key in ("class_name", "config")}
    return {"loss_weights": None, **rest, "optimizer_config": kept}


def _by_name(value: Any) -> Any:
    """Metrics that Keras 2 has made of functions, as the functions' names."""
    if isinstance(value, dict):
        inner = value.get("config")
        if value.get("class_name") == "MeanMetricWrapper" and isinstance(inner, dict):
            return inner.get("fn")
        return {key: _by_name(item) for key, item in value.items()}
    return [_by_name(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> bool:
    """Whether there is no object in it that a `.keras` file would have to name the module of."""
    if isinstance(value, dict):
        named = "class_name" not in value or "module" in value
        return named and all(map(_plain, value.values()))
    return not isinstance(value, list) or all(map(_plain, value))

"""modelcut: makes Keras model files smaller and faster, from the shell."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

__version__ = "0.1.0"


def load(
    path: str | PathLike[str],
    *,
    trust: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a model file of any kind that modelcut reads, packed ones too, into Keras.

    Args:
        path: of the file.
        trust: let code in the file run.
        custom_objects: your own layers and functions, by name.

    Returns:
        A Keras model, not compiled: of Keras 3, or of `tf_keras` where the file is older; of a
        SavedModel, what `tf.saved_model.load` gives, with its `signatures`.

    Raises:
        InputError: the file is broken, holds weights only, or Keras cannot load it.
        UnsafeError: the file would run code of its own.
    """
    from pathlib import Path

    from modelcut.job.load import load as load_model

    return load_model(Path(path), trust, custom_objects or {})

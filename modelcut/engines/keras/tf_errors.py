"""TensorFlow's errors and variables in modelcut's terms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from modelcut.errors import InputError, ResourceError
from modelcut.safety import printable


def value_of(variable: Any) -> Any:
    """TensorFlow's variable in one of Keras 3; tf_keras's own are TensorFlow's."""
    return getattr(variable, "_value", variable) if hasattr(variable, "path") else variable


@contextlib.contextmanager
def translated(hint: str = "") -> Iterator[None]:
    """TensorFlow's errors as ours.

    Args:
        hint: what samples the network takes.

    Raises:
        ResourceError: out of memory.
        InputError: the rows do not fit the network.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise ResourceError(
            "out of memory while training the network", "a smaller batch_size needs less"
        ) from None
    except (tf.errors.OpError, ValueError, TypeError) as error:
        text = printable(" ".join(str(error).split()), 240)
        raise InputError(f"the network cannot be trained on these samples: {text}", hint) from None

"""TensorFlow's errors and variables in modelcut's terms."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from modelcut.errors import InputError, ResourceError
from modelcut.safety import colourless, printable


def value_of(variable: Any) -> Any:
    """TensorFlow's variable in one of Keras 3; tf_keras's own are TensorFlow's."""
    return getattr(variable, "_value", variable) if hasattr(variable, "path") else variable


def reason(error: BaseException) -> str:
    """What of an error's text is for a user: neither the lines of our code nor the arguments."""
    text = colourless(str(error))
    if found := list(_RAISED.finditer(text)):
        text = text[found[-1].end() :]
    text = _CALLING.sub("", text.partition("Arguments received by")[0])
    return printable(" ".join(text.split()) or type(error).__name__, 240)


_RAISED = re.compile(r"^ *[A-Z]\w*(?:Error|Exception): ", re.MULTILINE)
"""Before the message, where TensorFlow has put the lines of a traced function before it."""
_CALLING = re.compile(r"^\s*Exception encountered when calling [^\n]*")


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
        text = reason(error)
        raise InputError(f"the network cannot be trained on these samples: {text}", hint) from None

"""The states of a recurrent layer, which its recurrent kernel multiplies, by its equations.

The equations are those of Keras (SimpleRNN; LSTM: Hochreiter and Schmidhuber 1997; GRU: Cho et al.
2014, and with `reset_after` the form of cuDNN).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_KNOWN = frozenset({"SimpleRNN", "LSTM", "GRU"})


def _sigmoid(x: np.ndarray) -> np.ndarray:
    half: np.ndarray = 0.5 * np.tanh(0.5 * x) + 0.5
    return half


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda x: np.tanh(x),  # by its name: help starts without NumPy
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}


def knows(class_name: str, config: Mapping[str, Any]) -> bool:
    """Whether the states of such a layer can be computed here."""
    if class_name not in _KNOWN:
        return False
    names = [config.get("activation", "tanh"), config.get("recurrent_activation", "sigmoid")]
    return all(isinstance(name, str) and name in _ACTIVATIONS for name in names)


def states(
    class_name: str,
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    given: np.ndarray,
) -> np.ndarray:
    """The state before each step.

    Args:
        class_name: SimpleRNN, LSTM or GRU.
        config: of the layer.
        weights: kernel, recurrent_kernel and, with a bias, bias.
        given: the inputs in the order in which they are read, (rows, steps, inputs). A mask is not
            known here: masked steps count as any other.

    Returns:
        Of the shape (rows, steps, units).
    """
    if config.get("go_backwards"):
        given = given[:, ::-1]
    kernel, own = weights["kernel"], weights["recurrent_kernel"]
    after = class_name == "GRU" and bool(config.get("reset_after", True))
    none = np.zeros((2, kernel.shape[-1]) if after else kernel.shape[-1], np.float32)
    bias = weights.get("bias", none)
    activation = _ACTIVATIONS[config.get("activation", "tanh")]
    gate = _ACTIVATIONS[config.get("recurrent_activation", "sigmoid")]
    units = own.shape[0]
    ahead = given @ kernel + (bias[0] if after else bias)
    h = np.zeros((len(given), units), np.float32)
    c = np.zeros_like(h)
    found = np.empty((*given.shape[:2], units), np.float32)
    for step in range(given.shape[1]):
        found[:, step] = h
        x = ahead[:, step]
        if class_name == "SimpleRNN":
            h = activation(x + h @ own)
        elif class_name == "LSTM":
            i, f, m, o = np.split(x + h @ own, 4, axis=1)
            c = gate(f) * c + gate(i) * activation(m)
            h = gate(o) * activation(c)
        else:
            xz, xr, xm = np.split(x, 3, axis=1)
            if after:
                hz, hr, hm = np.split(h @ own + bias[1], 3, axis=1)
                z, r = gate(xz + hz), gate(xr + hr)
                m = activation(xm + r * hm)
            else:
                hz, hr = np.split(h @ own[:, : 2 * units], 2, axis=1)
                z, r = gate(xz + hz), gate(xr + hr)
                m = activation(xm + (r * h) @ own[:, 2 * units :])
            h = z * h + (1 - z) * m
    return found

"""The process that compares a `.tflite` with a Keras network, layer by layer.

A layer's output is found in the file by values, not by names: the same network converted without
quantization (the twin) gives it to the last digits at one operator. What the converter merges into
the operator after it, such as a convolution before its activation, is nowhere in the file.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modelcut import engines
from modelcut.engines.litert import converter
from modelcut.engines.litert.inside import Inside, alike
from modelcut.engines.process import child
from modelcut.engines.process.serve import wind
from modelcut.errors import InputError

_SAME = 1e-7  # squared error over squared signal of one sum in two orders, in float32
_LOOKS = 2


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Runs samples through the network and the file, one by one.

    Returns:
        "samples"; "layers": for each layer that is in the file "layer", "class", "mse" and
        "sqnr_db" (None where no output differs), in the network's order; "unmatched": layer -> why
        it is not among them.

    Raises:
        InputError: no sample, or the network cannot be converted.
    """
    wind(request["seconds"]["stage"])
    network = converter.opened(request)
    rows, _ = converter.calibration_rows(request, network)
    if not rows:
        raise InputError(f"{request['calibrate']}: has no samples", "--layer-errors needs some")
    layers = list(_layers(network.model))
    with engines.quiet():
        twin = Inside(converter.in_floats(network, request))
        made = Inside(Path(request["target"]).read_bytes())
        places, why = _places(network, layers, twin, made, rows[:_LOOKS], request)
        sums = {name: np.zeros(3) for name in places}
        for row in rows:
            wind(request["seconds"]["row"])
            inside = made.run(row)
            for name, output in _outputs(network, layers, row).items():
                if name in places:
                    sums[name] += _sums(output, inside[places[name]])
    classes = {name: type(layer).__name__ for name, layer in layers}
    return {
        "samples": len(rows),
        "layers": [
            {"layer": name, "class": classes[name], **_measured(*sums[name])} for name in places
        ],
        "unmatched": why,
    }


def _measured(signal: float, noise: float, count: float) -> dict[str, float | None]:
    ratio = 10 * math.log10(signal / noise) if noise and signal else None
    return {"mse": float(noise / count), "sqnr_db": ratio}


def _sums(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Σ signal², Σ difference² and the number of values."""
    signal = expected.astype(np.float64).ravel()
    noise = got.astype(np.float64).ravel() - signal
    return np.array([signal @ signal, noise @ noise, signal.size])


def _layers(model: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Layers and operations with the names that the report gives them; not those that hold others.

    Args:
        model: a Keras model.
        path: the submodels around it.
    """
    for layer in getattr(model, "operations", None) or model.layers:
        if isinstance(getattr(layer, "layers", None), list):
            yield from _layers(layer, (*path, layer.name))
        elif type(layer).__name__ != "InputLayer":
            yield "/".join((*path, layer.name)), layer


def _outputs(network: Any, layers: list[tuple[str, Any]], row: Any) -> dict[str, np.ndarray]:
    """What each layer gives in its first call, where that is one array of floats."""
    seen: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        for name, layer in layers:
            stack.enter_context(_recorded(layer, name, seen))
        network._forward([network._tf.convert_to_tensor(array) for array in row])
    return seen


@contextlib.contextmanager
def _recorded(layer: Any, name: str, seen: dict[str, np.ndarray]) -> Iterator[None]:
    own = "call" in vars(layer)
    call = layer.call

    @functools.wraps(call)
    def recording(*arguments: Any, **more: Any) -> Any:
        result = call(*arguments, **more)
        if name not in seen and hasattr(result, "numpy"):
            array = np.asarray(result)
            if array.dtype.kind == "f":
                seen[name] = array
        return result

    object.__setattr__(layer, "call", recording)
    try:
        yield
    finally:
        if own:
            object.__setattr__(layer, "call", call)
        else:
            object.__delattr__(layer, "call")


def _places(
    network: Any,
    layers: list[tuple[str, Any]],
    twin: Inside,
    made: Inside,
    rows: list[Any],
    request: dict[str, Any],
) -> tuple[dict[str, int], dict[str, str]]:
    """The operator of the file that gives a layer's output, and why others have none."""
    same = alike(twin, made)
    open_: dict[str, set[int]] = {}
    silent: set[str] = set()
    for at, row in enumerate(rows):
        wind(request["seconds"]["row"])
        inside, outputs = twin.run(row), _outputs(network, layers, row)
        for name, _ in layers:
            output = outputs.get(name)
            found = set() if output is None else _matches(output, inside)
            if output is not None and not output.any():
                silent.add(name)
            open_[name] = found if at == 0 else open_[name] & found
    shapes = [tensor.size for tensor in made.run(rows[0])]
    places: dict[str, int] = {}
    why: dict[str, str] = {}
    taken: dict[int, str] = {}
    for name, _ in layers:
        here = sorted(number for number in open_[name] if number in same)
        fits = [same[n] for n in here if shapes[same[n]] == outputs[name].size]
        if name in silent:
            why[name] = "its output is zero"
        elif not open_[name]:
            why[name] = "the converter merged it with others"
        elif not fits:
            why[name] = "the file has no output of its shape"
        elif taken.setdefault(fits[0], name) != name:
            why[name] = f"gives the same values as {taken[fits[0]]}"
        else:
            places[name] = fits[0]
    return places, why


def _matches(output: np.ndarray, inside: list[np.ndarray]) -> set[int]:
    """The operators that give these values."""
    found = set()
    for number, tensor in enumerate(inside):
        if tensor.size == output.size and tensor.dtype.kind == "f":
            signal, noise, _ = _sums(output, tensor)
            if noise <= _SAME * signal:
                found.add(number)
    return found


if __name__ == "__main__":
    child.answer(compare)

"""What Keras 3 and tf_keras have in common: a loaded model as a `Network`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelcut.data import InputSpec
from modelcut.engines import OutputSpec
from modelcut.errors import InputError, ResourceError
from modelcut.safety import printable


class KerasNetwork:
    """A Keras model behind a `tf.function`; see `Network`.

    Attributes:
        model: what runs.
        loaded: what Keras loaded, the same one mostly.
    """

    def __init__(self, model: Any, engine: str, loss: str | None, keras: Any) -> None:
        import tensorflow as tf

        self.loaded = model
        if not getattr(model, "inputs", None):
            model = _functional(keras, model)
        self.engine = engine
        self.loss = loss
        self._tf = tf
        self.model = model
        names = [_plain(tensor.name) for tensor in model.inputs]
        names = list(getattr(model, "input_names", None) or names)
        self.inputs = tuple(
            InputSpec(name, _shape(tensor), _dtype(tensor))
            for name, tensor in zip(names, model.inputs, strict=True)
        )
        outputs = list(getattr(model, "output_names", None) or [])
        outputs = outputs if len(outputs) == len(model.outputs) else [
            f"output_{i}" for i in range(len(model.outputs))
        ]  # fmt: skip
        self.outputs = tuple(
            OutputSpec(name, _shape(tensor), _activation(model, tensor))
            for name, tensor in zip(outputs, model.outputs, strict=True)
        )
        batch = model.inputs[0].shape[0]
        self.fixed_batch = None if batch is None else int(batch)
        self._largest = 0
        self._call = tf.function(self._forward, reduce_retracing=True)

    def _forward(self, tensors: list[Any]) -> list[Any]:
        result = self.model(tensors if len(tensors) > 1 else tensors[0], training=False)
        if isinstance(result, dict):
            result = [result[output.name] for output in self.outputs]
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `Network`."""
        arrays = [inputs[spec.name] for spec in self.inputs]
        rows = len(arrays[0])
        if self.fixed_batch is not None and rows != self.fixed_batch:
            return self._in_fixed_batches(arrays, rows)
        if not exact and rows < self._largest:
            arrays = [padded(array, self._largest) for array in arrays]
        elif not exact:
            self._largest = rows
        return [output[:rows] for output in self._run(arrays)]

    def _in_fixed_batches(self, arrays: list[np.ndarray], rows: int) -> list[np.ndarray]:
        size = self.fixed_batch
        assert size is not None
        parts = [
            self._run([padded(array[start : start + size], size) for array in arrays])
            for start in range(0, rows, size)
        ]
        return [np.concatenate(column)[:rows] for column in zip(*parts, strict=True)]

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        tf = self._tf
        try:
            tensors = [tf.convert_to_tensor(array) for array in arrays]
            return [np.asarray(output) for output in self._call(tensors)]
        except tf.errors.ResourceExhaustedError:
            raise ResourceError("out of memory while running the network") from None
        except (tf.errors.OpError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            raise InputError(
                f"the network cannot run on these rows: {printable(text, 240)}"
            ) from None


def _functional(keras: Any, model: Any) -> Any:
    """A model of its author's own class as one with inputs and outputs.

    Raises:
        ValueError: it does not say what goes in.
    """
    shape = (model.get_build_config() or {}).get("input_shape")
    flat = isinstance(shape, (list, tuple)) and all(n is None or isinstance(n, int) for n in shape)
    if not flat or not shape:
        raise ValueError("a model of its author's own class runs here with one input only")
    dtype = getattr(model, "input_dtype", None) or "float32"
    start = keras.Input(tuple(shape)[1:], dtype=dtype)
    return keras.Model(start, model(start))


def _plain(name: str) -> str:
    return name.partition(":")[0]


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return tuple(None if n is None else int(n) for n in tuple(tensor.shape)[1:])


def _dtype(tensor: Any) -> str:
    dtype = tensor.dtype
    return str(getattr(dtype, "name", dtype))


def _activation(model: Any, tensor: Any) -> str | None:
    """Name of the activation behind an output, looking into a last submodel."""
    history = getattr(tensor, "_keras_history", None)
    layer = history[0] if history else model.layers[-1]
    while getattr(layer, "layers", None) and not hasattr(layer, "activation"):
        layer = layer.layers[-1]
    if type(layer).__name__ == "Softmax":
        return "softmax"
    inner = getattr(layer, "layer", None)
    found = getattr(layer, "activation", None) or getattr(inner, "activation", None)
    return getattr(found, "__name__", None)


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """Rows, the last one repeated up to a number of them."""
    missing = rows - len(array)
    if missing <= 0:
        return array
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])

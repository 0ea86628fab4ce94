"""What Keras 3 and tf_keras have in common: a loaded model as a `Network`."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from modelcut.data import InputSpec
from modelcut.engines import OutputSpec
from modelcut.errors import InputError, ResourceError
from modelcut.safety import printable


class KerasNetwork:
    """A Keras model behind a `tf.function`; see `Network`.

    Attributes:
        replaced: policies of mixed precision that the file asks for, and that were left out.
    """

    def __init__(
        self, model: Any, engine: str, loss: str | None, replaced: Collection[str] = ()
    ) -> None:
        import tensorflow as tf

        self.engine = engine
        self.loss = loss
        self.replaced = tuple(sorted(set(replaced)))
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


@contextlib.contextmanager
def in_float32(policy: Any) -> Iterator[list[str]]:
    """Has layers that are made meanwhile compute in float32 instead of in mixed precision.

    Their variables are in float32 with either.

    Args:
        policy: Keras' class of such policies.

    Yields:
        The names of the policies that were replaced.
    """
    made, replaced = policy.__init__, []

    def init(self: Any, name: Any = None, *arguments: Any, **more: Any) -> None:
        if name in ("mixed_float16", "mixed_bfloat16"):
            replaced.append(name)
            name = "float32"
        made(self, name, *arguments, **more)

    policy.__init__ = init
    try:
        yield replaced
    finally:
        policy.__init__ = made


def stateful_layers(network: Any) -> list[str]:
    """Names of the layers that keep their state from one batch to the next."""
    model = getattr(network, "model", None)
    layers = getattr(model, "_flatten_layers", None)
    found = layers(include_self=False) if layers else getattr(model, "layers", [])
    return [layer.name for layer in found if getattr(layer, "stateful", False) is True]


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """Rows, the last one repeated up to a number of them."""
    missing = rows - len(array)
    if missing <= 0:
        return array
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])

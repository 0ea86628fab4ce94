"""What Keras 3 and tf_keras have in common: a loaded model as a `Network`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from modelcut.data import InputSpec
from modelcut.engines import OutputSpec
from modelcut.engines.keras.tf_errors import reason
from modelcut.errors import InputError, ResourceError


class KerasNetwork:
    """A Keras model behind a `tf.function`; see `Network`.

    Attributes:
        model: the Keras model that runs.
        loaded: the model as Keras loaded it; mostly the same object.
        replaced: policies of mixed precision that the file asks for, and that were left out.
        inside: where activations are rounded, names of the layers inside of which they are not.
    """

    inside: tuple[str, ...] = ()

    def __init__(
        self, model: Any, engine: str, loss: Any, keras: Any, replaced: Collection[str] = ()
    ) -> None:
        import tensorflow as tf

        self.loaded = model
        if not getattr(model, "inputs", None):
            model = _functional(keras, model)
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
        self.outputs = tuple(_outputs(model))
        batch = model.inputs[0].shape[0]
        self.fixed_batch = None if batch is None else int(batch)
        self._largest = 0
        self._instead: Callable[..., list[Any]] | None = None
        self._call = tf.function(self._forward, reduce_retracing=True)

    def take(self, instead: Callable[..., list[Any]]) -> None:
        """Has `forward` be done by something else, which calls the model."""
        self._instead = instead
        self._call = self._tf.function(self._forward, reduce_retracing=True)

    def forward(self, tensors: Sequence[Any], *, training: bool) -> list[Any]:
        """The outputs for some inputs, in TensorFlow's tensors."""
        if self._instead is not None:
            return self._instead(tensors, training=training)
        given = list(tensors)
        return leaves(self.model(given if len(given) > 1 else given[0], training=training))

    def _forward(self, tensors: list[Any]) -> list[Any]:
        return self.forward(tensors, training=False)

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
            raise InputError(f"the network cannot run on these samples: {reason(error)}") from None


def _functional(keras: Any, model: Any) -> Any:
    """A model of its author's own class as one with inputs and outputs.

    Raises:
        ValueError: it does not declare its inputs.
    """
    shape = (model.get_build_config() or {}).get("input_shape")
    flat = isinstance(shape, (list, tuple)) and all(n is None or isinstance(n, int) for n in shape)
    if not flat or not shape:
        raise ValueError("a subclassed model can be run with one input only")
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


def leaves(result: Any) -> list[Any]:
    """The outputs in the order in which Keras lists them: those of a dict by their keys, sorted."""
    if isinstance(result, Mapping):
        return [leaf for key in sorted(result) for leaf in leaves(result[key])]
    if isinstance(result, (list, tuple)):
        return [leaf for part in result for leaf in leaves(part)]
    return [result]


def _outputs(model: Any) -> list[OutputSpec]:
    """The outputs, by the keys of a dict, else by their layers' names."""
    tensors = list(model.outputs)
    layers = list(getattr(model, "output_names", None) or [])
    if len(layers) != len(tensors):
        layers = [f"output_{number}" for number in range(len(tensors))]
    inner = getattr(model, "_functional", None) or model  # of a Sequential of Keras 3
    structure = getattr(inner, "_outputs_struct", getattr(inner, "_nested_outputs", None))
    keys = _keys(structure)
    if len(keys) != len(tensors):
        keys = [""] * len(tensors)
    found: list[OutputSpec] = []
    for key, layer, tensor in zip(keys, layers, tensors, strict=True):
        taken = {spec.name for spec in found}
        name = base = key or str(layer)
        number = 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        alias = str(layer) if key and str(layer) != name else ""
        activation = _activation(model, tensor)
        found.append(OutputSpec(name, _shape(tensor), activation, alias, bool(key)))
    return found


def _keys(structure: Any, path: tuple[str, ...] = ()) -> list[str]:
    """Of each leaf, the keys that lead to it; "" where it is in lists only."""
    if isinstance(structure, Mapping):
        return [key for name in sorted(structure) for key in _keys(structure[name], (*path, name))]
    if isinstance(structure, (list, tuple)):
        return [key for part in structure for key in _keys(part, path)]
    return ["/".join(map(str, path))]


_PASSES = frozenset(
    "Reshape Flatten Permute Dropout Identity ActivityRegularization Squeeze ExpandDims Cast "
    "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D AveragePooling1D "
    "AveragePooling2D AveragePooling3D Average".split()
)
"""Layers and operations that keep probabilities such."""
_OPERATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "LogSoftmax": "log_softmax",
    "Tanh": "tanh",
    "HardSigmoid": "hard_sigmoid",
    "LogSigmoid": "log_sigmoid",
    "ReLU": "relu",
    "Relu": "relu",
    "nn.softmax": "softmax",
    "math.sigmoid": "sigmoid",
    "nn.log_softmax": "log_softmax",
    "math.tanh": "tanh",
    "nn.relu": "relu",
}
"""Layers and operations without an attribute `activation`; those of tf_keras by their function."""


def _activation(model: Any, tensor: Any, depth: int = 0) -> str | None:
    """The last activation behind an output, looking into submodels; None where it is unknown."""
    history = getattr(tensor, "_keras_history", None)
    layer = history[0] if history else model.layers[-1]
    if depth > 50:
        return None
    if getattr(layer, "layers", None) and not hasattr(layer, "activation"):
        inner = list(getattr(layer, "outputs", None) or [])
        at = history[2] if history and len(inner) > 1 else 0
        return _activation(layer, inner[at] if inner else None, depth + 1)
    kind = type(layer).__name__
    if kind == "TFOpLambda":
        kind = str(layer.get_config().get("function", ""))
    if kind in _OPERATIONS:
        return _OPERATIONS[kind]
    if kind in _PASSES:
        before = _before(layer, history)
        found = {_activation(model, each, depth + 1) for each in before}
        return found.pop() if len(found) == 1 else None
    inside = getattr(layer, "layer", None)
    function = getattr(layer, "activation", None) or getattr(inside, "activation", None)
    if function is None:
        return None
    name = getattr(function, "__name__", None) or type(function).__name__
    return _OPERATIONS.get(name, str(name).lower())


def _before(layer: Any, history: Any) -> list[Any]:
    """The inputs of a layer at the call that a tensor comes from."""
    nodes = getattr(layer, "_inbound_nodes", None)
    if not history or not nodes:
        return []
    node = nodes[history[1]]
    found = getattr(node, "input_tensors", None)
    return leaves(found) if found is not None else []


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

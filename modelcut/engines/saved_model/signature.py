"""TensorFlow itself, for SavedModels: a signature of one, in this process.

For a child that runs or converts it (`process.tensorflow`, `litert.converter`), and for those who
ask for TensorFlow's own object (`modelcut.load`): a damaged graph may end the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data import InputSpec
from modelcut.engines import OutputSpec, imported
from modelcut.engines.keras.network import padded
from modelcut.errors import InputError, ResourceError, UsageError
from modelcut.safety import printable

NAME = "TensorFlow"

_DEFAULT = "serving_default"
_PASSES = frozenset("Identity NoOp Reshape Squeeze Cast EnsureShape".split())
_ACTIVATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "LogSoftmax": "log_softmax",
    "Tanh": "tanh",
    "Relu": "relu",
    "Relu6": "relu6",
    "Elu": "elu",
    "Selu": "selu",
    "Softplus": "softplus",
}
_ADDS = ("Add", "AddV2")
_SUMS = frozenset("BiasAdd MatMul BatchMatMulV2 Conv1D Conv2D Conv3D Einsum".split())


class SignatureNetwork:
    """A signature of a SavedModel; see `Network`."""

    def __init__(self, path: Path, name: str, loss: Any = None) -> None:
        """Loads the model.

        Args:
            path: path of the SavedModel folder.
            name: of the signature, and of one of its outputs after a colon if only that is wanted;
                "" for the default one. Text among the outputs is left out: nothing measures it.
            loss: the loss that the model was compiled with, or None.

        Raises:
            UsageError: there is no such signature, or output.
            InputError: it does not take rows.
        """
        self._tf = tf = imported("tensorflow")
        self.engine = f"tensorflow {tf.__version__}"
        self.loss = loss
        self.model = tf.saved_model.load(str(path))  # functions live as long as their model
        self._call, wanted = _signature(self.model.signatures, name)
        specs = dict(self._call.structured_input_signature[1])
        self.inputs = tuple(
            InputSpec(key, _shape(spec, key), spec.dtype.name) for key, spec in specs.items()
        )
        if not self.inputs:
            raise InputError("the signature takes no inputs")
        batches = {spec.shape[0] for spec in specs.values() if spec.shape.rank}
        fixed = {int(size) for size in batches if size is not None}
        if len(fixed) > 1:
            raise InputError("the inputs of the signature have no common batch axis")
        self.fixed_batch = fixed.pop() if fixed else None
        names = _outputs(self._call.structured_outputs, wanted)
        self.outputs = tuple(
            OutputSpec(
                key,
                _shape(self._call.structured_outputs[key], key),
                _activation(self._call, key),
                keyed=_ordinal(key) < 0,
            )
            for key in names
        )

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `Network`."""
        arrays = {spec.name: inputs[spec.name] for spec in self.inputs}
        rows = len(next(iter(arrays.values())))
        size = self.fixed_batch
        del exact  # a signature is traced already: no batch needs a new one
        if size is None:
            return self._run(arrays)
        parts = [
            self._run({k: padded(v[start : start + size], size) for k, v in arrays.items()})
            for start in range(0, rows, size)
        ]
        return [np.concatenate(column)[:rows] for column in zip(*parts, strict=True)]

    def _forward(self, tensors: list[Any]) -> list[Any]:
        """Tensors in the order of `inputs`, for a converter that traces it."""
        given = dict(zip((spec.name for spec in self.inputs), tensors, strict=True))
        if hasattr(self._call, "prune"):
            # Of TensorFlow 1: its variables are nodes, which a converter finds in no inner graph.
            from tensorflow.python.framework import convert_to_constants

            with self._tf.init_scope():
                frozen = convert_to_constants.convert_variables_to_constants_v2(self._call)
            flat = frozen(*(given[name] for name in self._call._arg_keywords))
            found = self._tf.nest.pack_sequence_as(self._call.structured_outputs, list(flat))
        else:
            found = self._call(**given)
        return [found[output.name] for output in self.outputs]

    def _run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        tf = self._tf
        try:
            given = {
                spec.name: tf.constant(arrays[spec.name], tf.dtypes.as_dtype(spec.dtype))
                for spec in self.inputs
            }
            found = self._call(**given)
            return [np.asarray(found[output.name]) for output in self.outputs]
        except tf.errors.ResourceExhaustedError:
            raise ResourceError("out of memory while running the network") from None
        except (tf.errors.OpError, ValueError, TypeError) as error:
            text = printable(" ".join(str(error).split()), 240)
            raise InputError(f"the network cannot run on these samples: {text}") from None


def load(
    path: Path,
    loss: Any,
    trust: bool,
    custom_objects: dict[str, Any],
    *,
    signature: str = "",
) -> SignatureNetwork:
    """Loads a SavedModel; what is in it was looked at before."""
    del trust, custom_objects
    return SignatureNetwork(path, signature, loss)


def _outputs(found: Mapping[str, Any], wanted: str) -> list[str]:
    """The outputs that can be measured, or the one that is wanted."""
    names = sorted(
        (name for name, spec in found.items() if spec.dtype.name != "string"),
        key=lambda name: (_ordinal(name), name),
    )
    if wanted and wanted not in names:
        raise UsageError(
            f"the signature has no output {printable(wanted, 60)!r} of numbers",
            f"it has: {printable(', '.join(names), 200)}",
        )
    if not names:
        raise UsageError("the signature has text outputs only", "choose another: --signature")
    return [wanted] if wanted else names


def _ordinal(name: str) -> int:
    """The number of an output that has no name of its own (output_10); -1 of one that has."""
    number = name.removeprefix("output_")
    return int(number) if number != name and number.isdecimal() else -1


def _signature(found: Mapping[str, Any], wanted: str) -> tuple[Any, str]:
    """A signature, and the name of the output that is wanted of it, or ""."""
    names = [name for name in found if not name.startswith("__saved_model_")]
    if not names:
        raise UsageError(
            "the SavedModel has no signature that can be run", "export it with a signature"
        )
    if not wanted and _DEFAULT not in names and len(names) > 1:
        raise UsageError("the SavedModel has several signatures", f"--signature {'|'.join(names)}")
    name, output = wanted or (_DEFAULT if _DEFAULT in names else names[0]), ""
    if name not in names and ":" in name:
        name, _, output = name.rpartition(":")
    if name not in names:
        raise UsageError(
            f"the SavedModel has no signature {printable(name, 60)!r}",
            f"it has: {printable(', '.join(names), 200)}",
        )
    return found[name], output


def _shape(spec: Any, name: str) -> tuple[int | None, ...]:
    """Without the batch axis; an unknown rank counts as one number a row."""
    if spec.shape.rank is None:
        return (None,)
    if spec.shape.rank == 0:
        raise InputError(
            f"{printable(name, 60)!r} of the signature is a scalar, without a batch axis"
        )
    return tuple(None if n is None else int(n) for n in spec.shape[1:])


def _activation(call: Any, key: str) -> str | None:
    """The operation behind an output, looked for through calls of functions."""
    graph, index = call.graph, sorted(call.structured_outputs).index(key)
    if index >= len(call.outputs):
        return None
    tensor = call.outputs[index]
    for _ in range(100):
        op = tensor.op
        if op.type in _ACTIVATIONS:
            return _ACTIVATIONS[op.type]
        if op.type in _PASSES and op.inputs:
            tensor = op.inputs[0]
        elif op.type in _SUMS or (op.type in _ADDS and any(t.op.type in _SUMS for t in op.inputs)):
            return "linear"
        elif op.type in ("PartitionedCall", "StatefulPartitionedCall"):
            inner = getattr(graph, "_functions", {}).get(op.get_attr("f").name)
            inside = getattr(inner, "graph", None)
            if inside is None or tensor.value_index >= len(inside.outputs):
                return None
            graph, tensor = inside, inside.outputs[tensor.value_index]
        else:
            return None
    return None

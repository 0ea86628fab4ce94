"""The process that makes a `.tflite` of a Keras file: a request by stdin, the answer to a file.

TensorFlow's own converter does all of it. ai-edge-quantizer is faster from a `.tflite` of floats on
(MobileNetV2 in dynamic: 0.7 CPU s, 96 MiB), but that has to be made first: 11.7 CPU s with it, 11.6
without, next to the same bytes. It also needs scipy and one version of ai-edge-litert exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from modelcut import engines
from modelcut.data import DataOptions
from modelcut.engines.keras.network import stateful_layers
from modelcut.engines.process import child
from modelcut.engines.process.serve import wind
from modelcut.errors import InputError, ModelcutError
from modelcut.safety import colourless, printable

Item = TypeVar("Item")
_KEPT = 256
"""Calibration rows at most that are handed on."""


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the network, converts it for single rows, and writes the `.tflite`.

    Loading, converting and each calibration row have a time of their own; what takes longer ends
    this process.

    Raises:
        InputError: a layer has no form in LiteRT, or the calibration rows do not fit.
    """
    wind(request["seconds"]["stage"])
    network = opened(request)
    _check_stateless(network, request["shown"])
    rows, notes = calibration_rows(request, network) if request["calibrate"] else ([], [])
    with engines.quiet():
        try:
            content, twin = _made(network, request, rows)
        except ModelcutError:
            raise
        except Exception as error:  # noqa: BLE001 - the converter raises whatever it meets
            raise InputError(
                f"{request['shown']}: LiteRT's converter refuses it as {request['type']}: "
                f"{_reason(error)}",
                "try another --type; float32 and dynamic take the most layers",
            ) from None
        content = _finished(content, network, request)
    Path(request["target"]).write_bytes(content)
    if request["twin"]:
        Path(request["twin"]).write_bytes(twin)
    if request["rows"]:
        most = min(_KEPT, len(rows))
        kept = [rows[at * len(rows) // most] for at in range(most)]
        np.savez(request["rows"], *(np.stack(column) for column in zip(*kept, strict=True)))
    import tensorflow as tf

    replaced = getattr(network, "replaced", ())
    return {
        "converter": f"TensorFlow {tf.__version__}",
        "type": request["type"],
        "io": request["io"],
        **({"instead_of": list(replaced)} if replaced else {}),
        "calibration_rows": len(rows),
        **({"calibration_notes": notes} if notes else {}),
    }


def opened(request: dict[str, Any]) -> Any:
    """The network of a request, in floats of 32 bits."""
    custom = request["custom_objects"]
    return engines.open_network(
        Path(request["source"]),
        request["dialect"],
        suffix=request["suffix"],
        trust=request["trust"],
        custom_objects=engines.load_custom_objects(custom) if custom else {},
        name=request["shown"],
        signature=request["signature"],
        apart=False,
        mixed=False,
    )


def _check_stateless(network: engines.Network, shown: str) -> None:
    """Refuses a network that remembers the rows before.

    Raises:
        InputError: names the layer.
    """
    for layer in stateful_layers(network):
        raise InputError(
            f"{shown}: the layer {printable(layer)!r} is stateful: it keeps its state from one "
            "batch to the next, which a .tflite does not",
            "save the network with stateful=False: the weights stay the same",
        )


def calibration_rows(
    request: dict[str, Any], network: engines.Network
) -> tuple[list[list[np.ndarray]], list[str]]:
    """Rows spread evenly over the CSV, one by one, as the network takes them; notes on the CSV."""
    from modelcut.data.sources import open_table

    options = DataOptions.model_validate(request["data"])
    table = open_table(Path(request["calibrate"]), options, network.inputs, labelled=False)
    names, copies = [spec.name for spec in network.inputs], network.fixed_batch or 1
    rows = spread(
        (
            (len(batch), partial(_row, batch.inputs, names, copies))
            for batch in _each(table.batches(256), request["seconds"]["stage"])
        ),
        request["samples"],
    )
    return rows, table.warnings


def _each(items: Iterable[Item], seconds: float) -> Iterator[Item]:
    """Items, each of which has this long to come and be used, and so has what follows the last."""
    for item in items:
        wind(seconds)
        yield item
    wind(seconds)


def _row(
    inputs: Mapping[str, np.ndarray], names: list[str], copies: int, row: int
) -> list[np.ndarray]:
    return [np.repeat(inputs[name][row : row + 1], copies, axis=0) for name in names]


def spread(batches: Iterable[tuple[int, Callable[[int], Item]]], count: int) -> list[Item]:
    """At most `count` items, evenly spread over a stream of unknown length, in one pass.

    Args:
        batches: number of items of each batch, and a function that returns one of them.
        count: number of items to return.
    """
    kept: list[Item] = []
    stride, seen = 1, 0
    for length, item in batches:
        kept += [item(row) for row in range(-seen % stride, length, stride)]
        seen += length
        while len(kept) >= 2 * count:
            kept, stride = kept[::2], 2 * stride
    most = min(count, len(kept))
    return [kept[at * len(kept) // most] for at in range(most)]


def _made(
    network: Any, request: dict[str, Any], rows: list[list[np.ndarray]]
) -> tuple[bytes, bytes]:
    """The `.tflite`, and its twin in floats where one is wanted."""
    import tensorflow as tf

    frozen = _frozen(network)
    limits = request["seconds"]

    def converted(kind: str, *, sparse: bool = False) -> bytes:
        wind(limits["stage"])
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        ops = tf.lite.OpsSet
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if sparse:
            converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind in ("int8", "int16x8"):
            converter.representative_dataset = lambda: _calibration(rows, limits)
            both = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
            wanted = ops.TFLITE_BUILTINS_INT8 if kind == "int8" else getattr(ops, both)
            converter.target_spec.supported_ops = [wanted]
        if kind == "int8" and request["io"] == "int8":  # the twin's stay floats
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return bytes(converter.convert())

    kind = request["type"]
    if kind == "int4":
        floats = converted("float32")
        return _in_4_bits(floats), floats
    twin = converted("float32") if request["twin"] else b""
    return converted(kind, sparse=request["sparse"]), twin


def _frozen(network: Any) -> Any:
    """The network as a function of constants, for a batch of one."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specs = [
        tf.TensorSpec([network.fixed_batch or 1, *spec.shape], spec.dtype, name=f"input_{number}")
        for number, spec in enumerate(network.inputs)
    ]
    function = tf.function(lambda *tensors: network._forward(list(tensors)))
    return convert_variables_to_constants_v2(function.get_concrete_function(*specs))


def in_floats(network: Any, request: dict[str, Any]) -> bytes:
    """A `.tflite` of float32 made of a network."""
    import tensorflow as tf

    wind(request["seconds"]["stage"])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([_frozen(network)])
    return bytes(converter.convert())


def _in_4_bits(content: bytes) -> bytes:
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    from modelcut.engines.litert import int4

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    if not int4.quantized(model, schema):
        raise InputError(
            f"no kernel of {int4.LEAST} values or more to quantize to 4 bits", "--type float32"
        )
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _calibration(
    rows: list[list[np.ndarray]], limits: Mapping[str, float]
) -> Iterator[list[np.ndarray]]:
    yield from _each(rows, limits["row"])
    wind(limits["stage"])


def _finished(content: bytes, network: Any, request: dict[str, Any]) -> bytes:
    """Puts in a signature with the network's own names, and how the file was made."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for places, specs, into in (
        (graph.inputs, network.inputs, "inputs"),
        (graph.outputs, network.outputs, "outputs"),
    ):
        maps = []
        for index, spec in zip(places, specs, strict=True):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = spec.name.encode(), int(index)
            maps.append(entry)
        setattr(signature, into, maps)
    model.signatureDefs = [signature]
    entry, buffer = schema.MetadataT(), schema.BufferT()
    buffer.data = np.frombuffer(request["provenance"].encode(), np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = request["metadata"].encode(), len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in colourless(str(error)).splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line or "ops:" in line or "Op" in line]
    return printable(" ".join((told or lines)[:2]) or type(error).__name__, 240)


if __name__ == "__main__":
    child.answer(convert)

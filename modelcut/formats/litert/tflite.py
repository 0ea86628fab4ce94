"""LiteRT's `.tflite`: read as tensors and operators; made by an engine, which is handed in.

A `.tflite` is a program for LiteRT's interpreter, not an edited copy of a Keras file: to write one
is to convert. This module writes the model in its own format to a scratch file, has
`WriteOptions.convert` make the `.tflite` of it, and reads that again.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.formats.base import Format, WriteOptions, Written
from modelcut.formats.litert import kept_scales, schema
from modelcut.formats.litert.schema import File, LiteRTTensor, Subgraph
from modelcut.graph import scan
from modelcut.graph.scan import Finding
from modelcut.model.encoding import Dense, Encoding
from modelcut.model.encodings.affine import Affine
from modelcut.model.model import Layer, Model, Origin, Source, Tensor
from modelcut.safety import printable

METADATA = "modelcut"
"""The name of the entry that says how the file was made."""

_ROLES = {
    "CONV_2D": {1: "kernel", 2: "bias"},
    "DEPTHWISE_CONV_2D": {1: "kernel", 2: "bias"},
    "CONV_3D": {1: "kernel", 2: "bias"},
    "FULLY_CONNECTED": {1: "kernel", 2: "bias"},
    "BATCH_MATMUL": {1: "kernel"},
    "TRANSPOSE_CONV": {1: "kernel", 3: "bias"},
    "GATHER": {0: "embeddings"},
    "EMBEDDING_LOOKUP": {1: "embeddings"},
}
_KINDS = {"kernel": "kernel", "bias": "bias", "embeddings": "embedding"}
_LOOPS = frozenset("LSTM GRU SimpleRNN RNN ConvLSTM1D ConvLSTM2D ConvLSTM3D".split())
"""Layers that become a loop, which the converter cannot calibrate."""
_PLAIN = frozenset("float32 float16 float64 int32 uint8 int64 bool int16 int8 uint32".split())


@dataclass(frozen=True)
class LiteRTLayout:
    """The parsed file."""

    file: File


class LiteRT(Format):
    """A `.tflite` file: read as constants, written by LiteRT's converter."""

    converted = True
    own_coding = "LiteRT maps its file into memory as it is"
    final = "a .tflite cannot be edited; start from the Keras file that it was made of"
    facts_key = "litert"

    def sniff(self, path: Path) -> bool:
        """By the identifier at byte 4, or the name of a file that is cut shorter than that."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(8)
        return head[4:] == schema.IDENTIFIER

    def read(self, path: Path) -> Model:
        """Reads a file; see `Format`. Constants are its tensors, as the floats they stand for."""
        file = schema.parse(path)
        provenance = _provenance(file)
        return Model(
            tuple(_layers(file)),
            None,
            Origin(
                path=path,
                format=self.name,
                dialect="litert",
                writer=printable(file.description or "an unnamed converter", 80),
                warnings=(*(f"needs {line}" for line in _foreign(file)), *_unread(file)),
                provenance=provenance,
                layout=LiteRTLayout(file),
            ),
        )

    def refusal(self, model: Model) -> str:
        """Why no `.tflite` can be made of this model."""
        own = bool(model.origin.configuration)
        if model.architecture is None and not own and model.origin.format != "saved_model":
            return "bare weights are no network that LiteRT could run; start from the whole model"
        if _scratch_format(model) is None:
            return (
                f"LiteRT's converter takes .h5 or .keras; no {model.origin.format} becomes one here"
            )
        return ""

    def unconvertible(self, model: Model, kind: str) -> str:
        """See `Format`; TensorFlow's converter ends its process on these (2.21)."""
        if kind not in ("int8", "int16x8") or model.architecture is None:
            return ""
        for node in model.architecture.nodes:
            for inner in (node, *(each for _, each in node.wrapped)):
                if inner.class_name in _LOOPS and not inner.config.get("unroll"):
                    name = printable("/".join(node.path))
                    return f"the layer {name!r} ({inner.class_name}) has no {kind} form in LiteRT"
        return ""

    def needs_engine(self, model: Model) -> bool:
        """Always: LiteRT's converter."""
        del model
        return True

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Has a `.tflite` made of the model; see `Format`.

        Raises:
            ModelcutError: no engine was handed in, or it cannot convert the model.
        """
        if options.convert is None:
            raise ModelcutError(f"{path}: a .tflite needs an engine that converts")
        own = _scratch_format(model)
        assert own is not None  # `refusal` has asked
        with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
            scratch = Path(folder) / f"model{own.engine_suffix}"
            if own.folder:
                scratch.mkdir()
            written = own.write(model, scratch, changed(options, compression="none"))
            with registry.open_model(scratch) as plain:
                found, lost = (
                    kept_scales.find(plain, written.encodings)
                    if options.convert.quantizes
                    else ({}, {})
                )
                refine = options.convert.refine
                twin = Path(folder) / "twin.tflite" if found or refine else None
                facts = dict(options.convert.convert(plain, path, twin))
            if twin and found:
                facts["grids"] = kept_scales.keep(path, twin, found, lost).to_dict()
            elif lost:
                facts["grids"] = kept_scales.Kept(lost=lost).to_dict()
            if twin and refine:
                facts["refined"] = dict(refine(path, twin))
        file = schema.parse(path)
        facts.update(describe(file))
        held = facts["constants"]
        return Written(
            # Layers are merged and split by the converter: only their sum can be told.
            {"": sum(held.values())},
            written.encodings,
            model.origin.dropped,
            facts=facts,
        )

    def dangers(self, model: Model) -> list[Finding]:
        """See `Format`: operators that are not LiteRT's own."""
        return [Finding("operator", "", what) for what in _foreign(model.origin.layout.file)]

    def check_runnable(self, model: Model, *, trust: bool) -> bool:
        """See `Format`: an operator that is not LiteRT's own is refused."""
        scan.check(self.dangers(model), where=str(model.origin.path), trust=trust)
        return True

    def facts(self, model: Model) -> dict[str, Any]:
        """Of a file that was read, for the report."""
        return describe(model.origin.layout.file)

    def warnings(self, output: Any) -> Iterator[str]:
        """What did not come out as was meant; see `Format`."""
        made, header = output.facts["litert"], output.header
        yield from made.get("calibration_notes", ())
        for policy in made.get("instead_of", ()):
            yield f"the network computes in {policy}, which LiteRT lacks: the .tflite uses float32"
        for name, reason in made.get("grids", {}).get("lost", {}).items():
            yield f"{name}: its scales were not kept, the .tflite has others: {reason}"
        if "sparse" in made and not any(kind.endswith(" sparse") for kind in made["constants"]):
            yield "no kernel is sparse enough for LiteRT's sparse form: --sparse had no effect"
        if header and header["arena"]["bytes"] is None:
            yield f"{header['path']}: says no arena size: {header['arena']['why']}"


def _foreign(file: File) -> list[str]:
    """Operators that are none of LiteRT's own, in words."""
    return [f"the operator {name}, whose code comes from elsewhere" for name in file.custom]


def _unread(file: File) -> Iterator[str]:
    count = sum(value.sparse for graph in file.graphs for value in graph.values)
    if count:
        yield f"{count} constants in LiteRT's sparse form are not among the layers below"


def _provenance(file: File) -> dict[str, Any]:
    raw = file.metadata.get(METADATA)
    if raw is None or raw.size > 1 << 20:
        return {}
    try:
        found = json.loads(raw.tobytes().decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _layers(file: File) -> Iterator[Layer]:
    """One layer for each operator that has constants of its own."""
    seen: set[str] = set()
    for number, graph in enumerate(file.graphs):
        mine: set[int] = set()
        for operation in graph.operations:
            roles = _ROLES.get(operation.name, {})
            constants = [
                (roles.get(place, f"constant_{place}"), index)
                for place, index in enumerate(operation.inputs)
                if index >= 0 and index not in mine and graph.values[index].raw.size
            ]
            mine.update(index for _, index in constants)
            if not constants:
                continue
            outputs = operation.outputs
            name = graph.values[outputs[0]].name if outputs and outputs[0] >= 0 else operation.name
            name = f"{number}:{name}" if number else name
            unique, again = name, 1
            while unique in seen:
                again += 1
                unique = f"{name}_{again}"
            seen.add(unique)
            tensors: dict[str, Tensor] = {}
            for role, index in constants:
                if role not in tensors and (t := _tensor(graph, index, unique, role)) is not None:
                    tensors[role] = t
            yield Layer((unique,), operation.name, {}, tuple(tensors.values()))


def _tensor(graph: Subgraph, index: int, layer: str, role: str) -> Tensor | None:
    value = graph.values[index]
    encoding = _encoding(value)
    if value.sparse or (value.dtype not in _PLAIN and value.dtype != "int4"):
        return None
    floats = isinstance(encoding, Affine)
    return Tensor(
        name=f"{layer}/{role}",
        role=role,
        kind=_KINDS.get(role, "state"),
        shape=value.shape,
        dtype=np.dtype("float32" if floats else "int8" if value.dtype == "int4" else value.dtype),
        source=Source(lambda: values(value)),
        encoding=encoding,
        key=f"{index}:{value.name}",
    )


def _encoding(value: LiteRTTensor) -> Encoding:
    """The encoding of 8 and 4 bit constants; anything else is dense."""
    quantization = value.quantization
    if (
        quantization is None
        or value.dtype not in ("int8", "int4")
        or not (quantization.scale > 0).all()
    ):
        return Dense()
    width = 8 if value.dtype == "int8" else 4
    shape = [1] * len(value.shape)
    if quantization.scale.size > 1:
        shape[quantization.axis] = quantization.scale.size
    lowest = -(1 << (width - 1))
    symmetric = (
        not quantization.zero_point.any() and int(schema.codes(value).min(initial=0)) > lowest
    )
    zero = None if symmetric else (quantization.zero_point - lowest).astype(np.int32).reshape(shape)
    return Affine(width, np.array(quantization.scale, np.float32).reshape(shape), zero)


def values(value: LiteRTTensor) -> np.ndarray:
    """The values of a constant: floats where `Affine` can represent its encoding, else raw."""
    codes, quantization = schema.codes(value), value.quantization
    if quantization is None or isinstance(_encoding(value), Dense):
        return np.array(codes)
    shape = [1] * len(value.shape)
    if quantization.scale.size > 1:
        shape[quantization.axis] = quantization.scale.size
    steps = codes.astype(np.float32) - quantization.zero_point.reshape(shape).astype(np.float32)
    return steps * quantization.scale.reshape(shape) + np.float32(0)


def _scratch_format(model: Model) -> Format | None:
    """A format that Keras opens and that can hold the model; its own, where it is one."""
    names = sorted(
        ("hdf5", "keras_zip", "saved_model"), key=lambda name: name != model.origin.format
    )
    if model.origin.format != "saved_model":
        names.remove("saved_model")
    able = (registry.by_name(name) for name in names)
    return next((one for one in able if not one.refusal(model)), None)


def describe(file: File) -> dict[str, Any]:
    """Inputs, outputs, constants and operators, as plain data."""
    return {
        "inputs": [_interface(file, name, index) for name, index in file.inputs.items()],
        "outputs": [_interface(file, name, index) for name, index in file.outputs.items()],
        "constants": constants(file),
        "operators": operators(file),
    }


def _interface(file: File, name: str, index: int) -> dict[str, Any]:
    value = file.graphs[0].values[index]
    quantization = value.quantization
    bits = next(bits for kind, bits in schema.TYPES.values() if kind == value.dtype)
    count = int(np.prod(value.shape, dtype=np.int64))
    return {
        "name": printable(name, 80),
        "dtype": value.dtype,
        "shape": list(value.signature or value.shape),
        "bytes": (count * bits + 7) // 8,
        "scale": float(quantization.scale[0]) if quantization is not None else None,
        "zero_point": int(quantization.zero_point[0]) if quantization is not None else None,
    }


def constants(file: File) -> dict[str, int]:
    """Bytes of the constants by type; one that several tensors use counts once."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    for graph in file.graphs:
        for value in graph.values:
            place = value.raw.__array_interface__["data"][0]
            if value.raw.size and place not in seen:
                seen.add(place)
                found[value.dtype + (" sparse" if value.sparse else "")] += int(value.raw.size)
    return dict(found)


def operators(file: File) -> dict[str, int]:
    """How often each operator occurs."""
    return dict(Counter(o.name for graph in file.graphs for o in graph.operations))

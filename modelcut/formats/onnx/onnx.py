"""ONNX: written by Keras' own export, which an engine runs; read as constants and operators.

Like a `.tflite`, an `.onnx` is a program and not an edited copy of a Keras file. The model is
written in its own format to a scratch file, and `WriteOptions.convert` makes the `.onnx` of it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace as changed
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.errors import ModelcutError
from modelcut.formats import registry
from modelcut.formats.base import Format, WriteOptions, Written
from modelcut.formats.onnx import schema
from modelcut.formats.onnx.schema import Constant, File
from modelcut.graph import scan
from modelcut.graph.scan import Finding
from modelcut.model.model import Layer, Model, Origin, Source, Tensor
from modelcut.safety import printable

METADATA = "modelcut"
"""The key of the entry that says how the file was made."""


class Onnx(Format):
    """An `.onnx` file: read as initializers, written by Keras' own export."""

    own_coding = "onnxruntime reads an .onnx as it is"
    final = "an .onnx cannot be edited; start from the Keras file that it was made of"
    facts_key = "onnx"

    def sniff(self, path: Path) -> bool:
        """By the fields of its top level: the format has no mark of its own."""
        return path.is_file() and schema.looks_like_one(path)

    def read(self, path: Path) -> Model:
        """Reads a file; see `Format`. Its initializers are the tensors."""
        file = schema.parse(path)
        return Model(
            tuple(_layers(file, path)),
            None,
            Origin(
                path=path,
                format=self.name,
                dialect="onnx",
                writer=file.producer,
                warnings=tuple(f"needs the operator {name}" for name in file.foreign),
                provenance=_provenance(file),
                layout=file,
            ),
        )

    def refusal(self, model: Model) -> str:
        """Why no `.onnx` can be made of this model: Keras 3 must be able to load it."""
        if model.architecture is None and not model.origin.configuration:
            return "bare weights are no network that could be exported; start from the whole model"
        if model.origin.dialect != "keras3" or model.origin.format not in ("hdf5", "keras_zip"):
            return (
                "only .h5 and .keras files of Keras 3 become .onnx, by its own export; not a "
                f"{model.origin.format} written by {model.origin.writer}"
            )
        return ""

    def needs_engine(self, model: Model) -> bool:
        """Always: Keras' export."""
        del model
        return True

    def missing(self) -> str:
        """See `Format`."""
        lacking = [name for name in ("tf2onnx", "onnx", "onnxruntime") if find_spec(name) is None]
        if not lacking:
            return ""
        return f'{", ".join(lacking)}: pip install "modelcut[onnx]"'

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Has an `.onnx` made of the model; see `Format`.

        Raises:
            ModelcutError: no engine was handed in, or it cannot export the model.
        """
        if options.convert is None:
            raise ModelcutError(f"{path}: an .onnx needs an engine that exports")
        with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
            own = registry.of_model(model)
            scratch = Path(folder) / f"model{own.engine_suffix}"
            written = own.write(model, scratch, changed(options, compression="none"))
            with registry.open_model(scratch) as plain:
                facts = dict(options.convert.onnx(plain, path))
        history = json.dumps(options.provenance(), sort_keys=True)
        schema.append_metadata(path, METADATA, history)
        facts |= describe(file := schema.parse(path))
        return Written(
            # Kernels are merged and constants folded by the export: only their sum can be told.
            {"": sum(each.bytes for each in file.constants)},
            written.encodings,
            model.origin.dropped,
            facts=facts,
        )

    def dangers(self, model: Model) -> list[Finding]:
        """See `Format`: operators that are not onnxruntime's own."""
        file = model.origin.layout
        return [Finding("operator", "", f"the operator {name}") for name in file.foreign]

    def check_runnable(self, model: Model, *, trust: bool) -> bool:
        """See `Format`: an operator that is not onnxruntime's own is refused."""
        scan.check(self.dangers(model), where=str(model.origin.path), trust=trust)
        return True

    def facts(self, model: Model) -> dict[str, Any]:
        """Of a file that was read, for the report."""
        return describe(model.origin.layout)


def _provenance(file: File) -> dict[str, Any]:
    text = file.metadata.get(METADATA, "")
    if len(text) > 1 << 20:
        return {}
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _layers(file: File, path: Path) -> Iterator[Layer]:
    """The initializers, by what stands before the last slash of their names."""
    found: dict[str, dict[str, Constant]] = {}
    for number, constant in enumerate(file.constants):
        if not constant.dtype or not constant.bytes:
            continue
        layer, _, role = constant.name.rpartition("/")
        parts = found.setdefault(printable(layer or "graph", 200), {})
        role = printable(role or "constant", 80)
        parts[role if role not in parts else f"{role}_{number}"] = constant
    for name, parts in found.items():
        tensors = tuple(_tensor(path, name, role, each) for role, each in parts.items())
        kinds = dict.fromkeys(each.user for each in parts.values() if each.user)
        yield Layer((name,), next(iter(kinds), "") if len(kinds) == 1 else "", {}, tensors)


def _tensor(path: Path, layer: str, role: str, constant: Constant) -> Tensor:
    def values() -> np.ndarray:
        with path.open("rb") as file:
            file.seek(constant.start)
            data = file.read(constant.bytes)
        found = np.frombuffer(data, np.dtype(constant.dtype).newbyteorder("<"))
        return found.astype(constant.dtype).reshape(constant.shape)

    kernel = len(constant.shape) > 1 and constant.dtype == "float32"
    return Tensor(
        name=f"{layer}/{role}",
        role=role,
        kind="kernel" if kernel else "state",
        shape=constant.shape,
        dtype=np.dtype(constant.dtype),
        source=Source(values),
        key=constant.name,
    )


def describe(file: File) -> dict[str, Any]:
    """Inputs, outputs, constants and operators, as plain data."""
    constants: dict[str, int] = {}
    for each in file.constants:
        kind = each.dtype or "other"
        constants[kind] = constants.get(kind, 0) + each.bytes
    return {
        "opset": file.opset,
        "inputs": [_with_bytes(each) for each in file.inputs],
        "outputs": [_with_bytes(each) for each in file.outputs],
        "constants": {kind: many for kind, many in constants.items() if many},
        "operators": file.operators,
    }


def _with_bytes(each: dict[str, Any]) -> dict[str, Any]:
    """An input or output with what one sample of it takes."""
    size = 0 if each["dtype"] == "?" else np.dtype(each["dtype"]).itemsize
    shape = [-1 if n is None else n for n in each["shape"]]
    many = prod(max(1, n) for n in shape)
    return {**each, "shape": shape, "bytes": size * many, "scale": None, "zero_point": None}

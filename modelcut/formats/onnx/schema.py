"""The parts of an `.onnx` that are looked at: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.errors import InputError, UnsafeError
from modelcut.formats.saved_model.proto import Message, ProtoError, put_blob, read_varint
from modelcut.safety import printable

TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
"""TensorProto.DataType -> dtype."""

_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_MOST_PARTS = 100_000
_MOST_GRAPHS = 1000
_EXTERNAL = 1
_OWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Domains of operators that onnxruntime itself has."""


@dataclass(frozen=True)
class Constant:
    """An initializer.

    Attributes:
        name: its name.
        dtype: such as float32; "" for a type that NumPy lacks.
        shape: its shape.
        user: the operator that takes it, the first one; "" for none in the outermost graph.
        start: where in the file its values stand, as little-endian bytes.
        bytes: what they take; 0 where they are written number by number, and not read.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    user: str
    start: int
    bytes: int


@dataclass(frozen=True)
class File:
    """What was read of a file.

    Attributes:
        producer: who wrote it, with version.
        opset: version of the standard operators.
        constants: the initializers.
        operators: how often each occurs, in all graphs; those of another domain as `domain.name`.
        foreign: operators that are not onnxruntime's own.
        inputs, outputs: name, dtype and shape (a name or None for an open axis) of the interface.
        metadata: texts by key.
    """

    producer: str
    opset: int
    constants: tuple[Constant, ...]
    operators: dict[str, int]
    foreign: tuple[str, ...]
    inputs: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    metadata: dict[str, str] = field(default_factory=dict)


def looks_like_one(path: Path) -> bool:
    """Whether a file's top level is that of a ModelProto; reads only where its fields begin."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(1) != b"\x08":  # ir_version
            return False
        seen: set[int] = set()
        at = 0
        for _ in range(_MOST_PARTS):
            if at == size:
                return {1, 7, 8} <= seen
            file.seek(at)
            head = file.read(20)
            try:
                tag, used = read_varint(head, 0)
                value, used = read_varint(head, used)
            except ProtoError:
                return False
            if tag >> 3 not in _MODEL_FIELDS or tag & 7 not in (0, 2):
                return False
            seen.add(tag >> 3)
            at += used + (value if tag & 7 == 2 else 0)
            if at > size:
                return False
    return False


def parse(path: Path) -> File:
    """Reads a file; the values of its initializers stay where they are.

    Raises:
        InputError: it is damaged.
        UnsafeError: values stand in other files.
    """
    with path.open("rb") as opened:
        view = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _parsed(Message(memoryview(view)), path, _address(memoryview(view)))
    except (ProtoError, ValueError, OverflowError) as error:
        why = printable(str(error), 120)
    finally:
        with contextlib.suppress(BufferError):  # an error may still hold a part of it
            view.close()
    raise InputError(f"{path}: damaged ONNX: {why}")


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


def _parsed(model: Message, path: Path, base: int) -> File:
    graph = model.message(7)
    operators: dict[str, int] = {}
    foreign: dict[str, None] = {}
    for domain, name in _nodes(model, graph, path):
        shown = printable(name if domain in _OWN_DOMAINS else f"{domain}.{name}", 80)
        operators[shown] = operators.get(shown, 0) + 1
        if domain not in _OWN_DOMAINS:
            foreign[shown] = None
    users: dict[str, str] = {}
    for each in graph.messages(1):
        for name in each.texts(1):
            users.setdefault(name, printable(each.text(4), 40))
    constants = tuple(_constant(each, users, base) for each in graph.messages(5))
    held = {each.name for each in constants}
    inputs = (_interface(each) for each in graph.messages(11))
    opsets = {each.text(1): each.integer(2) for each in model.messages(8)}
    return File(
        producer=printable(f"{model.text(2)} {model.text(3)}".strip() or "an unnamed producer", 80),
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        constants=constants,
        operators=operators,
        foreign=tuple(foreign),
        # Old producers list the initializers among the inputs.
        inputs=tuple(each for each in inputs if each["name"] not in held),
        outputs=tuple(_interface(each) for each in graph.messages(12)),
        metadata={each.text(1): each.text(2) for each in model.messages(14)},
    )


def _nodes(model: Message, graph: Message, path: Path) -> Iterator[tuple[str, str]]:
    """Domain and name of every operator, in loops, branches and functions too.

    Raises:
        UnsafeError: the values of a tensor on the way stand in another file.
    """
    waiting = [graph]
    # Of a function the nodes have another number than of a graph.
    inner = []
    for function in model.messages(25):
        inner += function.messages(7)
        for default in function.messages(11):
            waiting += _graphs(default, path)
    graphs = 0
    while waiting or inner:
        nodes, inner = inner, []
        if not nodes:
            current = waiting.pop()
            nodes = current.messages(1)
            _check_here(current.messages(5), path)
            _check_sparse(current.messages(15), path)
        graphs += 1
        if graphs > _MOST_GRAPHS:
            raise ProtoError(f"more than {_MOST_GRAPHS} graphs within each other")
        for node in nodes:
            yield node.text(7), node.text(4)
            for attribute in node.messages(5):
                waiting += _graphs(attribute, path)


def _graphs(attribute: Message, path: Path) -> list[Message]:
    """The graphs that an attribute holds; its tensors must be in the file."""
    _check_here(attribute.messages(5) + attribute.messages(10), path)
    _check_sparse(attribute.messages(22) + attribute.messages(23), path)
    return attribute.messages(6) + attribute.messages(11)


def _check_sparse(found: Iterable[Message], path: Path) -> None:
    for each in found:
        _check_here(each.messages(1) + each.messages(2), path)


def _check_here(found: Iterable[Message], path: Path) -> None:
    """Refuses tensors whose values stand in another file, which onnxruntime would read."""
    for each in found:
        if each.integer(14) == _EXTERNAL or each.has(13):
            raise UnsafeError(
                f"{path}: the values of {printable(each.text(8), 60)!r} stand in another file",
                "save it as one file",
            )


def _constant(each: Message, users: dict[str, str], base: int) -> Constant:
    name = each.text(8)
    shape = tuple(each.integers(1))
    kind = TYPES.get(each.integer(2), "")
    if any(n < 0 for n in shape) or len(shape) > 32:
        raise ProtoError(f"{printable(name, 60)!r} has no shape")
    raw = each.blob(9)
    needed = prod(shape) * np.dtype(kind).itemsize if kind else len(raw)
    if len(raw) not in (0, needed):
        raise ProtoError(f"{printable(name, 60)!r} holds {len(raw)} bytes, not {needed}")
    start = _address(raw) - base if len(raw) else 0
    return Constant(name, kind, shape, users.get(name, ""), start, len(raw))


def _interface(each: Message) -> dict[str, Any]:
    tensor = each.message(2).message(1)
    shape: list[int | None] = []
    for axis in tensor.message(2).messages(1):
        shape.append(axis.signed(1) if axis.has(1) else None)
    dtype = TYPES.get(tensor.integer(1), "?")
    return {"name": printable(each.text(1), 80), "dtype": dtype, "shape": shape}


def append_metadata(path: Path, key: str, value: str) -> None:
    """Adds an entry at the end of the file: repeated fields may stand anywhere in a message."""
    entry = put_blob(1, key.encode()) + put_blob(2, value.encode())
    with path.open("ab") as file:
        file.write(put_blob(14, entry))
        file.flush()
        os.fsync(file.fileno())

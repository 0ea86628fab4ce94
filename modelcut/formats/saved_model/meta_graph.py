"""`saved_model.pb` and the object graph of its checkpoint, as far as modelcut looks into them.

A SavedModel holds meta graphs: a graph of operations, a library of functions, signatures, and, from
TensorFlow 2 on, the graph of Python objects that own the variables and functions
(tensorflow/core/protobuf: saved_model.proto, meta_graph.proto, saved_object_graph.proto,
trackable_object_graph.proto; tensorflow/core/framework: graph.proto, function.proto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from modelcut.formats.saved_model.proto import Message, ProtoError

SERVE = "serve"
_MAY_NAME = frozenset((10 << 3 | 2, 1 << 3 | 2))
"""Tags of a function and of a list in an AttrValue: without these bytes it names no function."""


class GraphNode:
    """One operation of a graph or function."""

    __slots__ = ("_attributes", "_message", "inputs", "name", "op")

    def __init__(self, data: memoryview) -> None:
        self._message = Message(data)
        self.name = self._message.text(1)
        self.op = self._message.text(2)
        self.inputs = self._message.texts(3)
        self._attributes: dict[str, memoryview] | None = None

    @property
    def data_inputs(self) -> list[str]:
        """The inputs but those of control."""
        return [name for name in self.inputs if not name.startswith("^")]

    def attribute(self, name: str) -> Message:
        """An AttrValue; an empty one where it is not set."""
        return Message(self._values.get(name, b""))

    @property
    def _values(self) -> dict[str, memoryview]:
        if self._attributes is None:
            self._attributes = self._message.map(5)
        return self._attributes

    def functions(self) -> dict[str, str]:
        """Attribute -> name of a function that it names; "branches/0" for those of a list."""
        found = {}
        for name, data in self._values.items():
            if len(data) < 1 << 16 and not _MAY_NAME.intersection(data):
                continue
            value = Message(data)
            if value.has(10):
                found[name] = value.message(10).text(1)
            if value.has(1):
                for index, part in enumerate(value.message(1).messages(9)):
                    found[f"{name}/{index}"] = part.text(1)
        return found


class Function:
    """One function of a library.

    Attributes:
        name: of the function.
        arguments: names of its inputs, captured ones last.
        data: the whole message.
    """

    def __init__(self, data: memoryview) -> None:
        self._message = Message(data)
        signature = self._message.message(1)
        self.name = signature.text(1)
        self.arguments = [part.text(1) for part in signature.messages(2)]
        self._outputs = [part.text(1) for part in signature.messages(3)]

    @cached_property
    def nodes(self) -> list[GraphNode]:
        """Its operations."""
        return [GraphNode(part) for part in self._message.blobs(3)]

    @cached_property
    def returns(self) -> list[str]:
        """The tensors that it gives back, in order."""
        found = {name: str(value, "utf-8", "replace") for name, value in
                 self._message.map(4).items()}  # fmt: skip
        return [found.get(name, "") for name in self._outputs]


@dataclass(frozen=True)
class Object:
    """One node of the saved object graph.

    Attributes:
        kind: user_object, asset, function, variable, bare_concrete_function, constant, resource
            or "".
        children: local name -> number of the node.
        message: of its kind.
        functions: names of the concrete functions behind it.
        saveable: nodes of the functions that save and restore it.
    """

    kind: str
    children: tuple[tuple[str, int], ...]
    message: Message
    functions: tuple[str, ...] = ()
    saveable: tuple[int, ...] = ()


_KINDS = {
    4: "user_object",
    5: "asset",
    6: "function",
    7: "variable",
    8: "bare_concrete_function",
    9: "constant",
    10: "resource",
    12: "captured_tensor",
}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature: the tensor in the graph, its dtype and shape."""

    name: str
    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """One way to call the model."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


class MetaGraph:
    """One meta graph.

    Attributes:
        tags: such as serve.
        version: of the TensorFlow that wrote it; "" where it does not say.
        nodes: operations of the main graph.
        functions: of the library, by name.
        objects: the saved object graph; empty in a model of TensorFlow 1.
        bound: concrete function -> nodes of the objects that its last arguments are.
        alone: it is the only graph of its kind.
    """

    def __init__(self, data: memoryview, *, alone: bool = True) -> None:
        self.alone = alone
        message = Message(data)
        info = message.message(1)
        self.tags = info.texts(4)
        self.version = info.text(5)
        graph = message.message(2)
        self.nodes = [GraphNode(part) for part in graph.blobs(1)]
        library = [Function(part) for part in graph.message(2).blobs(1)]
        self.functions = {function.name: function for function in library}
        self._message = message
        objects = message.message(7)
        self.has_objects = message.has(7)
        self.objects = [_object(part) for part in objects.messages(1)]
        self.bound = {name: Message(value).integers(2) for name, value in objects.map(2).items()}

    @cached_property
    def by_name(self) -> dict[str, GraphNode]:
        """The operations of the main graph by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def signatures(self) -> dict[str, Signature]:
        """By name."""
        return {
            name: Signature(_infos(Message(value), 1), _infos(Message(value), 2))
            for name, value in self._message.map(5).items()
        }

    @cached_property
    def assets(self) -> list[tuple[str, str]]:
        """Of each asset, the tensor in the graph that holds its path, and its file name."""
        return [(part.message(1).text(1), part.text(2)) for part in self._message.messages(6)]

    @property
    def saver(self) -> tuple[str, str, str]:
        """Names in the main graph: the tensor with the checkpoint's path, of saving, of restoring.

        "" where there is no saver.
        """
        saver = self._message.message(3)
        return saver.text(1), saver.text(2), saver.text(3)

    @cached_property
    def initializers(self) -> list[str]:
        """Operations of the main graph that run when TensorFlow 1 loads it."""
        found = []
        collections = self._message.map(4)
        for key in ("saved_model_main_op", "legacy_init_op"):
            found += Message(collections.get(key, b"")).message(1).texts(1)
        first = self.signatures.get("__saved_model_init_op")
        if first is not None:
            found += [info.name for info in first.outputs.values()]
        return found

    @cached_property
    def variables(self) -> dict[int, tuple[int, tuple[int, ...] | None, str]]:
        """Node -> dtype, shape (None: not said) and name of each variable."""
        return {
            index: (
                item.message.integer(1),
                _shape(item.message.message(2)) if item.message.has(2) else None,
                item.message.text(6),
            )
            for index, item in enumerate(self.objects)
            if item.kind == "variable"
        }


def meta_graphs(data: bytes) -> list[MetaGraph]:
    """All meta graphs of a `saved_model.pb`.

    Raises:
        ProtoError: it is damaged, or holds none.
    """
    parts = Message(data).blobs(2)
    if not parts:
        raise ProtoError("it holds no graph")
    return [MetaGraph(part, alone=len(parts) == 1) for part in parts]


def _infos(message: Message, number: int) -> dict[str, TensorInfo]:
    result = {}
    for name, value in message.map(number).items():
        info = Message(value)
        shape = _shape(info.message(3)) if info.has(3) else None
        result[name] = TensorInfo(info.text(1), info.integer(2), shape)
    return result


def _shape(message: Message) -> tuple[int, ...] | None:
    if message.integer(3):
        return None
    return tuple(dim.signed(1) for dim in message.messages(2))


def _object(message: Message) -> Object:
    kind, inner = "", Message()
    for number, name in _KINDS.items():
        if message.has(number):
            kind, inner = name, message.message(number)
    functions: tuple[str, ...] = ()
    if kind == "function":
        functions = tuple(inner.texts(1))
    elif kind == "bare_concrete_function":
        functions = (inner.text(1),)
    saveable: list[int] = []
    for value in message.map(11).values():
        saveable += [Message(value).signed(2), Message(value).signed(3)]
    return Object(kind, tuple(_references(message)), inner, functions, tuple(saveable))


def _references(message: Message) -> Iterator[tuple[str, int]]:
    for child in message.messages(1):
        yield child.text(2), child.signed(1)


@dataclass(frozen=True)
class Trackable:
    """One node of a checkpoint's object graph.

    Attributes:
        children: local name -> number of the node.
        keys: (full name, checkpoint key) of each of its values.
        slots: nodes of an optimizer's slots, where it is one.
    """

    children: tuple[tuple[str, int], ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    slots: tuple[int, ...] = field(default=())


def trackables(data: bytes) -> list[Trackable]:
    """The nodes of a checkpoint's object graph (`_CHECKPOINTABLE_OBJECT_GRAPH`).

    Raises:
        ProtoError: it is damaged.
    """
    return [
        Trackable(
            tuple(_references(node)),
            tuple((part.text(2), part.text(3)) for part in node.messages(2)),
            tuple(part.signed(3) for part in node.messages(3)),
        )
        for node in Message(data).messages(1)
    ]

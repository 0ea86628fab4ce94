"""What a graph does with its variables, found by following them through it; nothing is run.

A variable's handle passes through calls of functions, branches and loops to an operation that reads
it; the value passes through casts, transpositions and added axes to the one that uses it: the
second operand of a `MatMul` is a kernel, the fourth of a `FusedBatchNormV3` a statistic. The moves
of the axes are recorded, so that a kernel's inputs and outputs are told in its own shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelcut.formats.saved_model.meta_graph import Function, GraphNode, MetaGraph
from modelcut.formats.saved_model.proto import Message

MAX_CALLS = 20_000
MAX_DEPTH = 100


@dataclass(frozen=True)
class GraphValue:
    """What is known of a tensor in the graph.

    Attributes:
        kind: "handle" of a variable, its "value", "asset" (the path of one) or "prefix" (of the
            checkpoint).
        key: of the variable.
        axes: of a value: for each of its axes the variable's own, or None for an added one; None
            where that cannot be told.
    """

    kind: str
    key: str = ""
    axes: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Use:
    """One use of a variable's value.

    Attributes:
        op: the operation.
        operand: which of its inputs.
        axes: see `GraphValue`.
        node: the operation itself.
    """

    op: str
    operand: int
    axes: tuple[int | None, ...] | None
    node: GraphNode


Visit = Callable[[GraphNode, Sequence["GraphValue | None"]], None]


class Tangled(Exception):  # noqa: N818 - not an error of the user's
    """Functions that call each other too deep or too often."""


class Walk:
    """Follows values through a meta graph.

    Attributes:
        uses: variable's key -> where its value is used.
    """

    def __init__(
        self, graph: MetaGraph, ranks: Mapping[str, int], visit: Visit | None = None
    ) -> None:
        """Prepares a walk.

        Args:
            graph: to walk in.
            ranks: variable's key -> number of its axes.
            visit: called with each operation and what is known of its inputs, once a context.
        """
        self._graph, self._ranks, self._visit = graph, ranks, visit
        self._known: dict[tuple[str, tuple[GraphValue | None, ...]], list[GraphValue | None]] = {}
        self.uses: dict[str, list[Use]] = {}

    def function(self, name: str, given: Sequence[GraphValue | None], depth: int = 0) -> None:
        """Walks a function of the library; see `returned`."""
        self.returned(name, given, depth)

    def returned(
        self, name: str, given: Sequence[GraphValue | None], depth: int = 0
    ) -> list[GraphValue | None]:
        """Walks a function of the library and tells what it gives back.

        Raises:
            Tangled: too deep, or too many different calls.
        """
        function = self._graph.functions.get(name)
        if function is None:
            return []
        if depth > MAX_DEPTH or len(self._known) > MAX_CALLS:
            raise Tangled(name)
        place = (name, tuple(given))
        if place in self._known:
            return self._known[place]
        self._known[place] = []
        starts = dict(zip(function.arguments, given, strict=False))
        values = self.nodes(ordered(function.nodes), starts, depth)
        self._known[place] = [_lookup(values, ref) for ref in function.returns]
        return self._known[place]

    def nodes(
        self, nodes: Iterable[GraphNode], values: Mapping[str, GraphValue | None], depth: int = 0
    ) -> dict[str, GraphValue | None]:
        """Walks operations whose inputs come first; returns what is known of their outputs."""
        found = dict(values)
        for node in nodes:
            given = [_lookup(found, ref) for ref in node.data_inputs]
            if self._visit is not None:
                self._visit(node, given)
            self._one(node, given, found, depth)
        return found

    def _one(
        self,
        node: GraphNode,
        given: list[GraphValue | None],
        found: dict[str, GraphValue | None],
        depth: int,
    ) -> None:
        called = node.functions()
        if node.op in self._graph.functions:  # a call as TensorFlow 1 wrote them
            called["op"] = node.op
        if called:
            for attribute, name in called.items():
                # The first input of a branch chooses, and is no argument.
                skip = 1 if node.op in _BRANCHES else 0
                results = self.returned(name, given[skip:], depth + 1)
                if attribute != "cond":
                    for index, result in enumerate(results):
                        place = f"{node.name}:{index}"
                        found[place] = found.get(place) or result
            if node.op in _CALLS or "op" in called:
                return
        if not any(value is not None for value in given):
            return
        if node.op in _READS and given[0] is not None:
            first = given[0]
            if first.kind == "handle":
                axes = tuple(range(self._ranks.get(first.key, 0)))
                found[node.name] = GraphValue("value", first.key, axes)
            return
        if node.op == "IdentityN":
            found.update({f"{node.name}:{index}": value for index, value in enumerate(given)})
            return
        carried = self._carried(node, given)
        if carried is not None:
            found[node.name] = carried
            return
        for operand, value in enumerate(given):
            if value is not None and value.kind in ("value", "handle"):
                use = Use(node.op, operand, value.axes, node)
                self.uses.setdefault(value.key, []).append(use)

    def _carried(self, node: GraphNode, given: list[GraphValue | None]) -> GraphValue | None:
        """The same value behind an operation that only passes or rearranges it."""
        first = given[0]
        if first is None:
            return None
        if node.op in _SAME:
            return first
        if first.kind != "value":
            return None
        if node.op == "Transpose":
            order = self._constant(node, 1)
            moved = None
            if first.axes is not None and order is not None and len(order) == len(first.axes):
                moved = tuple(first.axes[axis] for axis in order)
            return GraphValue("value", first.key, moved)
        if node.op == "ExpandDims":
            where = self._constant(node, 1)
            if first.axes is None or where is None or len(where) != 1:
                return GraphValue("value", first.key)
            at = where[0] % (len(first.axes) + 1)
            return GraphValue("value", first.key, (*first.axes[:at], None, *first.axes[at:]))
        if node.op == "Squeeze":
            return GraphValue("value", first.key)
        if node.op == "Reshape":
            return GraphValue("value", first.key)
        return None

    def _constant(self, node: GraphNode, operand: int) -> list[int] | None:
        """The whole numbers of a constant input of the operation, looked up in its own graph."""
        scope = self._scopes.get(id(node))
        if scope is None:
            return None
        name = (
            node.data_inputs[operand].partition(":")[0] if operand < len(node.data_inputs) else ""
        )
        found = scope.get(name)
        if found is None or found.op != "Const":
            return None
        return integers(found.attribute("value").message(8))

    @property
    def _scopes(self) -> dict[int, dict[str, GraphNode]]:
        if not hasattr(self, "_made"):
            self._made: dict[int, dict[str, GraphNode]] = {}
            groups = [self._graph.nodes, *(f.nodes for f in self._graph.functions.values())]
            for group in groups:
                names = {node.name: node for node in group}
                for node in group:
                    if node.op in ("Transpose", "ExpandDims"):
                        self._made[id(node)] = names
        return self._made


_CALLS = frozenset(
    """PartitionedCall StatefulPartitionedCall If StatelessIf While StatelessWhile Case
    StatelessCase SymbolicGradient""".split()
)
_BRANCHES = frozenset("If StatelessIf Case StatelessCase".split())
_READS = frozenset("ReadVariableOp _ReadVariablesOp".split())
_SAME = frozenset(
    """Identity Cast StopGradient PreventGradient CheckNumerics Snapshot DisableCopyOnRead
    EnsureShape Enter RefEnter Switch RefSwitch Merge Exit PlaceholderWithDefault RefIdentity
    _SwitchN FakeQuantWithMinMaxVars FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVarsPerChannel
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4""".split()
)


def integers(tensor: Message) -> list[int] | None:
    """The values of a small TensorProto of int32 or int64."""
    kinds = {3: "<i4", 9: "<i8"}
    dtype = kinds.get(tensor.integer(1))
    if dtype is None:
        return None
    shape = [dim.signed(1) for dim in tensor.message(2).messages(2)]
    size = int(np.prod(shape, dtype=np.int64)) if all(n >= 0 for n in shape) else -1
    if not 0 <= size <= 64:
        return None
    content = tensor.blob(4)
    if content:
        return np.frombuffer(content, dtype).tolist() if len(content) % 8 == 0 or dtype == "<i4" \
            else None  # fmt: skip
    listed = tensor.integers(7 if dtype == "<i4" else 10)
    if not listed:
        return [0] * size
    return [*listed, *[listed[-1]] * (size - len(listed))]


def ordered(nodes: Sequence[GraphNode]) -> list[GraphNode]:
    """Operations behind those that feed them; what stands in a loop comes last, as written."""
    names = {node.name: index for index, node in enumerate(nodes)}
    waits = [0] * len(nodes)
    feeds: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for ref in node.data_inputs:
            source = names.get(ref.partition(":")[0])
            if source is not None:
                feeds[source].append(index)
                waits[index] += 1
    ready = [index for index, count in enumerate(waits) if not count]
    order: list[int] = []
    while ready:
        index = ready.pop()
        order.append(index)
        for later in feeds[index]:
            waits[later] -= 1
            if not waits[later]:
                ready.append(later)
    done = set(order)
    order += [index for index in range(len(nodes)) if index not in done]
    return [nodes[index] for index in order]


def _lookup(values: Mapping[str, GraphValue | None], ref: str) -> GraphValue | None:
    """What is known of a tensor: "node", "node:1" in a graph, "node:output:1" in a function."""
    if ref in values:
        return values[ref]
    name, _, rest = ref.partition(":")
    place = rest.rpartition(":")[2] if rest else "0"
    found = values.get(f"{name}:{place}")
    return found if found is not None else values.get(name)


def in_objects(graph: MetaGraph, keys: Mapping[int, str], ranks: Mapping[str, int]) -> Walk:
    """Walks all concrete functions of a TensorFlow 2 model.

    Args:
        graph: the meta graph.
        keys: node of the object graph -> key of the variable.
        ranks: variable's key -> number of its axes.
    """
    walk = Walk(graph, ranks)
    for name in graph.bound:
        walk.function(name, arguments(graph, name, keys))
    return walk


def arguments(graph: MetaGraph, name: str, keys: Mapping[int, str]) -> list[GraphValue | None]:
    """What is known of the arguments of a concrete function: what it has captured."""
    function: Function | None = graph.functions.get(name)
    if function is None:
        return []
    given: list[GraphValue | None] = [None] * len(function.arguments)
    captured = graph.bound[name]
    start = len(given) - len(captured)
    for index, node in enumerate(captured):
        if start + index < 0 or not 0 <= node < len(graph.objects):
            continue
        if node in keys:
            given[start + index] = GraphValue("handle", keys[node])
        elif graph.objects[node].kind == "asset":
            given[start + index] = GraphValue("asset")
    return given


def in_main_graph(graph: MetaGraph, keys: Mapping[str, str], ranks: Mapping[str, int]) -> Walk:
    """Walks the main graph, where TensorFlow 1 has all of a model.

    Args:
        graph: the meta graph.
        keys: name of an operation -> key of the variable that it is.
        ranks: variable's key -> number of its axes.
    """
    walk = Walk(graph, ranks)
    values: dict[str, GraphValue | None] = {}
    for name, key in keys.items():
        node = graph.by_name.get(name)
        if node is None:
            continue
        # A reference variable of TensorFlow 1 is its value.
        axes = tuple(range(ranks.get(key, 0)))
        handle = node.op == "VarHandleOp"
        values[name] = GraphValue("handle", key) if handle else GraphValue("value", key, axes)
    walk.nodes(ordered(graph.nodes), values)
    return walk

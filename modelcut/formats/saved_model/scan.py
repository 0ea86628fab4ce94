"""What a SavedModel would do when it is loaded and run, besides computing.

All operations of the serving graph and of its functions must be known to be harmless, wherever they
stand. Reading and writing checkpoints and vocabularies is part of every SavedModel, so for these it
matters what runs them, and on which file: the loader's own checkpoint and the model's own assets.
What runs at loading must not loop, or loading may never end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from modelcut.formats.saved_model import uses
from modelcut.formats.saved_model.harmless_ops import HARMLESS
from modelcut.formats.saved_model.meta_graph import GraphNode, MetaGraph
from modelcut.formats.saved_model.uses import GraphValue
from modelcut.graph.scan import Finding
from modelcut.safety import printable

_RESTORES = frozenset("RestoreV2 Restore RestoreSlice".split())
_SAVES = frozenset("SaveV2 Save SaveSlices MergeV2Checkpoints".split())
_NAMES = frozenset("ShardedFilename ShardedFilespec".split())
_TABLES = frozenset("InitializeTableFromTextFile InitializeTableFromTextFileV2".split())
_PRINTS = frozenset(("", "stdout", "stderr", "log(info)", "log(warning)", "log(error)"))
_LOOPS = frozenset("While StatelessWhile For Enter RefEnter NextIteration RefNextIteration".split())
_AT_LOADING = frozenset("_initialize _create_resource _destroy_resource".split())


def strangers(graph: MetaGraph) -> Iterator[str]:
    """Descriptions of operations that are not known to be harmless, each kind once."""
    seen: set[str] = set()
    groups = [("", graph.nodes), *((name, f.nodes) for name, f in graph.functions.items())]
    for place, nodes in groups:
        for node in nodes:
            if node.op not in seen and not _known(node, graph):
                seen.add(node.op)
                inside = f" in function {printable(place, 60)!r}" if place else ""
                yield f"operation {printable(node.op, 60)} ({printable(node.name, 60)!r}{inside})"


def _known(node: GraphNode, graph: MetaGraph) -> bool:
    op = node.op
    if op in HARMLESS or op in _RESTORES | _SAVES | _NAMES | _TABLES or op in graph.functions:
        return True
    if op in ("Print", "PrintV2"):
        stream = str(node.attribute("output_stream").blob(2), "utf-8", "replace")
        return stream in _PRINTS
    return False


def findings(graph: MetaGraph) -> list[Finding]:
    """What of a graph does more than compute."""
    found = list(strangers(graph))
    if not found:
        try:
            found = list(dict.fromkeys(_executed(graph)))
        except uses.Tangled:
            found = ["functions that call each other endlessly"]
    return [Finding("graph", "", what) for what in found]


def _executed(graph: MetaGraph) -> Iterator[str]:
    """What of reading, writing and looping would really be run."""
    if graph.has_objects and graph.alone:
        yield from _from_objects(graph)
    else:
        yield from _from_main_graph(graph)


def _from_objects(graph: MetaGraph) -> Iterator[str]:
    looks = _Looks(assets=True)
    walk = uses.Walk(graph, {}, looks.visit)
    for name in graph.bound:
        walk.function(name, uses.arguments(graph, name, {}))
    yield from looks.found
    first = [
        name
        for item in graph.objects
        for child, number in item.children
        if child in _AT_LOADING and 0 <= number < len(graph.objects)
        for name in graph.objects[number].functions
    ]
    first += [
        name
        for item in graph.objects
        for number in item.saveable
        if 0 <= number < len(graph.objects)
        for name in graph.objects[number].functions
    ]
    yield from _loops([], first, graph)


def _from_main_graph(graph: MetaGraph) -> Iterator[str]:
    path, _, restore = graph.saver
    outputs = [
        info.name
        for name, signature in graph.signatures.items()
        if name != "__saved_model_init_op"
        for info in signature.outputs.values()
    ]
    for roots, assets in ((outputs, False), ([restore], False), (graph.initializers, True)):
        nodes = _behind(roots, graph)
        values: dict[str, GraphValue | None] = {}
        if path:
            values[path.partition(":")[0]] = GraphValue("prefix")
        if assets:  # only then does the loader write their paths into these tensors
            values |= {name.partition(":")[0]: GraphValue("asset") for name, _ in graph.assets}
        looks = _Looks(assets=assets, prefix=roots == [restore])
        uses.Walk(graph, {}, looks.visit).nodes(uses.ordered(nodes), values)
        yield from looks.found
        if roots is not outputs:
            yield from _loops(nodes, [], graph)


def _behind(roots: Iterable[str], graph: MetaGraph) -> list[GraphNode]:
    """The operations of the main graph that these need, by data or control."""
    waiting = [root.lstrip("^").partition(":")[0] for root in roots if root]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in graph.by_name:
            continue
        seen.add(name)
        waiting += [ref.lstrip("^").partition(":")[0] for ref in graph.by_name[name].inputs]
    return [node for node in graph.nodes if node.name in seen]


class _Looks:
    """Collects what is read and written on a walk."""

    def __init__(self, *, assets: bool, prefix: bool = False) -> None:
        self._assets, self._prefix = assets, prefix
        self.found: list[str] = []

    def visit(self, node: GraphNode, given: Sequence[GraphValue | None]) -> None:
        """See `uses.Visit`."""
        kinds = [value.kind if value else "" for value in given]
        name = printable(node.name, 60)
        if node.op in _SAVES:
            self.found.append(f"{node.op} ({name!r}), which writes files")
        elif node.op in _RESTORES and not (self._prefix and kinds[:1] == ["prefix"]):
            self.found.append(f"{node.op} ({name!r}), which reads another checkpoint")
        elif node.op in _TABLES and not (self._assets and kinds[1:2] == ["asset"]):
            self.found.append(f"{node.op} ({name!r}), which reads a file that is no asset")


def _loops(nodes: Iterable[GraphNode], names: Iterable[str], graph: MetaGraph) -> Iterator[str]:
    """Loops in operations, and in functions and what they call."""
    waiting, seen = list(names), set()
    groups: list[Iterable[GraphNode]] = [nodes]
    while groups or waiting:
        if not groups:
            name = waiting.pop()
            function = graph.functions.get(name)
            if name in seen or function is None:
                continue
            seen.add(name)
            groups.append(function.nodes)
        for node in groups.pop():
            if node.op in _LOOPS:
                yield f"{node.op} ({printable(node.name, 60)!r}), a loop that runs at loading"
            waiting += [*node.functions().values(), node.op]

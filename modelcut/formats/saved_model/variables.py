"""The variables of a SavedModel as layers of tensors with names and roles.

The checkpoint has keys, the graph has uses, the object graph has names, and Keras's metadata has
layers; each may be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modelcut.errors import InputError
from modelcut.formats import weights as formats_weights
from modelcut.formats.saved_model import keras_metadata, roles, uses
from modelcut.formats.saved_model.bundle import STRING, Bundle, Entry
from modelcut.formats.saved_model.meta_graph import MetaGraph, Trackable, trackables
from modelcut.graph.architecture import Architecture
from modelcut.graph.keras.classes import WeightSpec
from modelcut.model.model import Layer, Source
from modelcut.safety import printable

_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
OPERATIONS = ("VarHandleOp", "VariableV2", "Variable")
"""Operations that are variables."""


@dataclass(frozen=True)
class Variables:
    """What was found out.

    Attributes:
        layers: with their tensors, without encodings.
        architecture: where Keras stores it and every weight belongs to one of its layers.
        copies: key -> keys that hold the same values and are not used.
        optimizer: keys of the optimizer's state.
        spent: bytes of it.
        warnings: what a user should know.
    """

    layers: tuple[Layer, ...]
    architecture: Architecture | None
    copies: Mapping[str, tuple[str, ...]]
    optimizer: frozenset[str]
    spent: int
    warnings: tuple[str, ...]


def find(
    graph: MetaGraph,
    bundle: Bundle | None,
    metadata: keras_metadata.Metadata,
    where: str,
    dtypes: Mapping[str, np.dtype],
) -> Variables:
    """Looks through graph, checkpoint and metadata.

    Args:
        graph: for serving.
        bundle: the checkpoint; None where there are no variables.
        metadata: of Keras, perhaps empty.
        where: the model, for messages.
        dtypes: key -> type of the values, where it is another one than the checkpoint's.

    Raises:
        InputError: they are inconsistent.
        ProtoError: something is no message.
    """
    return _VariableReader(graph, bundle, metadata, where, dtypes).variables()


class _VariableReader:
    """Joins what the parts of a SavedModel say about its variables."""

    def __init__(
        self,
        graph: MetaGraph,
        bundle: Bundle | None,
        metadata: keras_metadata.Metadata,
        where: str,
        dtypes: Mapping[str, np.dtype],
    ) -> None:
        self.where = where
        self.graph, self.bundle, self.metadata = graph, bundle, metadata
        self.dtypes = dtypes
        entries = bundle.entries.values() if bundle else ()
        self.entries = {entry.name: entry for entry in entries}
        self.zeros = bundle.zeros if bundle else frozenset()
        self.trackables = self._trackables()
        self.nodes = self._nodes()
        self.full_names = {key: name for item in self.trackables for name, key in item.keys if key}
        self.warnings: list[str] = []

    def variables(self) -> Variables:
        self._check_shapes()
        walk = self._walk()
        optimizer = self._optimizer()
        weights = [
            key
            for key, entry in self.entries.items()
            if entry.plain and _is_text(entry) and not _of_training(key) and not _is_complex(entry)
        ]
        self._warn_of_what_is_carried()
        copies = self._copies(weights, walk.uses)
        hidden = {copy for group in copies.values() for copy in group}
        weights = [key for key in weights if key not in hidden]
        architecture, layers = self._with_architecture(weights)
        if layers is None:
            architecture, layers = None, self._by_use(weights, walk.uses)
        return Variables(
            tuple(layers),
            architecture,
            copies,
            optimizer,
            sum(self.entries[key].size for key in optimizer - self.zeros),
            tuple(self.warnings),
        )

    def _warn_of_what_is_carried(self) -> None:
        sliced = sum(bool(entry.slices) for entry in self.entries.values())
        if sliced:
            self.warnings.append(f"{sliced} partitioned variables are carried as they are")
        if any(map(_is_complex, self.entries.values())):
            self.warnings.append("variables of complex numbers are carried as they are")

    def _trackables(self) -> list[Trackable]:
        entry = self.entries.get(_OBJECTS)
        if self.bundle is None or entry is None or entry.dtype != STRING or entry.shape:
            return []
        return trackables(self.bundle.strings(entry)[0])

    def _nodes(self) -> dict[int, str]:
        """Node of the saved object graph -> key of its variable, as TensorFlow pairs them: by name.

        The two graphs number their nodes apart.
        """
        found: dict[int, str] = {}
        if not self.graph.objects or not self.trackables:
            return found
        waiting, seen = [(0, 0)], {(0, 0)}
        while waiting:
            one, two = waiting.pop()
            mine, theirs = self.graph.objects[one], self.trackables[two]
            if mine.kind == "variable" and theirs.keys:
                found.setdefault(one, theirs.keys[0][1])
            names = dict(theirs.children)
            for name, child in mine.children:
                pair = (child, names.get(name, -1))
                if pair not in seen and pair[0] in range(len(self.graph.objects)) \
                        and pair[1] in range(len(self.trackables)):  # fmt: skip
                    seen.add(pair)
                    waiting.append(pair)
        return found

    def _check_shapes(self) -> None:
        """The shapes that the graph declares must be those that are stored: TensorFlow allocates
        what is declared before it looks.
        """
        for node, (_, shape, name) in self.graph.variables.items():
            entry = self.entries.get(self.nodes.get(node, ""))
            if shape is None or entry is None or -1 in shape:
                continue
            if shape != entry.shape:
                raise InputError(
                    f"{self.where}: the variable {printable(name, 80)!r} declares "
                    f"{'×'.join(map(str, shape))}, the checkpoint holds "
                    f"{'×'.join(map(str, entry.shape))}"
                )

    def _walk(self) -> uses.Walk:
        ranks = {key: len(entry.shape) for key, entry in self.entries.items()}
        try:
            if self.graph.has_objects:
                return uses.in_objects(self.graph, self.nodes, ranks)
            names = {}
            for node in self.graph.nodes:
                if node.op in OPERATIONS:
                    shared = str(node.attribute("shared_name").blob(2), "utf-8", "replace")
                    for name in (node.name, shared):
                        if name in self.entries:
                            names[node.name] = name
            return uses.in_main_graph(self.graph, names, ranks)
        except uses.Tangled:
            self.warnings.append("its functions are too tangled to be followed; names decide")
            return uses.Walk(self.graph, ranks)

    def _optimizer(self) -> frozenset[str]:
        """Keys of what an optimizer keeps of each weight; without its counters and rates."""
        return frozenset(
            key
            for key, entry in self.entries.items()
            if (_SLOT in key or key.startswith("optimizer/_variables/"))
            and entry.plain
            and entry.shape
            and entry.numpy is not None
            and entry.numpy.kind == "f"
        )

    def _copies(
        self, weights: Iterable[str], used: Mapping[str, Sequence[uses.Use]]
    ) -> dict[str, tuple[str, ...]]:
        """Used variables -> those of the same name and bytes that nothing uses."""
        first: dict[tuple[Any, ...], str] = {}
        spare: list[str] = []
        for key in weights:
            entry = self.entries[key]
            name = self.full_names.get(key)
            if name and roles.real(used.get(key, ())):
                first.setdefault((name, entry.dtype, entry.shape, entry.crc), key)
            elif name:
                spare.append(key)
        found: dict[str, tuple[str, ...]] = {}
        for key in spare:
            entry = self.entries[key]
            twin = first.get((self.full_names[key], entry.dtype, entry.shape, entry.crc))
            assert self.bundle is not None
            if twin is not None and self.bundle.same(self.entries[twin], entry):
                found[twin] = (*found.get(twin, ()), key)
        return found

    def _stored(self, key: str, name: str) -> formats_weights.Stored:
        entry, bundle = self.entries[key], self.bundle
        assert bundle is not None
        assert entry.numpy is not None
        dtype = self.dtypes.get(key, entry.numpy)
        return formats_weights.Stored(
            name, key, entry.shape, dtype, Source(lambda: bundle.read(entry))
        )

    def _with_architecture(
        self, weights: Sequence[str]
    ) -> tuple[Architecture | None, list[Layer] | None]:
        """The layers as Keras 2 stores them, where every weight belongs to one of them."""
        try:
            found = keras_metadata.architecture(self.metadata, self.where)
            if found is None:
                return None, None
            places = keras_metadata.layer_variables(self.graph.objects, self.metadata, self.where)
            layers: list[Layer] = []
            for node in found.nodes:
                keys = [self.nodes.get(index, "") for index in places.get(node.path, [])]
                if not all(key in self.entries for key in keys):
                    return None, None
                stored = [self._stored(key, self.full_names.get(key, key)) for key in keys]
                layers += formats_weights.join([node], stored, self.where, strict=True)
        except InputError as error:
            reason = error.message.removeprefix(f"{self.where}: ")
            self.warnings.append(f"its Keras metadata does not fit: {reason}")
            return None, None
        placed = {tensor.key for layer in layers for tensor in layer.tensors}
        if placed != set(weights):
            return None, None
        return found, layers

    def _by_use(
        self, weights: Sequence[str], used: Mapping[str, Sequence[uses.Use]]
    ) -> list[Layer]:
        """Layers by the names of the variables, roles by what the graph does with them."""
        names = self._names(weights)
        groups: dict[tuple[str, ...], list[tuple[WeightSpec, formats_weights.Stored]]] = {}
        for key in weights:
            parts = [part for part in names[key].split("/") if part] or ["model"]
            rank = len(self.entries[key].shape)
            name = parts[-1] if len(parts) > 1 else ""
            spec = roles.decide(parts[-1], rank, used.get(key, ()), complete=bool(used))
            role = roles.word(spec, name)
            spec = replace(spec, role=role)
            path = tuple(parts[:-1] if role == name else parts)
            groups.setdefault(path, []).append((spec, self._stored(key, names[key])))
        return [formats_weights.make_layer(path, "", None, parts) for path, parts in groups.items()]

    def _names(self, weights: Sequence[str]) -> dict[str, str]:
        """What each variable is called: its full name where that tells it from the others."""
        counts: dict[str, int] = {}
        for key in weights:
            name = self.full_names.get(key, "")
            counts[name] = counts.get(name, 0) + 1
        result = {}
        for key in weights:
            name = self.full_names.get(key, "").partition(":")[0]
            plain = key.removesuffix(_VALUE).replace(".S", "/")
            vague = not name or counts[self.full_names[key]] > 1 or name.startswith("Variable")
            result[key] = plain if vague else name
        return result


def _of_training(key: str) -> bool:
    """Whether this is the state of an optimizer or of a metric: no weight of the network."""
    return _SLOT in key or key.startswith(("optimizer/", "keras_api/", "save_counter/"))


def _is_complex(entry: Entry) -> bool:
    return entry.numpy is not None and entry.numpy.kind == "c"


def _is_text(entry: Entry) -> bool:
    try:
        entry.key.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in entry.key

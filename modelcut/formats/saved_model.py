"""SavedModel: a folder with a graph and a checkpoint of its variables.

The checkpoint is edited, the rest is copied byte for byte: graph, signatures, assets. No graph is
executed, and no TensorFlow needed. Variables that the graph does not use and that repeat one that
it uses (Keras 3's `export` files every weight twice) get its place in the new checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.architecture import Architecture
from modelcut.encoding import Encoding, from_record
from modelcut.errors import InputError, UnsafeError
from modelcut.formats import (
    WriteOptions,
    Written,
    _fingerprint,
    _keras_metadata,
    _match,
    _roles,
    _scan,
)
from modelcut.formats import _uses as uses
from modelcut.formats._bundle import STRING, Bundle, BundleWriter, Entry
from modelcut.formats._meta_graph import SERVE, MetaGraph, Trackable, meta_graphs, trackables
from modelcut.formats._proto import ProtoError
from modelcut.formats._records import arrays, jsonable
from modelcut.layers import WeightSpec
from modelcut.model import Layer, Model, Origin, Source
from modelcut.safety import load_json, printable

NAME = "saved_model"
SUFFIXES = (".savedmodel", ".saved_model")
FOLDER = True
OWN_CODING = "TensorFlow reads no compressed checkpoint"
FIXED_GRAPH = "the graph of a SavedModel cannot change its layers; name the output .h5"
"""Why a step that edits the architecture is refused before any work."""

GRAPH, TEXT_GRAPH = "saved_model.pb", "saved_model.pbtxt"
_METADATA, _FINGERPRINT, _NOTES = (
    "keras_metadata.pb",
    "fingerprint.pb",
    "assets.extra/modelcut.json",
)
_PREFIX = "variables/variables"
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
_MAX_GRAPH = (2 << 30) - 1
_MAX_FILES = 20_000
_MAX_NOTES = 64 << 20


@dataclass(frozen=True)
class Layout:
    """What the writer must know of the folder that was read.

    Attributes:
        folder: it.
        bundle: its checkpoint; None where it has no variables.
        copies: key -> keys that hold the same values and are not used.
        optimizer: keys of the optimizer's state.
        architecture: as read.
    """

    folder: Path
    bundle: Bundle | None
    copies: Mapping[str, tuple[str, ...]]
    optimizer: frozenset[str]
    architecture: Architecture | None


def sniff(path: Path) -> bool:
    """A folder with a graph or a checkpoint in it."""
    return path.is_dir() and any(
        (path / name).exists() for name in (GRAPH, TEXT_GRAPH, "variables")
    )


def read(path: Path) -> Model:
    """Reads a folder; see `Format`."""
    where = str(path)
    _check_tree(path, where)
    graph = serving_graph(path)
    _check_assets(path, graph, where)
    bundle = _open_bundle(path, graph, where)
    try:
        metadata = _keras_metadata.find(graph, _optional(path / _METADATA))
        return _Reader(path, graph, bundle, metadata).model()
    except ProtoError as error:
        raise InputError(f"{where}: damaged: {error}") from None


def _check_tree(folder: Path, where: str) -> None:
    """Nothing in the folder may lead out of it."""
    count, waiting = 0, [folder]
    while waiting:
        for item in os.scandir(waiting.pop()):
            name = printable(os.path.relpath(item.path, folder))
            count += 1
            if count > _MAX_FILES:
                raise InputError(f"{where}: holds more than {_MAX_FILES} files")
            if item.is_symlink():
                raise UnsafeError(
                    f"{where}: {name!r} is a link, which may lead outside", "copy it with cp -rL"
                )
            if item.is_dir(follow_symlinks=False):
                waiting.append(Path(item.path))
            elif not item.is_file(follow_symlinks=False):
                raise InputError(f"{where}: {name!r} is no regular file")


def serving_graph(folder: Path) -> MetaGraph:
    """The meta graph for serving.

    Raises:
        InputError: there is none, or the file is damaged.
    """
    path = folder / GRAPH
    if not path.is_file():
        text = (folder / TEXT_GRAPH).is_file()
        what = "its graph is text (saved_model.pbtxt)" if text else f"has no {GRAPH}"
        raise InputError(f"{folder}: {what}", "save it again with tf.saved_model.save")
    if path.stat().st_size > _MAX_GRAPH:
        raise InputError(f"{path}: larger than 2 GiB, which no message is")
    try:
        found = meta_graphs(path.read_bytes())
    except ProtoError as error:
        raise InputError(f"{path}: damaged: {error}", "copy the model again") from None
    exact = [graph for graph in found if graph.tags == [SERVE]]
    serving = exact or [graph for graph in found if SERVE in graph.tags]
    if not serving:
        tags = ", ".join(printable("+".join(graph.tags), 60) for graph in found)
        raise InputError(f"{folder}: has no graph tagged {SERVE!r}, only {tags}", "export it again")
    return serving[0]


def _check_assets(folder: Path, graph: MetaGraph, where: str) -> None:
    for _, name in graph.assets:
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
            raise UnsafeError(f"{where}: the asset {printable(name)!r} leads out of the model")
        if not (folder / "assets" / name).is_file():
            raise InputError(f"{where}: the asset {printable(name)!r} is missing")


def _open_bundle(folder: Path, graph: MetaGraph, where: str) -> Bundle | None:
    index = folder / f"{_PREFIX}.index"
    held = graph.variables or any(node.op in _VARIABLES for node in graph.nodes)
    if not index.exists() and not held:
        return None
    return Bundle(folder / _PREFIX, where)


_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")


def _optional(path: Path) -> bytes:
    if not path.is_file():
        return b""
    if path.stat().st_size > _MAX_NOTES:
        raise InputError(f"{path}: larger than {_MAX_NOTES >> 20} MiB")
    return path.read_bytes()


class _Reader:
    """Joins the variables of a folder to names, roles and, where Keras says them, layers."""

    def __init__(
        self,
        path: Path,
        graph: MetaGraph,
        bundle: Bundle | None,
        metadata: _keras_metadata.Metadata,
    ) -> None:
        self.path, self.where = path, str(path)
        self.graph, self.bundle, self.metadata = graph, bundle, metadata
        entries = bundle.entries.values() if bundle else ()
        self.entries = {entry.name: entry for entry in entries}
        self.trackables = self._trackables()
        self.nodes = self._nodes()
        self.full_names = {key: name for item in self.trackables for name, key in item.keys if key}
        self.warnings: list[str] = []

    def model(self) -> Model:
        """The model."""
        self._check_shapes()
        walk = self._walk()
        optimizer = self._optimizer()
        weights = [
            key
            for key, entry in self.entries.items()
            if entry.plain and _is_text(entry) and not _of_training(key)
        ]
        sliced = sum(bool(entry.slices) for entry in self.entries.values())
        if sliced:
            self.warnings.append(f"{sliced} partitioned variables are carried as they are")
        copies = self._copies(weights, walk.uses)
        hidden = {copy for group in copies.values() for copy in group}
        weights = [key for key in weights if key not in hidden]
        architecture, layers = self._with_architecture(weights)
        if layers is None:
            architecture, layers = None, self._by_use(weights, walk.uses)
        notes = _notes(self.path, self.where)
        found, more = _match.with_encodings(layers, _encodings(notes))
        spent = sum(self.entries[key].size for key in optimizer)
        provenance = notes.get("provenance")
        keras = f", Keras {self.metadata.version}" if self.metadata.version else ""
        return Model(
            found,
            architecture,
            Origin(
                path=self.path,
                format=NAME,
                dialect=NAME,
                writer=f"TensorFlow {self.graph.version or '1'}{keras}",
                dropped=(f"optimizer state, {spent:,} bytes",) if spent else (),
                warnings=(*self.warnings, *more),
                training=_keras_metadata.training(self.metadata, self.where),
                provenance=provenance if isinstance(provenance, dict) else {},
                layout=Layout(self.path, self.bundle, copies, optimizer, architecture),
            ),
        )

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
                if node.op in _VARIABLES:
                    shared = str(node.attribute("shared_name").blob(2), "utf-8", "replace")
                    for name in (node.name, shared):
                        if name in self.entries:
                            names[node.name] = name
            return uses.in_main_graph(self.graph, names, ranks)
        except uses.Tangled:
            self.warnings.append("its functions are too tangled to be followed; names decide")
            return uses.Walk(self.graph, ranks)

    def _optimizer(self) -> frozenset[str]:
        """Keys of what an optimizer keeps of each weight; its counters and rates are left alone."""
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
            if name and _roles.real(used.get(key, ())):
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

    def _stored(self, key: str, name: str) -> _match.Stored:
        entry, bundle = self.entries[key], self.bundle
        assert bundle is not None
        assert entry.numpy is not None
        return _match.Stored(
            name, key, entry.shape, entry.numpy, Source(lambda: bundle.read(entry))
        )

    def _with_architecture(
        self, weights: Sequence[str]
    ) -> tuple[Architecture | None, list[Layer] | None]:
        """The layers as Keras 2 says them, where every weight finds its place among them."""
        try:
            found = _keras_metadata.architecture(self.metadata, self.where)
            if found is None:
                return None, None
            places = _keras_metadata.layer_variables(self.graph.objects, self.metadata, self.where)
            layers: list[Layer] = []
            for node in found.nodes:
                keys = [self.nodes.get(index, "") for index in places.get(node.path, [])]
                if not all(key in self.entries for key in keys):
                    return None, None
                stored = [self._stored(key, self.full_names.get(key, key)) for key in keys]
                layers += _match.join([node], stored, self.where, strict=True)
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
        groups: dict[tuple[str, ...], list[tuple[WeightSpec, _match.Stored]]] = {}
        for key in weights:
            parts = [part for part in names[key].split("/") if part] or ["model"]
            rank = len(self.entries[key].shape)
            name = parts[-1] if len(parts) > 1 else ""
            spec = _roles.decide(parts[-1], rank, used.get(key, ()), complete=bool(used))
            role = _roles.word(spec, name)
            spec = replace(spec, role=role)
            path = tuple(parts[:-1] if role == name else parts)
            groups.setdefault(path, []).append((spec, self._stored(key, names[key])))
        return [_match.make_layer(path, "", None, parts) for path, parts in groups.items()]

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


def _is_text(entry: Entry) -> bool:
    try:
        entry.key.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in entry.key


def _notes(folder: Path, where: str) -> dict[str, Any]:
    """What an earlier modelcut wrote beside the model."""
    try:
        text = _optional(folder / _NOTES).decode()
        value = load_json(text, where=where, what="notes of modelcut") if text else {}
    except (InputError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _encodings(notes: Mapping[str, Any]) -> dict[str, Encoding]:
    records = notes.get("encodings")
    try:
        items = records.items() if isinstance(records, dict) else ()
        return {str(name): from_record(arrays(record)) for name, record in items}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def refusal(model: Model) -> str:
    """Why this model cannot be a SavedModel: its graph would have to be made anew."""
    if model.origin.format != NAME:
        return (
            f"a SavedModel holds a graph, which a {model.origin.format} file has not; export it "
            "with Keras"
        )
    layout = model.origin.layout
    assert isinstance(layout, Layout)
    if model.architecture is not layout.architecture:
        return FIXED_GRAPH
    return ""


def write(model: Model, path: Path, options: WriteOptions) -> Written:
    """Writes into an empty folder; see `Format`."""
    layout = model.origin.layout
    assert isinstance(layout, Layout)
    _copy_beside(layout.folder, path)
    stored: dict[str, int] = {}
    encodings: dict[str, Encoding] = {}
    if layout.bundle is not None:
        (path / "variables").mkdir(exist_ok=True)
        index = _write_bundle(model, layout, path / _PREFIX, options, stored, encodings)
        fingerprint = layout.folder / _FINGERPRINT
        if fingerprint.is_file():
            new = _fingerprint.updated(_optional(fingerprint), index)
            (path / _FINGERPRINT).write_bytes(new)
    notes = {
        "provenance": dict(options.provenance()),
        "encodings": {
            name: jsonable(encoding.record())
            for name, encoding in encodings.items()
            if encoding.kinds != ("dense",)
        },
    }
    (path / _NOTES).parent.mkdir(exist_ok=True)
    (path / _NOTES).write_text(json.dumps(notes, separators=(",", ":")), encoding="utf-8")
    return Written(stored, encodings, () if options.keep_optimizer else model.origin.dropped)


def _copy_beside(old: Path, new: Path) -> None:
    """All files but those that are written anew."""
    for item in sorted(old.rglob("*")):
        name = item.relative_to(old)
        text = name.as_posix()
        own = text in (_FINGERPRINT, _NOTES) or (
            name.parent.as_posix() == "variables" and name.name.startswith("variables.")
        )
        if item.is_symlink() or own:
            continue
        if item.is_dir():
            (new / name).mkdir(exist_ok=True)
        else:
            shutil.copyfile(item, new / name)


def _write_bundle(
    model: Model,
    layout: Layout,
    prefix: Path,
    options: WriteOptions,
    stored: dict[str, int],
    encodings: dict[str, Encoding],
) -> bytes:
    bundle = layout.bundle
    assert bundle is not None
    tensors = {tensor.key: tensor for tensor in model.tensors}
    copies = {key for group in layout.copies.values() for key in group}
    states = frozenset() if options.keep_optimizer else layout.optimizer
    order = sorted(bundle.entries.values(), key=lambda entry: (entry.shard, entry.offset))
    with BundleWriter(prefix) as writer:
        for entry in order:
            tensor = tensors.get(entry.name)
            if entry.name in copies or entry.name in states:
                continue
            if tensor is None:
                writer.copy(bundle, entry)
                continue
            values, encodings[tensor.name] = tensor.pull(options.meter(tensor))
            # The graph reads the type that it was made for.
            values = values.astype(entry.numpy, copy=False)
            more = [key.encode() for key in layout.copies.get(entry.name, ())]
            stored[tensor.name] = writer.add(entry, values, more)
        writer.add_zeros([bundle.entries[key.encode()] for key in sorted(states)])
        writer.finish(bundle.header)
        return writer.index


def check_runnable(model: Model, *, trust: bool) -> None:
    """Refuses a model that would do more than compute, before an engine is started.

    Raises:
        UnsafeError: names the first finding.
    """
    if trust:
        return
    path = model.origin.path
    where = str(path)
    graph = serving_graph(path)
    _scan.check(graph, where)
    metadata = _keras_metadata.find(graph, _optional(path / _METADATA))
    for node in metadata.texts:
        for finding in safety.scan(_keras_metadata.plain(metadata.parsed(node, where))):
            # Classes of the author's own are not needed: the graph is what runs.
            if finding.kind != "custom":
                raise UnsafeError(
                    f"{where}: its Keras metadata: {finding}: would run code of the file",
                    "--trust runs it, if you trust its author",
                )

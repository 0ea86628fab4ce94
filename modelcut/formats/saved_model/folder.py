"""SavedModel: a folder with a graph and a checkpoint of its variables.

The checkpoint is edited, the rest is copied byte for byte: graph, signatures, assets. No graph is
executed, and no TensorFlow needed. Variables that the graph does not use and that repeat one that
it uses (Keras 3's `export` writes every weight twice) refer to its bytes in the new checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.errors import InputError, ModelcutError, UnsafeError
from modelcut.formats import registry, weights
from modelcut.formats.base import Format, WriteOptions, Written
from modelcut.formats.files import Files, OnDisk, bounded, leads_out
from modelcut.formats.records import arrays, jsonable
from modelcut.formats.saved_model import constants, fingerprint, keras_metadata, shell, variables
from modelcut.formats.saved_model import scan as saved_model_scan
from modelcut.formats.saved_model.bundle import Bundle, BundleWriter
from modelcut.formats.saved_model.meta_graph import SERVE, MetaGraph, meta_graphs
from modelcut.formats.saved_model.proto import ProtoError
from modelcut.graph import scan
from modelcut.graph.architecture import Architecture
from modelcut.graph.scan import Finding
from modelcut.model.encoding import Encoding, from_record
from modelcut.model.model import Model, Origin
from modelcut.safety import load_json, printable

MODEL = "saved_model"
"""The format of the models that this module reads, from folders and from archives of them."""

GRAPH, TEXT_GRAPH = "saved_model.pb", "saved_model.pbtxt"
_METADATA, _FINGERPRINT, _NOTES = (
    "keras_metadata.pb",
    "fingerprint.pb",
    "assets.extra/modelcut.json",
)
_PREFIX = "variables/variables"
_MAX_GRAPH = (2 << 30) - 1
_MAX_NOTES = 64 << 20
_KERAS_SIGNATURES = frozenset(("serving_default", "__saved_model_init_op"))


@dataclass(frozen=True)
class SavedModelLayout:
    """What the writer must know of the folder that was read.

    Attributes:
        files: what is in it.
        bundle: its checkpoint; None where it has no variables.
        copies: key -> keys that hold the same values and are not used.
        optimizer: keys of the optimizer's state.
        architecture: as read.
    """

    files: Files
    bundle: Bundle | None
    copies: Mapping[str, tuple[str, ...]]
    optimizer: frozenset[str]
    architecture: Architecture | None


class SavedModel(Format):
    """A folder with a graph and a checkpoint; the archives of one inherit from it."""

    folder = True
    packable = True
    signatures = True
    own_coding = "TensorFlow reads no compressed checkpoint"
    own_checksums = "the CRC-32C of each tensor"

    def sniff(self, path: Path) -> bool:
        """A folder with a graph or a checkpoint in it."""
        return path.is_dir() and any(
            (path / name).exists() for name in (GRAPH, TEXT_GRAPH, "variables")
        )

    def read(self, path: Path) -> Model:
        """Reads a folder; see `Format`."""
        return read_folder(OnDisk(path, str(path)), path)

    def holds_all_of(self, model: Model) -> bool:
        """A SavedModel and its archives hold the same."""
        return model.origin.format == MODEL

    def refusal(self, model: Model) -> str:
        """Why this model cannot be a SavedModel: its graph would have to be made anew."""
        if (
            self.needs_engine(model)
            and model.architecture is None
            and not model.origin.configuration
        ):
            return (
                f"a SavedModel holds a graph, and this {model.origin.format} file no architecture "
                "to make one of; start from a whole .h5 or .keras file"
            )
        # Its layers go to Keras in an .h5.
        anew = self.needs_engine(model) and model.origin.format == MODEL
        return registry.by_name("hdf5").refusal(model) if anew else ""

    def fixed_graph(self, model: Model) -> str:
        """Why the layers cannot be edited on the way into a SavedModel; "" where they can."""
        if model.origin.format != MODEL or model.architecture is None:
            return ""
        return registry.by_name("hdf5").refusal(model)

    def needs_engine(self, model: Model) -> bool:
        """Whether Keras must make the graph: there is none, or its layers were edited."""
        return model.origin.format != MODEL or model.architecture is not _layout(model).architecture

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Writes into an empty folder; see `Format`."""
        if self.needs_engine(model):
            return _export(model, path, options)
        return _write_graph(model, path, options)

    def untrainable(self, model: Model) -> tuple[str, str]:
        """A graph is run as it is."""
        name = model.origin.path.name
        known = f"`modelcut pack {name} -o x.mcut` and `modelcut unpack x.mcut -o x.h5` make one"
        return (
            "a SavedModel runs as a finished graph, whose weights can be neither trained nor tried "
            "out",
            "give the .h5 or .keras that it was made from"
            + (f"; {known}" if model.architecture is not None else ""),
        )

    def strip(self, model: Model, scratch: Path, options: WriteOptions) -> tuple[Any, Written]:
        """See `Format`: the files, and the checkpoint without the tensors' values."""
        del scratch
        assert options.hollow is not None
        layout = model.origin.layout
        assert isinstance(layout, SavedModelLayout)
        files = [
            [name, None if name.endswith("/") else layout.files.read(name)]
            for name in layout.files.names()
            if not _is_written_anew(name)
        ]
        keys = {tensor.key: options.hollow.tensors[tensor.name] for tensor in model.tensors}
        states = frozenset() if options.keep_optimizer else layout.optimizer
        checkpoint = None
        if layout.bundle is not None:
            checkpoint = shell.to_data(layout.bundle, keys, layout.copies, states)
        dropped = () if options.keep_optimizer else model.origin.dropped
        return [files, checkpoint], Written({}, {}, dropped)

    def restore(self, data: Any, path: Path) -> tuple[Model, dict[str, int]]:
        """See `Format`."""
        where = str(path)
        files, bundle, numbers, dtypes = shell.from_data(data, where)
        return _read(files, path, serving_graph(files), bundle, dtypes), numbers

    def dangers(self, model: Model) -> list[Finding]:
        """See `Format`: the graph, and the layers that Keras would build again."""
        if not isinstance(model.origin.layout, SavedModelLayout):
            return super().dangers(model)
        files = model.origin.layout.files
        graph = serving_graph(files)
        found = saved_model_scan.findings(graph)
        metadata = keras_metadata.find(graph, bounded(files, _METADATA, _MAX_NOTES))
        for node in metadata.texts:
            for finding in scan.scan(keras_metadata.plain(metadata.parsed(node, files.where))):
                # Classes of the author's own are not needed: the graph is what runs.
                if finding.kind != "custom":
                    found.append(replace(finding, what=f"its Keras metadata: {finding.what}"))
        return found

    def check_runnable(self, model: Model, *, trust: bool) -> bool:
        """See `Format.check_runnable`; the error names the first finding."""
        if not trust:
            where = model.origin.layout.files.where
            scan.check(self.dangers(model), where=where, trust=False)
        return True


def read_folder(files: OnDisk, path: Path) -> Model:
    """Reads a folder that stands for the file at `path`; see `Format.read`."""
    files.check()
    graph = serving_graph(files)
    index = files.size(f"{_PREFIX}.index")
    held = graph.variables or any(node.op in variables.OPERATIONS for node in graph.nodes)
    none = index is None and not held
    return _read(files, path, graph, None if none else Bundle(files.folder / _PREFIX, files.where))


def _read(
    files: Files,
    path: Path,
    graph: MetaGraph,
    bundle: Bundle | None,
    dtypes: Mapping[str, np.dtype] | None = None,
) -> Model:
    where = files.where
    _check_assets(files, graph)
    try:
        constants.check(graph, where)
        metadata = keras_metadata.find(graph, bounded(files, _METADATA, _MAX_NOTES))
        found = variables.find(graph, bundle, metadata, where, dtypes or {})
    except ProtoError as error:
        raise InputError(f"{where}: damaged: {error}") from None
    notes = _notes(files)
    layers, more = weights.with_encodings(found.layers, _encodings(notes))
    provenance = notes.get("provenance")
    keras = f", Keras {metadata.version}" if metadata.version else ""
    return Model(
        layers,
        found.architecture,
        Origin(
            path=path,
            format=MODEL,
            dialect=MODEL,
            writer=f"TensorFlow {graph.version or '1'}{keras}",
            dropped=(f"optimizer state, {found.spent:,} bytes",) if found.spent else (),
            optimizer_bytes=found.spent,
            warnings=(*found.warnings, *more),
            training=keras_metadata.training(metadata, where),
            provenance=provenance if isinstance(provenance, dict) else {},
            layout=SavedModelLayout(
                files, bundle, found.copies, found.optimizer, found.architecture
            ),
        ),
    )


def serving_graph(files: Files) -> MetaGraph:
    """The meta graph for serving.

    Raises:
        InputError: there is none, or the file is damaged.
    """
    where = files.where
    size = files.size(GRAPH)
    if size is None:
        text = files.size(TEXT_GRAPH) is not None
        what = "its graph is text (saved_model.pbtxt)" if text else f"has no {GRAPH}"
        raise InputError(f"{where}: {what}", "save it again with tf.saved_model.save")
    if size > _MAX_GRAPH:
        raise InputError(f"{where}: {GRAPH} is larger than 2 GiB, the limit of a message")
    try:
        found = meta_graphs(files.read(GRAPH))
    except ProtoError as error:
        raise InputError(f"{where}: {GRAPH} is damaged: {error}", "copy the model again") from None
    exact = [graph for graph in found if graph.tags == [SERVE]]
    serving = exact or [graph for graph in found if SERVE in graph.tags]
    if not serving:
        tags = ", ".join(printable("+".join(graph.tags), 60) for graph in found)
        raise InputError(f"{where}: has no graph tagged {SERVE!r}, only {tags}", "export it again")
    return serving[0]


def _check_assets(files: Files, graph: MetaGraph) -> None:
    for _, name in graph.assets:
        if leads_out(name):
            raise UnsafeError(
                f"{files.where}: the asset {printable(name)!r} leads outside the model"
            )
        if files.size(f"assets/{name}") is None:
            raise InputError(f"{files.where}: the asset {printable(name)!r} is missing")


def _notes(files: Files) -> dict[str, Any]:
    """What an earlier modelcut wrote beside the model."""
    try:
        text = bounded(files, _NOTES, _MAX_NOTES).decode()
        if not text:
            return {}
        value = load_json(text, where=files.where, what="notes of modelcut", ours=True)
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


def _layout(model: Model) -> SavedModelLayout:
    assert isinstance(model.origin.layout, SavedModelLayout)
    return model.origin.layout


def _write_graph(model: Model, path: Path, options: WriteOptions) -> Written:
    """Writes a model whose graph is as it was read."""
    layout = model.origin.layout
    assert isinstance(layout, SavedModelLayout)
    _copy_beside(layout.files, path)
    stored: dict[str, int] = {}
    encodings: dict[str, Encoding] = {}
    if layout.bundle is not None:
        (path / "variables").mkdir(exist_ok=True)
        index = _write_bundle(model, layout, path / _PREFIX, options, stored, encodings)
        if layout.files.size(_FINGERPRINT) is not None:
            old = bounded(layout.files, _FINGERPRINT, _MAX_NOTES)
            try:
                (path / _FINGERPRINT).write_bytes(fingerprint.updated(old, index))
            except ProtoError as error:
                raise InputError(f"{layout.files.where}: {_FINGERPRINT} is damaged: {error}",
                                 "copy the model again, or delete that file") from None  # fmt: skip
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


def _export(model: Model, path: Path, options: WriteOptions) -> Written:
    """Has Keras make a SavedModel of the model, and writes that as any other."""
    if options.convert is None:
        raise ModelcutError(f"{path}: a SavedModel of a {model.origin.format} file needs Keras")
    from_graph = model.origin.format == MODEL
    own = registry.by_name("hdf5" if from_graph else model.origin.format)
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        scratch = Path(folder) / f"model{own.engine_suffix}"
        first = own.write(model, scratch, replace(options, compression="none"))
        made = Path(folder) / "made"
        with registry.open_model(scratch) as copied:
            facts = options.convert.export(copied, made)
        mark = made / _FINGERPRINT
        if mark.exists():
            mark.write_bytes(fingerprint.renamed(mark.read_bytes()))
        exported = _with_encodings(read_folder(OnDisk(made, str(path)), path), first.encodings)
        # The tensors were watched on their way into the scratch file.
        plain = replace(options, keep_optimizer=False, meter=lambda _: None)
        written = _write_graph(exported, path, plain)
    dropped = first.dropped + (_lost(model) if from_graph else ())
    return replace(written, encodings=first.encodings, dropped=dropped, facts=facts)


def _lost(model: Model) -> tuple[str, ...]:
    """What a graph had beside the layers, in words: Keras makes one for serving, and no more."""
    own = serving_graph(_layout(model).files).signatures.keys() - _KERAS_SIGNATURES
    return tuple(f"the signature {printable(name, 60)!r}" for name in sorted(own))


def _with_encodings(model: Model, encodings: Mapping[str, Encoding]) -> Model:
    """An exported model whose tensors keep what is known about them, by name.

    Keras 3 puts the name of the model before that of the layer.
    """
    found = {}
    for name, encoding in encodings.items():
        mine = [t for t in model.tensors if f"/{t.name}".endswith(f"/{name}")]
        if encoding.kinds != ("dense",) and len(mine) == 1 and encoding.fits(mine[0].shape):
            found[mine[0].name] = replace(mine[0], encoding=encoding)
    return model.with_tensors(found)


def _is_written_anew(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return name == _NOTES or (folder == "variables" and last.startswith("variables."))


def _copy_beside(files: Files, new: Path) -> None:
    """All files but those that are written anew."""
    for name in files.names():
        if name.endswith("/"):
            (new / name).mkdir(parents=True, exist_ok=True)
        elif not _is_written_anew(name) and name != _FINGERPRINT:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            files.copy(name, new / name)


def _write_bundle(
    model: Model,
    layout: SavedModelLayout,
    prefix: Path,
    options: WriteOptions,
    stored: dict[str, int],
    encodings: dict[str, Encoding],
) -> bytes:
    bundle = layout.bundle
    assert bundle is not None
    tensors = {tensor.key: tensor for tensor in model.tensors}
    copies = {key for group in layout.copies.values() for key in group}
    states = bundle.zeros | (frozenset() if options.keep_optimizer else layout.optimizer)
    with BundleWriter(prefix) as writer:
        for entry in bundle.in_order():
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

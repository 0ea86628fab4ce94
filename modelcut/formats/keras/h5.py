"""Keras `.h5`/`.hdf5`: whole models and bare weights, of Keras 1, 2 and 3.

A legacy file has the architecture in the attribute `model_config` and, in `model_weights`, a group
a layer whose attribute `weight_names` lists its weights in the order in which Keras loads them
(keras/src/legacy/saving/legacy_h5_format.py). Bare weights are the same without the architecture,
or Keras 3's weight store (`_store`), perhaps in shards (`_shards`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from modelcut.errors import InputError, UsageError
from modelcut.formats import base
from modelcut.formats import weights as formats_weights
from modelcut.formats.base import Format, WriteOptions, Written, opening
from modelcut.formats.keras import compiled as keras_compiled
from modelcut.formats.keras import (
    hdf5_file,
    hdf5_values,
    portable,
    shards,
    store,
    tfmot,
    tree,
)
from modelcut.graph.architecture import Architecture, Dialect, dialect_of
from modelcut.graph.keras.saved_order import fitting
from modelcut.model.encoding import Encoding, Fixed
from modelcut.model.model import Layer, Model, Origin, Tensor
from modelcut.safety import load_json, printable

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OPTIMIZER = "optimizer_weights"
_PROVENANCE = "modelcut"


@dataclass(frozen=True)
class HDF5Layout:
    """What the writer must know of the file that was read.

    Attributes:
        file: open for reading.
        weights: the group with the layers' groups, in a legacy file.
        groups: per layer's group: (name, [(weight name, key)]), in order; None for a store.
        architecture: as read.
        tensors: as read.
    """

    file: h5py.File
    weights: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] | None
    architecture: Architecture | None
    tensors: tuple[Tensor, ...]


class HDF5(Format):
    """An `.h5` file: a whole model, or weights without an architecture."""

    packable = True

    def sniff(self, path: Path) -> bool:
        """HDF5's signature, at 0 or at 512 · 2^n behind a user block; or a list of shards."""
        if not path.is_file():
            return False
        if shards.sniff(path):
            return True
        with path.open("rb") as file:
            offset = 0
            while offset <= 1 << 16:
                file.seek(offset)
                head = file.read(8)
                if head == _SIGNATURE:
                    return True
                if len(head) < 8:
                    return False
                offset = offset * 2 or 512
        return False

    def read(self, path: Path) -> Model:
        """Reads a file; see `Format`."""
        with opening() as opened:
            if shards.sniff(path):
                file = shards.open_file(path, opened)
            else:
                file = opened.enter_context(hdf5_file.open_file(str(path), str(path)))
            return self._damaged_or(file, path, opened)

    def _damaged_or(self, file: h5py.File, path: Path, opened: contextlib.ExitStack) -> Model:
        try:
            return self._read(file, path, str(path), opened)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(f"{path}: damaged: {' '.join(str(error).split())}") from None

    def _read(self, file: h5py.File, path: Path, where: str, opened: contextlib.ExitStack) -> Model:
        version = hdf5_file.text(file.attrs.get("keras_version"))
        config = file.attrs.get("model_config")
        architecture, stripped = None, tfmot.Stripped("")
        if config is not None:
            text = hdf5_file.text(config)
            if text is None:
                raise InputError(f"{where}: the attribute model_config is not text")
            stripped = tfmot.strip(text, where)
            architecture = Architecture.parse(stripped.text, version, where)
        elif "model_weights" in file:
            raise InputError(
                f"{where}: has no model_config (the architecture of the network)",
                "save the whole model, or only the weights with save_weights",
            )
        groups = None
        if architecture is None and store.is_store(file):
            layers = store.read(file, None, where)
            weights, dialect = "/", Dialect.KERAS3
        else:
            weights = "model_weights" if architecture is not None else "/"
            root = hdf5_file.child(file, weights, where) if architecture is not None else file
            if not isinstance(root, h5py.Group):
                raise InputError(f"{where}: model_weights is not a group")
            version = version or hdf5_file.text(root.attrs.get("keras_version"))
            groups, layers = _read_legacy(root, architecture, stripped, where)
            dialect = architecture.dialect if architecture else dialect_of(version)
        encodings, warnings = hdf5_file.get_encodings(file, where)
        with_encodings, more = formats_weights.with_encodings(layers, encodings)
        optimizer, stored = store.optimizer_bytes(file, store.OPTIMIZER, _OPTIMIZER)
        dropped = (f"optimizer state, {optimizer:,} bytes",) if optimizer else ()
        return Model(
            with_encodings,
            architecture,
            Origin(
                path=path,
                format=self.name,
                dialect=dialect.value,
                writer=f"Keras {version or (store.writer(file) if groups is None else '1 or 2')}",
                weights_only=architecture is None,
                dropped=dropped,
                optimizer_bytes=stored,
                warnings=(
                    *stripped.warnings,
                    *warnings,
                    *more,
                    *formats_weights.unloadable(layers),
                ),
                training=hdf5_file.text(file.attrs.get("training_config")) or "",
                provenance=_provenance(file, where),
                checksums=hdf5_file.get_checksums(file, where),
                layout=None
                if stripped.names
                else HDF5Layout(file, weights, groups, architecture, store.tensors_of(layers)),
                rewritten=bool(stripped.names),
                close=opened.close,
            ),
        )

    def refusal(self, model: Model) -> str:
        """Why `.h5` cannot hold this model."""
        if model.origin.format == self.name:
            return ""
        if model.origin.configuration:
            return "the model's class is its author's own, which an .h5 cannot hold; name it .keras"
        if model.architecture is None:
            return base.NO_LAYERS
        from modelcut.formats.keras.keras_zip import archive_of

        return portable.into_h5(model, archive_of(model))

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Writes a file; see `Format`."""
        layout = model.origin.layout if model.origin.format == self.name else None
        if layout is None and options.keep_optimizer and model.origin.dropped:
            raise UsageError(
                "--keep-optimizer: the optimizer's state cannot be written from "
                f"{model.origin.format} to .h5",
                "leave the option out",
            )
        if layout is None:
            from modelcut.formats.keras.keras_zip import archive_of

            model = portable.carried(model, archive_of(model))
        with hdf5_file.create_file(path) as new:
            if isinstance(layout, HDF5Layout) and layout.groups is None:
                stored, encodings = store.write(model, layout.file, new, options)
            else:
                stored, encodings = _write_legacy(model, layout, new, options)
                hdf5_file.put_encodings(new, encodings)
                hdf5_file.put_checksums(new, options.checksums)
            history = _short(options.provenance())
            hdf5_file.room(new, len(history))
            new.attrs[_PROVENANCE] = history
            dropped = () if options.keep_optimizer else model.origin.dropped
        return Written(stored, encodings, tuple(dropped))

    def strip(self, model: Model, scratch: Path, options: WriteOptions) -> tuple[Any, Written]:
        """See `Format`: a file without values, as a tree."""
        assert options.hollow is not None
        try:
            written = self.write(model, scratch, options)
            with h5py.File(scratch, "r") as file:
                return tree.to_data(file, options.hollow.places, leave=(_PROVENANCE,)), written
        finally:
            scratch.unlink(missing_ok=True)

    def restore(self, data: Any, path: Path) -> tuple[Model, dict[str, int]]:
        """See `Format`."""
        with opening() as opened:
            file, numbers = tree.to_file(data, str(path))
            opened.enter_context(file)
            return self._damaged_or(file, path, opened), numbers


def _provenance(file: h5py.File, where: str) -> dict[str, object]:
    text = hdf5_file.text(file.attrs.get(_PROVENANCE))
    if text is None:
        return {}
    try:
        value = load_json(text, where=where, what="provenance")
    except InputError:
        return {}
    return value if isinstance(value, dict) else {}


Groups = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def _read_legacy(
    root: h5py.Group, architecture: Architecture | None, stripped: tfmot.Stripped, where: str
) -> tuple[Groups, list[Layer]]:
    names = hdf5_file.text_list(root, "layer_names", where)
    if names is None:
        raise InputError(
            f"{where}: holds no Keras model (no layer_names)", "it may be another kind of HDF5 file"
        )
    prefix = root.name.strip("/")
    groups, stored = [], {}
    for name in names:
        group = hdf5_file.child(root, name, where)
        weight_names = (
            hdf5_file.text_list(group, "weight_names", where)
            if isinstance(group, h5py.Group)
            else None
        )
        if weight_names is None:
            raise InputError(f"{where}: layer {printable(name)!r} has no weight_names")
        parts = []
        for weight in weight_names:
            if not stripped.weight(weight):
                continue
            found = hdf5_file.dataset(group, weight, where)
            key = "/".join(part for part in (prefix, name, weight) if part)
            dtype = hdf5_values.dtype_of(found)
            one = formats_weights.Stored(
                weight, key, found.shape, dtype, hdf5_values.source(found, where)
            )
            parts.append(one)
        own = stripped.names.get(name, name)
        if own or parts:
            stored[own or name] = parts
        groups.append((name, tuple((one.name, one.key) for one in parts)))
    if architecture is None:
        layers = [
            formats_weights.make_layer((name,), "", None, formats_weights.guessed(name, parts))
            for name, parts in stored.items()
        ]
        return tuple(groups), layers
    return tuple(groups), _join(architecture, stored, where)


def _join(
    architecture: Architecture, stored: dict[str, list[formats_weights.Stored]], where: str
) -> list[Layer]:
    top = {node.path[0] for node in architecture.nodes}
    for name in stored:
        if name not in top:
            raise InputError(f"{where}: has weights of an unknown layer {printable(name)!r}")
    strict = architecture.dialect is not Dialect.KERAS1
    layers: dict[tuple[str, ...], Layer] = {}
    for name in sorted(top):
        leaves = architecture.leaves((name,))
        for layer in formats_weights.join(leaves, stored.get(name, []), where, strict=strict):
            layers[layer.path] = layer
    return [layers[node.path] for node in architecture.nodes if node.path in layers]


def _short(provenance: object) -> str:
    """JSON that fits an attribute: of a long history, the latest entries."""
    value = json.loads(json.dumps(provenance))
    while len(text := json.dumps(value, separators=(",", ":"))) > hdf5_file.ATTRIBUTE_LIMIT - 1024:
        if len(value.get("history", [])) <= 1:
            return json.dumps({"history": [{"modelcut": "the recipe is too long to be kept"}]})
        value["history"].pop(0)
    return text


def _write_legacy(
    model: Model, layout: HDF5Layout | None, new: h5py.File, options: WriteOptions
) -> tuple[dict[str, int], dict[str, Encoding]]:
    architecture = model.architecture
    edited = layout is None or architecture is not layout.architecture
    if edited and options.keep_optimizer and layout is not None:
        raise UsageError(
            "--keep-optimizer: a layer changed its shape, so the optimizer's state no longer fits",
            "leave the option out",
        )
    root = new
    if layout is not None:
        leave = ["model_config"] if edited else []
        hdf5_file.copy_attributes(layout.file, new, [*leave, _PROVENANCE])
        root = hdf5_file.make_group(new, layout.weights)
        _copy_beside(layout, new, root, keep_optimizer=options.keep_optimizer)
        if layout.weights != "/":
            leave = ["layer_names"] if edited else []
            hdf5_file.copy_attributes(layout.file[layout.weights], root, leave)
    else:
        root = _fresh_root(model, new)
    if edited and architecture is not None:
        hdf5_file.room(new, len(architecture.text))
        new.attrs["model_config"] = architecture.text
    plan = list(_plan(model, layout)) if edited else _as_read(model, layout)
    if edited:
        hdf5_file.put_text_list(root, "layer_names", [name for name, _ in plan])
    stored: dict[str, int] = {}
    encodings: dict[str, Encoding] = {}
    for name, parts in plan:
        group = hdf5_file.make_group(root, name)
        source = _old_group(layout, name)
        if source is not None:
            hdf5_file.copy_attributes(source, group, ["weight_names"] if edited else [])
        if edited or source is None:
            hdf5_file.put_text_list(group, "weight_names", [weight for weight, _ in parts])
        for weight, tensor in parts:
            bytes_, encoding = hdf5_file.put(group, weight, tensor, options, {})
            stored[tensor.name], encodings[tensor.name] = bytes_, encoding
    return stored, encodings


def _old_group(layout: HDF5Layout | None, name: str) -> h5py.Group | None:
    if layout is None:
        return None
    root = layout.file[layout.weights]
    return root.get(name)


def _copy_beside(
    layout: HDF5Layout, new: h5py.File, root: h5py.Group, *, keep_optimizer: bool
) -> None:
    """Copies what other tools keep in the file, and what Keras keeps beside the layers."""
    names = {name for name, _ in layout.groups or ()}
    tops = {name.split("/")[0] for name in names}
    for item in layout.file:
        own = item in (layout.weights, _PROVENANCE) or (layout.weights == "/" and item in tops)
        if not own and (item != _OPTIMIZER or keep_optimizer):
            hdf5_file.copy(layout.file, item, new)
    if layout.weights != "/":
        weights = layout.file[layout.weights]
        for item in weights:
            if item not in tops:
                hdf5_file.copy(weights, item, root)


def _as_read(model: Model, layout: HDF5Layout | None) -> list[tuple[str, list[tuple[str, Tensor]]]]:
    assert layout is not None
    assert layout.groups is not None
    by_key = {tensor.key: tensor for tensor in model.tensors}
    return [(name, [(w, by_key[key]) for w, key in parts]) for name, parts in layout.groups]


def _plan(
    model: Model, layout: HDF5Layout | None
) -> Iterator[tuple[str, list[tuple[str, Tensor]]]]:
    """Groups and weight names in the order in which Keras will load the edited architecture."""
    architecture = model.architecture
    assert architecture is not None
    layers = {layer.path: layer for layer in model.layers}
    old = {
        key: weight for _, parts in (layout.groups or () if layout else ()) for weight, key in parts
    }
    suffix = "" if architecture.dialect is Dialect.KERAS3 else ":0"
    for name in architecture.order():
        leaves = [layers[leaf.path] for leaf in architecture.leaves((name,))]
        tensors = _positional(leaves) if len(leaves) > 1 else list(leaves[0].tensors)
        used: set[str] = set()
        parts = []
        for tensor in tensors:
            owner = next(layer for layer in leaves if tensor in layer.tensors)
            fresh = f"{owner.path[-1]}/{tensor.role}{suffix}"
            if len(owner.path) > 1:
                fresh = f"{owner.path[-2]}/{fresh}" if fresh in used else fresh
            weight = old.get(tensor.key, fresh) if tensor.key else fresh
            used.add(weight)
            parts.append((weight, tensor))
        yield name, parts


def _positional(leaves: list[Layer]) -> list[Tensor]:
    """A submodel's tensors as Keras lists them: all that are trained, then all that are not."""
    trained: list[Tensor] = []
    still: list[Tensor] = []
    for layer in leaves:
        frozen = layer.config.get("trainable") is False
        untrained = _untrained(layer)
        for tensor in layer.tensors:
            (still if frozen or tensor.role in untrained else trained).append(tensor)
    return [*trained, *still]


def _untrained(layer: Layer) -> set[str]:
    """Roles that Keras does not train: states, and what its quantization or LoRA froze."""
    if layer.node and any(isinstance(tensor.encoding, Fixed) for tensor in layer.tensors):
        roles = [tensor.role for tensor in layer.tensors]
        return {slot.spec.role for slot in fitting(layer.node, roles) if slot.frozen}
    return {tensor.role for tensor in layer.tensors if tensor.kind == "state"}


def _fresh_root(model: Model, new: h5py.File) -> h5py.Group:
    """The attributes of a legacy file, for a model that came from another format."""
    architecture = model.architecture
    assert architecture is not None
    root = hdf5_file.make_group(new, "model_weights")
    for group in (new, root):
        group.attrs["keras_version"] = architecture.keras_version
        group.attrs["backend"] = "tensorflow"
    compiled = keras_compiled.for_h5(architecture.root.get("compile_config"))
    training = model.origin.training if compiled is None else json.dumps(compiled)
    if training:
        hdf5_file.room(new, len(training))
        new.attrs["training_config"] = training
    hdf5_file.make_group(root, "top_level_model_weights").attrs["weight_names"] = []
    return root

"""What a model may lose on its way from one Keras format into another, and what can be carried.

A legacy `.h5` lists the weights of a layer in the order in which its code made them, `.keras` files
them by the names of attributes: for a class that only its author has, nothing tells one from the
other. And `.keras` has room for state that an `.h5` has not: vocabularies, which lie beside the
weights (keras/src/layers/preprocessing/index_lookup.py, `save_assets`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from modelcut.formats.keras.keras_folder import Folder
from modelcut.graph.architecture import Dialect, Path
from modelcut.graph.keras import quantized
from modelcut.graph.keras.saved_order import fitting, is_known
from modelcut.graph.node import Node
from modelcut.model.model import Layer, Model
from modelcut.safety import printable

Archive = zipfile.ZipFile | Folder
_LOOKUPS = frozenset("TextVectorization StringLookup IntegerLookup".split())
_MOST_VOCABULARY = 16 << 20
"""Bytes of a vocabulary; it becomes a part of the architecture."""


def into_h5(model: Model, archive: Archive | None) -> str:
    """Why a legacy `.h5` cannot hold a model of another format; "" where it can.

    Args:
        model: of a `.keras` file or a SavedModel.
        archive: the `.keras` file; None for none.
    """
    architecture = model.architecture
    assert architecture is not None
    filed = archive is not None
    places = architecture.store_paths() if filed else {}
    for layer in model.layers:
        node = layer.node
        if node is None:
            return (
                f"{printable(layer.name)!r} is beside the layers, in a model of its author's own "
                "class; keep the format it has"
            )
        alone = len(architecture.leaves(layer.path[:1])) == 1
        reason = _in_another_form(node) if filed else ""
        reason = reason or _order_unknown(
            layer, node, alone=alone, place=places.get(layer.path, "")
        )
        if not reason and filed and _holds_others(layer, node):
            reason = "has weights besides those of its class, which an .h5 cannot store"
        if not reason and architecture.dialect is Dialect.KERAS3:
            reason = _not_finished(node)
        if reason:
            return f"{_shown(node)} {reason}"
    return _left_behind(model, archive)


def into_keras(model: Model) -> str:
    """Why a `.keras` file cannot hold the layers of a model of another format; "" where it can."""
    for layer in model.layers:
        if layer.node is None:
            continue
        if _holds_others(layer, layer.node):
            return (
                f"{_shown(layer.node)} holds weights beside those of its class, which Keras does "
                "not take from a .keras file; name the output .h5"
            )
        for node in _all_of(layer.node):
            if reason := _in_another_form(node):
                return f"{_shown(node)} {reason}"
            missing = node.class_name in _LOOKUPS and node.config.get("vocabulary") is None
            if missing:
                return (
                    f"{_shown(node)} has no vocabulary in this file; save it as .keras with Keras"
                )
    return ""


def _holds_others(layer: Layer, node: Node) -> bool:
    roles = [tensor.role for tensor in layer.tensors]
    return bool(roles) and is_known(node) and len(roles) != len(fitting(node, roles))


def _shown(node: Node) -> str:
    return f"layer {printable('/'.join(node.path))!r} ({printable(node.class_name)})"


def _all_of(node: Node) -> Iterator[Node]:
    """A layer and those that it wraps."""
    yield node
    for _, inner in node.wrapped:
        yield from _all_of(inner)


def _in_another_form(layer: Node) -> str:
    """Why the weights of a layer are not the same ones in both formats."""
    for node in _all_of(layer):
        if quantized.lora_rank(node.class_name, node.config):
            return (
                "has LoRA enabled, of which .keras files keep the merged kernel and .h5 files the "
                "factors; keep the format it has, or have Keras save it in the other one"
            )
        if node.class_name in _LOOKUPS and node.config.get("output_mode") in ("tf_idf", "tf-idf"):
            return "keeps inverse document frequencies in a form that only .keras files have"
    return ""


def _order_unknown(layer: Layer, node: Node, *, alone: bool, place: str) -> str:
    """Why the order in which an `.h5` must list the weights of a layer is not known.

    Args:
        layer: with its tensors.
        node: of it.
        alone: the `.h5` lists no other layer's weights among them.
        place: the layer's group in a `.keras` file; "" where the order is known from elsewhere.
    """
    if is_known(node) or not layer.tensors:
        return ""
    keys = [tensor.key.split("/") for tensor in layer.tensors]
    depth = len(place.split("/")) + 2
    own = all(len(key) == depth and key[-2:] == ["vars", str(i)] for i, key in enumerate(keys))
    if alone and (own or not place):
        return ""
    return (
        "is of a class that modelcut does not know: only its code tells in which order an .h5 "
        f"lists its weights; {'name the output .keras' if place else 'keep the format it has'}"
    )


def _not_finished(layer: Node) -> str:
    """Why Keras 3 would not use the state that it loads into a layer from an `.h5`."""
    for node in _all_of(layer):
        nested = len(node.path) > 1
        if node.class_name == "Normalization" and nested and node.config.get("mean") is None:
            return (
                "is adapted and lies inside another layer, where Keras 3 does not take its mean "
                "and variance from an .h5; name the output .keras"
            )
    return ""


def _left_behind(model: Model, archive: Archive | None) -> str:
    """Which state beside the weights would be lost."""
    texts = _vocabularies(model, archive)
    for layer in model.layers:
        for node in _all_of(layer.node) if layer.node else ():
            missing = node.class_name in _LOOKUPS and node.config.get("vocabulary") is None
            if missing and node.path not in texts:
                return f"{_shown(node)} has a vocabulary that cannot be carried over"
    taken = {name for names in texts.values() for name in names}
    for info in archive.infolist() if archive is not None else ():
        if info.filename.startswith("assets/") and not info.is_dir() and info.filename not in taken:
            return f"an .h5 cannot store {printable(info.filename)!r}"
        if info.filename in taken and info.file_size > _MOST_VOCABULARY:
            return f"{printable(info.filename)!r} is too long for an .h5"
    return ""


def _vocabularies(model: Model, archive: Archive | None) -> dict[Path, tuple[str, ...]]:
    """Members of the archive that hold the vocabulary of each layer; the first one is read."""
    if archive is None or model.architecture is None:
        return {}
    members = set(archive.namelist())
    places = model.architecture.store_paths()
    found = {}
    for node in model.architecture.nodes:
        if node.class_name in _LOOKUPS and node.path in places:
            base = f"assets/{places[node.path]}"
            names = (f"{base}/vocabulary.txt", f"{base}/_lookup_layer/vocabulary.txt")
            if names[0] in members:
                found[node.path] = tuple(name for name in names if name in members)
    return found


def carried(model: Model, archive: Archive | None) -> Model:
    """A model whose vocabularies are in its architecture, as Keras itself writes given ones.

    Args:
        model: for which `into_h5` has nothing to say.
        archive: the `.keras` file that it was read from; None for none.
    """
    changes: dict[Path, Mapping[str, Any]] = {}
    nodes = {layer.path: layer.node for layer in model.layers}
    for path, names in _vocabularies(model, archive).items():
        assert archive is not None
        lines = archive.read(names[0]).decode("utf-8", "replace").splitlines()
        while lines and not lines[-1]:
            lines.pop()
        node = nodes[path]
        whole = node is not None and node.class_name == "IntegerLookup"
        changes[path] = {"vocabulary": [int(line) for line in lines] if whole else lines}
    if not changes or model.architecture is None:
        return model
    return replace(model, architecture=model.architecture.with_configs(changes))

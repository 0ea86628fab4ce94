"""Keras 3's weight store: an HDF5 tree by class names, in `.keras` and in `.weights.h5`.

`layers/dense_1/vars/0`: the class name in snake case, counted in Keras's order of the layers, then
the weights by number (keras/src/saving/saving_lib.py, `_save_container_state`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any

import h5py

from modelcut.errors import InputError, UsageError
from modelcut.formats import weights as formats_weights
from modelcut.formats.base import WriteOptions
from modelcut.formats.keras import hdf5_file, hdf5_values, int_layers, unknown
from modelcut.graph.architecture import Architecture, Dialect, Path
from modelcut.graph.keras.saved_order import FORMS, Slot, fitting, is_known, slots
from modelcut.graph.node import Node
from modelcut.model.encoding import Encoding
from modelcut.model.model import Layer, Model, Tensor
from modelcut.safety import printable

OPTIMIZER = "optimizer"
_RANKS = {"forward_layer": 0, "backward_layer": 1, "query_dense": 0, "key_dense": 1}
_RANKS |= {"value_dense": 2, "output_dense": 3}


def is_store(file: h5py.File) -> bool:
    """Whether a file of bare weights is of this kind."""
    return "layer_names" not in file.attrs and any(
        isinstance(file.get(name, getlink=True), h5py.HardLink)
        for name in ("layers", "vars", "_layer_checkpoint_dependencies")
    )


def writer(file: h5py.File) -> str:
    """The version of Keras that wrote a store of bare weights: it says none, but each its way."""
    if "_layer_checkpoint_dependencies" in file:
        return "2"
    return "3" if any("name" in file[key].attrs for key in _var_groups(file)) else "2 or 3"


def read(
    file: h5py.File,
    architecture: Architecture | None,
    where: str,
    rename: Callable[[str], str | None] | None = None,
) -> list[Layer]:
    """The layers of a store, with their tensors.

    Args:
        file: the store.
        architecture: of the model; None: there is none.
        where: the file, for messages.
        rename: where the architecture has each weight, or None for one that is left out.

    Raises:
        InputError: weights that the architecture does not have, or that are missing.
        UnsafeError: values that lie outside the file.
    """
    stored = list(_weights(file, where))
    if rename is not None:
        moved = [(rename(one.key), one) for one in stored]
        stored = [
            replace(one, key=key, name=key.replace("/vars/", "/")) for key, one in moved if key
        ]
    if architecture is None:
        return _without_architecture(stored)
    places = architecture.store_paths()
    prefix = _prefix(file)
    by_place: dict[str, list[formats_weights.Stored]] = {}
    beside: list[formats_weights.Stored] = []
    own = architecture.has_own_models()
    bases = {place.replace("layers/", prefix): path for path, place in places.items()}
    for one in stored:
        base = _longest(one.key, bases)
        if base is None and own:
            beside.append(one)
            continue
        if base is None:
            raise InputError(
                f"{where}: the weight {printable(one.key)!r} does not belong to any layer"
            )
        by_place.setdefault(base, []).append(one)
    nodes = {node.path: node for node in architecture.nodes}
    layers = {}
    for base, path in bases.items():
        node, mine = nodes[path], by_place.get(base, [])
        if is_known(node):
            mine = _in_order(node, base, mine)
            layers[path] = formats_weights.join([node], mine, where, strict=True)[0]
        else:
            layers[path] = formats_weights.make_layer(
                path, node.class_name, node, unknown.parts(base, mine)
            )
    rest = [node for node in architecture.nodes if node.path not in layers]
    extra = {node.path: formats_weights.join([node], [], where, strict=True)[0] for node in rest}
    found = [(layers | extra)[node.path] for node in architecture.nodes]
    return [*found, *_by_groups(beside, taken={node.path for node in architecture.nodes})]


def _in_order(
    node: Node, base: str, stored: list[formats_weights.Stored]
) -> list[formats_weights.Stored]:
    """A layer's weights in the order of its specs, also where a wrapper files them by class."""
    found = _form(node, base, stored)
    rank = {f"{base}/{place}": i for i, slot in enumerate(found) for place in slot.places}
    if node.class_name == "SpectralNormalization":
        # It files the wrapped kernel a second time, which Keras overwrites when it loads.
        stored = [one for one in stored if one.key in rank]
    return sorted(stored, key=lambda one: rank.get(one.key, len(found)))


def _form(node: Node, base: str, stored: list[formats_weights.Stored]) -> list[Slot]:
    """The slots of a layer in the form that the file has, where Keras' quantization leaves open."""
    keys = {one.key for one in stored}
    first = slots(node)
    for form in range(FORMS):
        found = slots(node, form) if form else first
        own = [slot for slot in found if slot.places]
        filed = {f"{base}/{place}" for slot in own for place in slot.places}
        if len(own) == len(stored) and keys <= filed:
            return found
    return first


def _prefix(file: h5py.File) -> str:
    old = "_layer_checkpoint_dependencies"
    return f"{old}/" if "layers" not in file and old in file else "layers/"


def _longest(key: str, bases: dict[str, Path]) -> str | None:
    parts = key.split("/")
    for length in range(len(parts), 0, -1):
        base = "/".join(parts[:length])
        if base in bases:
            return base
    return None


def of_own_class(file: h5py.File, where: str) -> list[Layer]:
    """The layers of a model whose class only its author has."""
    return _by_groups(list(_weights(file, where)), taken=set())


def _by_groups(stored: list[formats_weights.Stored], *, taken: Set[Path]) -> list[Layer]:
    """A layer for each group of weights that no architecture tells of."""
    groups: dict[Path, list[formats_weights.Stored]] = {}
    for one in stored:
        path = unknown.group_of(one.key) or ("model",)
        groups.setdefault(tuple(one.key.split("/")[:-1]) if path in taken else path, []).append(one)
    return [
        formats_weights.make_layer(path, "", None, zip(unknown.specs(part), part, strict=True))
        for path, part in groups.items()
    ]


def _without_architecture(stored: list[formats_weights.Stored]) -> list[Layer]:
    groups: dict[tuple[str, ...], list[formats_weights.Stored]] = {}
    for one in stored:
        groups.setdefault(unknown.group_of(one.key) or ("model",), []).append(one)
    return [
        formats_weights.make_layer(
            path, "", None, [(unknown.bare(one, index), one) for index, one in enumerate(part)]
        )
        for path, part in groups.items()
    ]


def _weights(file: h5py.File, where: str) -> Iterator[formats_weights.Stored]:
    """All weights below the layers, in the order in which Keras counts them."""
    for key in _keys(file, "", where):
        if key.split("/")[0] in (OPTIMIZER, "metrics", "loss", "modelcut", "compile_metrics"):
            continue
        found = hdf5_file.dataset(file, key, where)
        yield formats_weights.Stored(
            key.replace("/vars/", "/"),
            key,
            found.shape,
            hdf5_values.dtype_of(found),
            hdf5_values.source(found, where),
        )


def _keys(group: h5py.Group, base: str, where: str) -> Iterator[str]:
    seen: set[Any] = set()
    stack = [(group, base)]
    while stack:
        current, path = stack.pop()
        token = h5py.h5o.get_info(current.id).addr
        if token in seen:
            raise InputError(f"{where}: the group {printable(path)!r} contains itself")
        seen.add(token)
        below = []
        for name in sorted(current, key=_rank):
            if not path and name == "modelcut":
                continue
            item = hdf5_file.child(current, name, where)
            key = f"{path}/{name}" if path else name
            if isinstance(item, h5py.Group):
                below.append((item, key))
            else:
                yield key
        stack.extend(reversed(below))


def _rank(name: str) -> tuple[int, int, str]:
    return _RANKS.get(name, 5), int(name) if name.isdigit() else -1, name


def optimizer_bytes(file: h5py.File, *groups: str) -> tuple[int, int]:
    """Bytes of the optimizer's state: of its values, and as they are stored in the file.

    Args:
        file: that may have it.
        groups: in which it is.
    """
    total, stored = 0, 0

    def add(_: str, item: Any) -> None:
        nonlocal total, stored
        if isinstance(item, h5py.Dataset):
            total += item.nbytes
            stored += item.id.get_storage_size()

    for group in groups:
        if isinstance(file.get(group, getlink=True), h5py.HardLink):
            file[group].visititems(add)
    return total, stored


def write(
    model: Model, old: h5py.File | None, new: h5py.File, options: WriteOptions
) -> tuple[dict[str, int], dict[str, Encoding]]:
    """Writes the weights of a model as a store.

    Args:
        model: what to write.
        old: the store it was read from, for what stands beside the weights; None for none.
        new: an empty file.
        options: how to write.

    Returns:
        Bytes stored, and final encodings, by tensor name.
    """
    moved = _new_keys(model, old)
    if old is not None:
        if options.keep_optimizer and any(
            t.key not in moved or (t.key in old and old[t.key].shape != t.shape)
            for t in model.tensors
        ):
            raise UsageError(
                "--keep-optimizer: a layer changed its shape, so the optimizer's state no longer "
                "fits", "leave the option out"
            )  # fmt: skip
        _copy_groups(model, old, new, keep_optimizer=options.keep_optimizer)
    if old is None:
        hdf5_file.make_group(new, "vars")  # of the model itself: Keras 2 misses it
        names = model.architecture is not None and model.architecture.dialect is Dialect.KERAS3
    else:
        names = any("name" in old[key].attrs for key in _var_groups(old))
    stored, encodings, records = {}, {}, {}
    integers = int_layers.planned(model, options)
    for layer in model.layers:
        for index, tensor in enumerate(layer.tensors):
            key = moved.get(tensor.key) if tensor.key else None
            key = key or _fresh_key(model, layer, index, old)
            attributes = dict(old[tensor.key].attrs) if old is not None and tensor.key else {}
            layout = integers.get(layer.path) if int_layers.is_meant(tensor) else None
            if layout is None:
                bytes_, encoding = hdf5_file.put(new, key, tensor, options, attributes)
                records[tensor.name] = encoding
            else:  # what the file says of them is enough
                bytes_, encoding = int_layers.put(
                    new, key, layer, tensor, layout, options, attributes
                )
            stored[tensor.name], encodings[tensor.name] = bytes_, encoding
            group = new[key.rpartition("/")[0]]
            if names and "name" not in group.attrs:
                group.attrs["name"] = layer.path[-1]
    hdf5_file.put_encodings(new, records)
    hdf5_file.put_checksums(new, options.checksums)
    return stored, encodings


def _var_groups(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(lambda key: found.append(key) if key.endswith("/vars") else None)
    return found


def _renamed(model: Model, old: h5py.File) -> dict[str, str]:
    """Old base -> new base of each layer, where an edit of the architecture moved the counters.

    "" of a layer that was taken out.
    """
    if model.architecture is None or model.origin.layout is None:
        return {}
    before = model.origin.layout.architecture
    if before is None or before.text == model.architecture.text:
        return {}
    prefix = _prefix(old)
    now = model.architecture.store_paths()
    return {
        place.replace("layers/", prefix): now.get(path, "").replace("layers/", prefix)
        for path, place in before.store_paths().items()
    }


def _new_keys(model: Model, old: h5py.File | None) -> dict[str, str]:
    """Key in the old file -> key in the new one, for tensors that came from it."""
    if old is None:
        return {}
    bases = _renamed(model, old)
    keys = {}
    for tensor in model.tensors:
        base = _longest(tensor.key, dict.fromkeys(bases, ())) if tensor.key else None
        keys[tensor.key] = bases[base] + tensor.key[len(base) :] if base else tensor.key
    keys.pop("", None)
    return keys


def _fresh_key(model: Model, layer: Layer, index: int, old: h5py.File | None) -> str:
    assert model.architecture is not None
    base = model.architecture.store_paths()[layer.path]
    base = base.replace("layers/", _prefix(old)) if old is not None else base
    assert layer.node is not None
    roles = [tensor.role for tensor in layer.tensors]
    known = places(layer.node, model.architecture.dialect, roles) or []
    return f"{base}/{known[index] if index < len(known) else f'vars/{index}'}"


def places(node: Node, dialect: Dialect, roles: Sequence[str] = ()) -> list[str] | None:
    """Where the weights of a layer lie below its group; None where that is not known.

    It is not for classes that are not Keras's own, nor where a weight is filed twice.

    Args:
        node: of the layer.
        dialect: of the Keras that will read the file.
        roles: of its weights, where Keras' quantization leaves open which there are.
    """
    try:
        found = fitting(node, roles)
    except KeyError:
        return None
    if node.class_name == "SpectralNormalization":
        return None
    at = 0 if dialect is Dialect.KERAS3 else -1
    return [slot.places[at] for slot in found if slot.places]


def _copy_groups(model: Model, old: h5py.File, new: h5py.File, *, keep_optimizer: bool) -> None:
    """All groups with their attributes, and all datasets that are no weights of a layer."""
    bases = _renamed(model, old)
    weights = {tensor.key for tensor in model.origin.layout.tensors}
    hdf5_file.copy_attributes(old, new, ["modelcut"])

    def copy(key: str, item: Any) -> None:
        top = key.split("/")[0]
        if top == "modelcut" or (top == OPTIMIZER and not keep_optimizer) or key in weights:
            return
        base = _longest(key, dict.fromkeys(bases, ()))
        if base and not bases[base]:
            return
        target = bases[base] + key[len(base) :] if base else key
        if isinstance(item, h5py.Group):
            hdf5_file.copy_attributes(item, hdf5_file.make_group(new, target))
        else:
            parent, _, name = target.rpartition("/")
            hdf5_file.room(new, hdf5_file.stored_bytes(item))
            old.copy(item, hdf5_file.make_group(new, parent), name)

    old.visititems(copy)


def tensors_of(layers: list[Layer]) -> tuple[Tensor, ...]:
    """All tensors, for the layout that the writer will want."""
    return tuple(tensor for layer in layers for tensor in layer.tensors)

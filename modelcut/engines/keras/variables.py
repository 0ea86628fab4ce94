"""Which variable of a loaded Keras model is which tensor of the file.

Layers are found by their path of names; a layer's variables are in the order in which Keras
saves them, as its tensors are. That is then checked against the values: a variable whose value
differs from its tensor is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.errors import InputError


@dataclass(frozen=True)
class Place:
    """A layer's tensors, as the file has them.

    Attributes:
        path: names from the outermost submodel down to the layer.
        tensors: name of each tensor and what reads its values, in the order of the file.
    """

    path: tuple[str, ...]
    tensors: tuple[tuple[str, Callable[[], np.ndarray]], ...]


def find(model: Any, places: Sequence[Place], where: str) -> dict[str, Any]:
    """Keras's variable for each tensor.

    Raises:
        InputError: a tensor has none with its values; named.
    """
    found: dict[str, Any] = {}
    for place in places:
        if not place.tensors:
            continue
        layer = layer_at(model, place.path)
        if layer is None:
            raise InputError(
                f"{where}: the engine has no layer {'/'.join(place.path)!r}, so it cannot be "
                "trained"
            )
        values = {name: read() for name, read in place.tensors}
        found.update(_match(weights_of(layer), values, where))
    return found


def layer_at(model: Any, path: Sequence[str]) -> Any:
    """The layer at a path of names; None where there is none."""
    for name in path:
        model = next((layer for layer in _parts(model) if layer.name == name), None)
        if model is None:
            return None
    return model


def _parts(layer: Any) -> list[Any]:
    """Layers of a model, looking into a wrapper around one."""
    while not getattr(layer, "layers", None) and getattr(layer, "layer", None) is not None:
        layer = layer.layer
    return list(getattr(layer, "layers", None) or [])


def weights_of(layer: Any) -> list[Any]:
    """A layer's variables in the order in which Keras saves them, random seeds left out."""
    both = [*layer.trainable_weights, *layer.non_trainable_weights]
    unique: dict[int, Any] = {id(v): v for v in both}
    return [v for v in unique.values() if "seed_generator" not in _path(v)]


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", "") or variable.name)


def _match(
    variables: Sequence[Any], values: Mapping[str, np.ndarray], where: str
) -> dict[str, Any]:
    held = [np.asarray(v) for v in variables]
    names = list(values)
    if len(held) == len(names) and all(
        _same(one, values[name]) for one, name in zip(held, names, strict=True)
    ):
        return dict(zip(names, variables, strict=True))
    if (parts := _part_by_part(variables, held, values, where)) is not None:
        return parts
    # Another order, as where a layer was frozen later: the values themselves must tell.
    result: dict[str, Any] = {}
    left = list(range(len(held)))
    for name in names:
        hits = [i for i in left if _same(held[i], values[name])]
        if not hits:
            raise InputError(
                f"{where}: {name}: the engine holds no variable with its values, so it cannot be "
                "trained",
                "the engine stores this layer in another form than the file",
            )
        result[name] = variables[hits[0]]
        left.remove(hits[0])
    return result


def _part_by_part(
    variables: Sequence[Any],
    held: Sequence[np.ndarray],
    values: Mapping[str, np.ndarray],
    where: str,
) -> dict[str, Any] | None:
    """The variables of a layer whose parts the file has in another order than the engine.

    A `.keras` file files them by the names of attributes, the engine lists them as they were made.
    The variables of one part are kept together in both.

    Returns:
        By name; None where the parts are not the same ones.

    Raises:
        InputError: two parts hold the same values.
    """
    parts: dict[str, list[str]] = {}
    for name in values:
        parts.setdefault(name.rpartition("/")[0], []).append(name)
    theirs: dict[str, list[int]] = {}
    for index, variable in enumerate(variables):
        theirs.setdefault(_path(variable).rpartition("/")[0], []).append(index)
    if len(parts) < 2:
        return None
    found: dict[str, Any] = {}
    for part, names in parts.items():
        hits = [
            indices
            for indices in theirs.values()
            if len(indices) == len(names)
            and all(_same(held[i], values[n]) for i, n in zip(indices, names, strict=True))
        ]
        if not hits:
            return None
        if len(hits) > 1:
            raise InputError(
                f"{where}: {part}: another part of this layer holds the same values, so that "
                "they cannot be distinguished",
                "train the network before it is compressed, or leave out the steps that train",
            )
        found.update({n: variables[i] for i, n in zip(hits[0], names, strict=True)})
    return found


def _same(held: np.ndarray, values: np.ndarray) -> bool:
    if held.shape != values.shape:
        return False
    return bool(np.array_equal(held, values.astype(held.dtype), equal_nan=held.dtype.kind == "f"))


def synchronize(model: Any) -> None:
    """Has batch normalizations compute their statistics over all parts of a batch."""
    for layer in _all_layers(model):
        if hasattr(layer, "moving_mean") and hasattr(layer, "synchronized"):
            layer.synchronized = True
            if getattr(layer, "fused", False):  # tf_keras's fast kernel sees one part only
                layer.fused = False


def _all_layers(layer: Any) -> list[Any]:
    return [layer, *(one for part in _parts(layer) for one in _all_layers(part))]

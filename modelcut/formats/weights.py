"""Which stored weight is which: joins the weights of a file to the layers of its architecture.

Keras stores a layer's weights in a fixed order and loads them by it, so that order decides; the
stored names are a cross-check, and all there is where the class is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelcut.errors import InputError
from modelcut.graph.architecture import Node, specs
from modelcut.graph.keras import classes
from modelcut.graph.keras.classes import WeightSpec
from modelcut.model.encoding import Dense, Encoding
from modelcut.model.model import Layer, Source, Tensor
from modelcut.safety import printable


@dataclass(frozen=True)
class Stored:
    """One weight as the file has it.

    Attributes:
        name: as the file calls it, for its role and for messages.
        key: where it is in the file.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    source: Source


def join(
    leaves: Sequence[Node], stored: Sequence[Stored], where: str, *, strict: bool
) -> list[Layer]:
    """Layers with their tensors.

    Args:
        leaves: the layers whose weights these are, in Keras's order.
        stored: the weights, in the order of the file.
        where: the file, for messages.
        strict: known classes must have exactly the weights that their configuration declares
            (all but Keras 1, whose recurrent layers store a weight a gate).

    Raises:
        InputError: weights are missing, are too many, or have another shape than declared.
    """
    known: list[list[WeightSpec] | None] = [_specs(leaf) for leaf in leaves]
    if len(leaves) == 1:
        return [_layer(leaves[0], _roles(leaves[0], known[0], stored, where, strict=strict))]
    slots = _slots(leaves, known)
    if slots is not None and len(slots) == len(stored) and _plausible(slots, stored):
        roles: list[list[tuple[WeightSpec, Stored]]] = [[] for _ in leaves]
        for (leaf, spec), one in zip(slots, stored, strict=True):
            _check_shape(leaves[leaf], spec, one, where)
            roles[leaf].append((spec, one))
        return [_layer(leaf, part) for leaf, part in zip(leaves, roles, strict=True)]
    return _by_name(leaves, known, stored, where, strict=strict)


def _specs(leaf: Node) -> list[WeightSpec] | None:
    try:
        return specs(leaf)
    except (KeyError, AttributeError, TypeError):
        return None


def _slots(
    leaves: Sequence[Node], known: Sequence[list[WeightSpec] | None]
) -> list[tuple[int, WeightSpec]] | None:
    """A submodel's weights in Keras's order: all that are trained, then all that are not."""
    trained: list[tuple[int, WeightSpec]] = []
    still: list[tuple[int, WeightSpec]] = []
    for index, (leaf, own) in enumerate(zip(leaves, known, strict=True)):
        if own is None:
            return None
        frozen = leaf.config.get("trainable") is False
        for spec in own:
            (still if frozen or spec.kind == "state" else trained).append((index, spec))
    return [*trained, *still]


def _plausible(slots: Sequence[tuple[int, WeightSpec]], stored: Sequence[Stored]) -> bool:
    for (_, spec), one in zip(slots, stored, strict=True):
        last = _role_in(one.name)
        ours = spec.role.rpartition("/")[2]
        if last.isalpha() and last != ours and last in _ALL_ROLES:
            return False
        if spec.shape is not None and len(spec.shape) != len(one.shape):
            return False
    return True


_ALL_ROLES = {"kernel", "bias", "gamma", "beta", "embeddings", "alpha"}


def _by_name(
    leaves: Sequence[Node],
    known: Sequence[list[WeightSpec] | None],
    stored: Sequence[Stored],
    where: str,
    *,
    strict: bool,
) -> list[Layer]:
    """Where the order does not settle it: by the layer's name in the stored name."""
    parts: list[list[Stored]] = [[] for _ in leaves]
    for one in stored:
        words = one.name.split("/")
        scores = [words.index(leaf.path[-1]) if leaf.path[-1] in words else -1 for leaf in leaves]
        best = int(np.argmax(scores)) if scores else -1
        if best < 0 or scores[best] < 0:
            raise InputError(
                f"{where}: the weight {printable(one.name)!r} belongs to none of the layers"
            )
        parts[best].append(one)
    return [
        _layer(leaf, _roles(leaf, own, part, where, strict=strict))
        for leaf, own, part in zip(leaves, known, parts, strict=True)
    ]


def _roles(
    leaf: Node,
    known: list[WeightSpec] | None,
    stored: Sequence[Stored],
    where: str,
    *,
    strict: bool,
) -> list[tuple[WeightSpec, Stored]]:
    if known is not None and len(known) == len(stored):
        for spec, one in zip(known, stored, strict=True):
            _check_shape(leaf, spec, one, where)
        return list(zip(known, stored, strict=True))
    if known is not None and strict and not _only_states_differ(known, stored):
        wanted = ", ".join(spec.role for spec in known) or "none"
        raise InputError(
            f"{where}: layer {printable('/'.join(leaf.path))!r} ({printable(leaf.class_name)}) "
            f"should have {len(known)} weights ({wanted}), the file has {len(stored)}",
            "the weights are not those of this architecture",
        )
    return [(guess(one), one) for one in stored]


def _only_states_differ(known: Sequence[WeightSpec], stored: Sequence[Stored]) -> bool:
    """Whether what is more or less is state, such as a random generator's seed."""
    extra = [one for one in stored if guess(one).kind not in ("state", "other")]
    return len(extra) == len([spec for spec in known if spec.kind != "state"]) and bool(stored)


def guess(one: Stored) -> WeightSpec:
    """What a weight is, from its name and rank alone."""
    role = _role_in(one.name)
    kind = classes.kind_of(role, len(one.shape))
    matrix = kind in ("kernel", "recurrent")
    out_axis = len(one.shape) - 1 if matrix else None
    return WeightSpec(role, kind, None, out_axis, len(one.shape) - 2 if matrix else None)


def _role_in(name: str) -> str:
    return name.rpartition("/")[2].partition(":")[0]


def _check_shape(leaf: Node, spec: WeightSpec, one: Stored, where: str) -> None:
    if spec.shape is None:
        return
    same_rank = len(spec.shape) == len(one.shape)
    if same_rank and all(a in (None, b) for a, b in zip(spec.shape, one.shape, strict=True)):
        return
    wanted = "×".join("?" if n is None else str(n) for n in spec.shape) or "scalar"
    found = "×".join(map(str, one.shape)) or "scalar"
    raise InputError(
        f"{where}: layer {printable('/'.join(leaf.path))!r} declares a {spec.role} of {wanted}, "
        f"the file holds {found}",
        "the weights are not those of this architecture",
    )


def _layer(leaf: Node, parts: Iterable[tuple[WeightSpec, Stored]]) -> Layer:
    return make_layer(leaf.path, leaf.class_name, leaf, parts)


def make_layer(
    path: tuple[str, ...],
    class_name: str,
    node: Node | None,
    parts: Iterable[tuple[WeightSpec, Stored]],
) -> Layer:
    """A layer with a tensor for each of its stored weights, their names made unique."""
    name = "/".join(path)
    used: set[str] = set()
    tensors = []
    for spec, one in parts:
        role = spec.role
        while role in used:
            role += "'"
        used.add(role)
        rank = len(one.shape)
        tensors.append(
            Tensor(
                name=f"{name}/{role}",
                role=role,
                kind=spec.kind,
                shape=one.shape,
                dtype=one.dtype,
                source=one.source,
                out_axis=_axis(spec.out_axis, rank),
                in_axis=_axis(spec.in_axis, rank),
                key=one.key,
            )
        )
    return Layer(path, class_name, node.config if node else {}, tuple(tensors), node)


def _axis(axis: int | None, rank: int) -> int | None:
    return axis % rank if axis is not None and -rank <= axis < rank else None


def with_encodings(
    found: Sequence[Layer], encodings: dict[str, Encoding]
) -> tuple[tuple[Layer, ...], list[str]]:
    """The layers with what an earlier run kept about their tensors, as far as it fits them."""
    result, warnings = [], []
    for layer in found:
        tensors = []
        for tensor in layer.tensors:
            encoding = encodings.get(tensor.name, Dense())
            if not encoding.fits(tensor.shape):
                warnings.append(f"{tensor.name}: the encoding kept in the file does not fit it")
                encoding = Dense()
            tensors.append(replace(tensor, encoding=encoding))
        result.append(replace(layer, tensors=tuple(tensors)))
    return tuple(result), warnings

"""Which stored weight is which: joins the weights of a file to the layers of its architecture.

Keras stores a layer's weights in a fixed order and loads them by it, so that order decides; the
stored names are a cross-check, and all there is where the class is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelcut.errors import InputError
from modelcut.graph.architecture import Node
from modelcut.graph.keras import classes
from modelcut.graph.keras.classes import WeightSpec
from modelcut.graph.keras.saved_order import FORMS, Slot, slots
from modelcut.model.encoding import Dense, Encoding, Fixed
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
    if len(leaves) == 1:
        return [_layer(leaves[0], _roles(leaves[0], stored, where, strict=strict))]
    found = _in_order(leaves)
    if found is not None and len(found) == len(stored) and _plausible(found, stored):
        roles: list[list[tuple[WeightSpec, Stored]]] = [[] for _ in leaves]
        for (leaf, spec), one in zip(found, stored, strict=True):
            _check_shape(leaves[leaf], spec, one, where)
            roles[leaf].append((spec, one))
        return [_layer(leaf, part) for leaf, part in zip(leaves, roles, strict=True)]
    return _by_name(leaves, stored, where, strict=strict)


def _slots(leaf: Node, form: int = 0) -> list[Slot] | None:
    try:
        return slots(leaf, form)
    except (KeyError, AttributeError, TypeError):
        return None


def _in_order(leaves: Sequence[Node]) -> list[tuple[int, WeightSpec]] | None:
    """A submodel's weights in Keras's order: all that are trained, then all that are not."""
    trained: list[tuple[int, WeightSpec]] = []
    still: list[tuple[int, WeightSpec]] = []
    for index, leaf in enumerate(leaves):
        own = _slots(leaf)
        if own is None:
            return None
        for slot in own:
            (still if slot.frozen else trained).append((index, slot.spec))
    return [*trained, *still]


def _known(leaf: Node, stored: Sequence[Stored]) -> tuple[list[WeightSpec] | None, list[Stored]]:
    """The weights that a layer should have, and the stored ones in the same order.

    Where Keras' quantization or LoRA changed the layer, the form that the file has is sought, by
    names first: the order of these depends on what was done to the model before it was saved.
    """
    first = _slots(leaf)
    plain = None if first is None else [slot.spec for slot in first]
    if first is None or (len(first) == len(stored) and not any(slot.spec.held for slot in first)):
        return plain, list(stored)
    numbered = bool(stored) and all(_role_in(one.name).isdigit() for one in stored)
    fitting = []
    for form in range(FORMS):
        own = [slot.spec for slot in _slots(leaf, form) or () if slot.places or not numbered]
        if len(own) == len(stored):
            fitting.append(own)
    for own in fitting:
        if (named := _named(own, stored)) is not None:
            return own, named
    if numbered and fitting:  # a `.keras` file: it keeps no factors of LoRA, nor needs them
        return [_merged(spec) for spec in fitting[0]], list(stored)
    return (fitting[0] if fitting else plain), list(stored)


def _named(own: Sequence[WeightSpec], stored: Sequence[Stored]) -> list[Stored] | None:
    """The stored weights in the order of these roles, where their names say each of them once."""
    found = []
    names = [(one.name.partition(":")[0], one) for one in stored]
    for spec in own:
        hits = [one for name, one in names if f"/{name}".endswith(f"/{spec.role}")]
        found += hits if len(hits) == 1 else []
    return found if len({one.key for one in found}) == len(stored) else None


def _merged(spec: WeightSpec) -> WeightSpec:
    return replace(spec, held="") if spec.held.startswith("base of LoRA") else spec


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
                f"{where}: the weight {printable(one.name)!r} does not belong to any layer"
            )
        parts[best].append(one)
    return [
        _layer(leaf, _roles(leaf, part, where, strict=strict))
        for leaf, part in zip(leaves, parts, strict=True)
    ]


def _roles(
    leaf: Node, stored: Sequence[Stored], where: str, *, strict: bool
) -> list[tuple[WeightSpec, Stored]]:
    known, stored = _known(leaf, stored)
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
    return list(guessed(leaf.path[-1], stored))


def _only_states_differ(known: Sequence[WeightSpec], stored: Sequence[Stored]) -> bool:
    """Whether what is more or less is state, such as a random generator's seed."""
    if any(spec.held for spec in known):
        return False  # without its scales a quantized kernel says nothing
    extra = [one for one in stored if guess(one).kind not in ("state", "other")]
    return len(extra) == len([spec for spec in known if spec.kind != "state"]) and bool(stored)


def guess(one: Stored) -> WeightSpec:
    """What a weight is, from its name and rank."""
    role = _role_in(one.name)
    kind = classes.kind_of(role, len(one.shape))
    matrix = kind in ("kernel", "recurrent")
    out_axis = len(one.shape) - 1 if matrix else None
    return WeightSpec(role, kind, None, out_axis, len(one.shape) - 2 if matrix else None)


def guessed(layer: str, stored: Sequence[Stored]) -> Iterator[tuple[WeightSpec, Stored]]:
    """The weights of a layer of an unknown class, each with what it is by its name.

    Args:
        layer: its name.
        stored: its weights. Where the last parts of their names are not all different, their roles
            are the paths to them inside the layer ("mlp/dense_1/kernel").
    """
    specs = [guess(one) for one in stored]
    plain = len({spec.role for spec in specs}) == len(specs)
    for spec, one in zip(specs, stored, strict=True):
        groups = [] if plain else one.name.split("/")[:-1]
        inside = groups[groups.index(layer) + 1 :] if layer in groups else groups
        yield replace(spec, role="/".join((*filter(None, inside), spec.role))), one


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
    parts = _cudnn(list(parts))
    tensors = []
    for role, (spec, one) in zip(_unique(spec.role for spec, _ in parts), parts, strict=True):
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
                encoding=Fixed(held=spec.held) if spec.held else Dense(),
                key=one.key,
            )
        )
    return Layer(path, class_name, node.config if node else {}, tuple(tensors), node)


def _cudnn(parts: list[tuple[WeightSpec, Stored]]) -> list[tuple[WeightSpec, Stored]]:
    """The same, the axes of kernels in cuDNN's layout corrected, of whatever class their layer is.

    Their bias tells, in which each gate has two: of a plain LSTM or GRU it has one, or two rows.
    """
    known = {spec.role: one.shape for spec, one in parts}
    found = []
    for spec, one in parts:
        start = spec.role[: spec.role.rfind("/") + 1]
        kernel, own, bias = (
            known.get(start + role, ()) for role in ("kernel", "recurrent_kernel", "bias")
        )
        if (
            spec.kind in ("kernel", "recurrent")
            and len(kernel) == len(own) == 2
            and own[1] in (3 * own[0], 4 * own[0])
            and kernel[1:] == own[1:]
            and bias == (2 * own[1],)
        ):
            spec = replace(spec, out_axis=0 if spec.kind == "recurrent" else None, in_axis=None)
        found.append((spec, one))
    return found


def _unique(roles: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for role in roles:
        while role in found:
            role += "'"
        found[role] = None
    return list(found)


def _axis(axis: int | None, rank: int) -> int | None:
    return axis % rank if axis is not None and -rank <= axis < rank else None


def with_encodings(
    found: Sequence[Layer], encodings: dict[str, Encoding]
) -> tuple[tuple[Layer, ...], list[str]]:
    """The layers with what an earlier run kept about their tensors, as far as it fits them."""
    result, warnings = [], []
    others = encodings.keys() - {tensor.name for layer in found for tensor in layer.tensors}
    for layer in found:
        tensors = []
        formerly = _formerly(layer) if others else {}
        for tensor in layer.tensors:
            former = formerly.get(tensor.name)
            name = former if former in others and tensor.name not in encodings else tensor.name
            encoding = encodings.get(name, tensor.encoding)
            if not encoding.fits(tensor.shape):
                warnings.append(f"{tensor.name}: the encoding kept in the file does not fit it")
                encoding = Dense()
            tensors.append(replace(tensor, encoding=encoding))
        result.append(replace(layer, tensors=tuple(tensors)))
    return tuple(result), warnings


def _formerly(layer: Layer) -> dict[str, str]:
    """The tensors' names in an earlier modelcut; of unknown classes, only the last part."""
    roles = _unique(tensor.role.rpartition("/")[2].rstrip("'") for tensor in layer.tensors)
    former = (f"{layer.name}/{role}" for role in roles)
    return dict(zip((tensor.name for tensor in layer.tensors), former, strict=True))


def unloadable(found: Sequence[Layer]) -> list[str]:
    """Warnings about layers that Keras itself cannot load again, since it saved too little."""
    reasons: dict[str, list[str]] = {}
    for layer in found:
        roles = layer.by_role
        how = next((t.encoding.held for t in layer.tensors if isinstance(t.encoding, Fixed)), "")
        if how.startswith(("gptq", "awq")) and "kernel_zero" not in roles:
            why = "Keras left kernel_zero out"
        elif how and "query/kernel" in roles:
            why = f"the configuration does not say that it is quantized ({how})"
        else:
            continue
        reasons.setdefault(why, []).append(printable(layer.name))
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}, so that Keras "
        "itself cannot load the file"
        for why, names in reasons.items()
    ]

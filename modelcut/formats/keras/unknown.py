"""Weights of layers whose class only their author has, as a Keras 3 store files them.

The store numbers the weights of each object by itself, in a group named after its attribute
(`layers/block/mlp/dense_1/vars/0`). What they are for, their numbers and shapes must tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from modelcut.formats import weights
from modelcut.graph.keras.classes import WeightSpec


def group_of(key: str) -> tuple[str, ...]:
    """The names of the objects around a stored weight, without those that every key has."""
    return tuple(part for part in key.split("/")[:-1] if part not in ("layers", "vars"))


def bare(one: weights.Stored, index: int) -> WeightSpec:
    """A numbered weight: the first matrix of an object is its kernel, by Keras's order."""
    name = "kernel" if index == 0 and len(one.shape) >= 2 else f"weight{index}"
    embedding = "embedding" in one.key
    return weights.guess(
        weights.Stored(
            "embeddings" if embedding else name, one.key, one.shape, one.dtype, one.source
        )
    )


def specs(stored: Sequence[weights.Stored]) -> list[WeightSpec]:
    """What the weights of one object are.

    The first one decides: of a recurrent cell a recurrent kernel follows, of a separable
    convolution the pointwise kernel, of any other kernel its bias. A weight with a name of its own
    is what the name says.

    Args:
        stored: the weights of the object, in its order.
    """
    found: list[WeightSpec] = []
    counted: list[tuple[WeightSpec, weights.Stored]] = []
    for one in stored:
        if not one.key.rpartition("/")[2].isdigit():
            found.append(weights.guess(one))
            continue
        spec = bare(one, len(counted))
        if spec.kind == "other" and counted and counted[0][0].kind == "kernel":
            spec = _after_kernel(counted, one.shape) or spec
        counted.append((spec, one))
        found.append(spec)
    return found


def _after_kernel(
    before: Sequence[tuple[WeightSpec, weights.Stored]], shape: tuple[int, ...]
) -> WeightSpec | None:
    """A weight that follows a kernel, and perhaps a second one, as far as shapes tell."""
    first, rank, index = before[0][1], len(shape), len(before)
    kernel, recurrent = first.shape, before[-1][0].kind == "recurrent"
    if not rank or index > 2:
        return None
    # A GRU may have two biases for each gate.
    if (shape == kernel[-rank:] and rank < len(kernel)) or (recurrent and shape == (2, kernel[-1])):
        return WeightSpec("bias", "bias")
    if rank != len(kernel) or index > 1:
        return None
    gates = (1, 3, 4) if any("cell" in name for name in group_of(first.key)) else (3, 4)
    if shape[-1] == kernel[-1] and shape[-1] in [n * shape[-2] for n in gates]:
        return WeightSpec("recurrent_kernel", "recurrent", None, rank - 1, rank - 2)
    if rank > 2 and set(shape[:-2]) == {1} and shape[-2] == kernel[-1] * kernel[-2]:
        return WeightSpec("pointwise_kernel", "kernel", None, rank - 1, rank - 2)
    return None


def parts(
    base: str, stored: Sequence[weights.Stored]
) -> Iterator[tuple[WeightSpec, weights.Stored]]:
    """The weights of one layer of an unknown class, each with what it is.

    Args:
        base: the group of the layer.
        stored: what lies below it.

    Yields:
        The weights in the order of the file, their roles with the path to them inside the layer
        ("mlp/dense_1/kernel").
    """
    groups: dict[tuple[str, ...], list[weights.Stored]] = {}
    for one in stored:
        groups.setdefault(group_of(one.key[len(base) + 1 :]), []).append(one)
    for group, mine in groups.items():
        for spec, one in zip(specs(mine), mine, strict=True):
            yield replace(spec, role="/".join((*group, spec.role))), one

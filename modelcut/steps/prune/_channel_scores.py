"""What the channels of a dependency group count for, from the weights alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from modelcut.graph.groups import Dependencies, Group, Slot
from modelcut.model.model import Model, Tensor
from modelcut.steps.base import NOT_FINITE, TARGET_KINDS, Context, random_generator

MATRICES = TARGET_KINDS | {"embedding"}
"""Kinds of tensors whose slices are scored."""


class Scores:
    """Scores of the channels of groups by one criterion; each tensor is read once and let go."""

    def __init__(self, model: Model, found: Dependencies, criterion: str, context: Context) -> None:
        self._found = found
        self._criterion = criterion
        self._context = context
        self._of = {(lay.path, t.role): (lay.class_name, t) for lay in model.layers
                    for t in lay.tensors}  # fmt: skip

    def of(self, groups: list[Group]) -> list[np.ndarray | str]:
        """The scores of each group's channels.

        Args:
            groups: of the dependencies.

        Returns:
            For each group, float64, shape (channels,), of mean 1 where they are not all zero: the
            mean over the group's tensors of the tensor's own scores over their mean; or why there
            are none.
        """
        if self._criterion == "random":
            return [self._random(group) for group in groups]
        wanted: dict[int, list[int]] = {}
        for number, group in enumerate(groups):
            for slot, _ in group.slots:
                if self._scored(self._found.slots[slot]):
                    wanted.setdefault(slot, []).append(number)
        sums = [np.zeros(group.ids.size) for group in groups]
        seen, broken = [0] * len(groups), [False] * len(groups)
        for slot, values in self._read(wanted):
            for number in wanted[slot]:
                found = self._score(values, self._found.slots[slot], groups[number])
                mean = float(found.mean()) if found.size else 0.0
                broken[number] |= not np.isfinite(found).all()
                sums[number] += found / mean if mean > 0 else found
                seen[number] += 1
        return [
            NOT_FINITE if broken[n] else self._absence() if not seen[n] else sums[n] / seen[n]
            for n in range(len(groups))
        ]

    def _absence(self) -> str:
        if self._criterion == "bn_scale":
            return "no batch normalization with a scale has its channels"
        return "no kernel has its channels"

    def _random(self, group: Group) -> np.ndarray:
        name = "/".join((self._found.made_by(group) or [()])[0])
        return random_generator(self._context, name).random(group.ids.size)

    def _scored(self, slot: Slot) -> bool:
        class_name, tensor = self._of[slot.path, slot.role]
        if self._criterion == "bn_scale":
            return tensor.role == "gamma" and "BatchNormalization" in class_name
        if self._criterion == "fpgm" and slot.use != "makes":
            return False
        return tensor.kind in MATRICES

    def _read(self, wanted: dict[int, list[int]]) -> Iterator[tuple[int, np.ndarray]]:
        """Each slot that is wanted, with the values of its tensor."""
        by_tensor: dict[str, tuple[Tensor, list[int]]] = {}
        for number in wanted:
            slot = self._found.slots[number]
            tensor = self._of[slot.path, slot.role][1]
            by_tensor.setdefault(tensor.name, (tensor, []))[1].append(number)
        for tensor, numbers in by_tensor.values():
            values = tensor.pull()[0]
            wide = np.float64 if values.dtype.itemsize == 8 else np.float32
            for number in numbers:
                yield number, values.astype(wide, copy=False)

    def _score(self, values: np.ndarray, slot: Slot, group: Group) -> np.ndarray:
        others = tuple(axis for axis in range(values.ndim) if axis != slot.axis)
        with np.errstate(over="ignore", invalid="ignore"):
            if self._criterion == "fpgm":
                return _distances(np.moveaxis(values, slot.axis, 0), slot, group)
            power = np.square(values) if self._criterion == "l2" else np.abs(values)
            each = power.sum(axis=others, dtype=np.float64)
            total = np.bincount(slot.ids, each, int(group.ids.max()) + 1)[group.ids]
        return np.sqrt(total) if self._criterion == "l2" else total


def _distances(filters: np.ndarray, slot: Slot, group: Group) -> np.ndarray:
    """The sum of each channel's distances to the others of its group (He et al. 2019, eq. 4)."""
    places = np.flatnonzero(np.isin(slot.ids, group.ids))
    places = places[np.argsort(slot.ids[places], kind="stable")]
    rows = filters[places].reshape(group.ids.size, -1).astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    apart = squares[:, None] + squares[None, :] - 2 * (rows @ rows.T)
    np.fill_diagonal(apart, 0)
    return np.sqrt(np.maximum(apart, 0)).sum(axis=1)

"""What channels count for when the network runs: first-order losses, and mean activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelcut.graph.groups import Dependencies, Group
from modelcut.graph.keras.channel_values import Value
from modelcut.graph.node import Path
from modelcut.model.model import Model, Tensor
from modelcut.runtime import Rows, Running, Runtime
from modelcut.steps.base import NOT_FINITE, TARGET_KINDS, Context
from modelcut.steps.samples import some_rows


@dataclass(frozen=True)
class Data:
    """The samples that a criterion looks at.

    Attributes:
        runtime: runs models on the training data.
        rows: maximum number of training samples.
        damp: the fraction of a Hessian's mean diagonal that is added to it.
        context: the context of the step.
        title: title of the step.
    """

    runtime: Runtime
    rows: int
    damp: float
    context: Context
    title: str

    def batches(self, running: Running, size: int = 64) -> Iterator[Rows]:
        """The samples, the same ones at every call."""
        return some_rows(self.runtime, running, size, self.rows, self.context)


def taylor(
    model: Model,
    found: Dependencies,
    groups: Sequence[Group],
    data: Data,
    batch_size: int,
) -> list[np.ndarray | str]:
    """By how much the loss changes without each channel, to first order.

    The kernels that read a channel c take its activations linearly, so that Σ w · ∂L/∂w over their
    slices of c is what Σ a · ∂L/∂a is over its activations: the change of the loss where nobody
    reads it (Molchanov et al. 2017, eq. 7, summed over all that read). Its magnitude is taken batch
    by batch and averaged.

    Args:
        model: that the groups were found in.
        found: its dependency groups.
        groups: those that are scored.
        data: the samples.
        batch_size: samples of one gradient.

    Returns:
        For each group, float64, shape (channels,), in units of the loss; or why there are none.
    """
    of = _tensors(model)
    slots = [_slots(found, of, group, "reads") or _slots(found, of, group) for group in groups]
    kernels = {of[found.slots[n].path, found.slots[n].role] for each in slots for n in each}
    names = sorted(tensor.name for tensor in kernels)
    running = data.runtime.open(model)
    values = {n: v.astype(np.float64) for n, v in running.read(names).items()}
    sums = [np.zeros(group.ids.size) for group in groups]
    count = 0
    for part in data.batches(running, batch_size) if names else ():
        data.context.say(f"{data.title}: gradients, {count} of {data.rows} rows")
        gradients = running.gradients(part, names)
        products = {name: values[name] * gradients[name] for name in names}
        for total, group, numbers in zip(sums, groups, slots, strict=True):
            change = np.zeros(group.ids.size)
            for number in numbers:
                slot = found.slots[number]
                product = products[of[slot.path, slot.role].name]
                others = tuple(axis for axis in range(product.ndim) if axis != slot.axis)
                change += by_channel(product.sum(axis=others), slot.ids, group)
            total += len(part) * np.abs(change)
        count += len(part)
    return [
        _checked(total / max(1, count), bool(own)) for total, own in zip(sums, slots, strict=True)
    ]


def activation(
    model: Model,
    found: Dependencies,
    groups: Sequence[Group],
    data: Data,
) -> list[np.ndarray | str]:
    """The mean magnitude of each channel, as the layers see it that read it.

    Molchanov et al. 2017, section 2.2. Each reading layer's means are taken over their mean.

    Args: see `taylor`.

    Returns:
        For each group, float64, shape (channels,), of mean 1; or why there are none.
    """
    readers = [read_by(found, group) for group in groups]
    wanted = sorted({path for each in readers for path in each})
    names = {path: "/".join(path) for path in wanted}
    running = data.runtime.open(model)
    means: dict[Path, np.ndarray] = {}
    count = 0
    for part in data.batches(running) if wanted else ():
        data.context.say(f"{data.title}: activations, {count} of {data.rows} rows")
        seen = running.layer_inputs(part, list(names.values()))
        for path in wanted:
            value = found.given[path][0]
            for array in seen[names[path]]:
                columns = columns_of(array, value.axis)
                each = np.abs(columns).mean(axis=0, dtype=np.float64) * len(part)
                means[path] = means.get(path, 0) + each
        count += len(part)
    scores: list[np.ndarray | str] = []
    for group, paths in zip(groups, readers, strict=True):
        total, known = np.zeros(group.ids.size), False
        for path in paths:
            ids = found.given[path][0].ids
            if path in means and ids is not None:
                own = by_channel(means[path], ids, group)
                total += own / own.mean() if own.mean() > 0 else own
                known = True
        scores.append(_checked(total / max(1, len(paths)), known))
    return scores


def read_by(found: Dependencies, group: Group) -> list[Path]:
    """The layers that read the channels of a group from what goes into them."""
    slots = (found.slots[number] for number, _ in group.slots)
    paths = dict.fromkeys(slot.path for slot in slots if slot.use == "reads")
    return [path for path in paths if _is_fed(found.given.get(path, ()), group)]


def _is_fed(given: Sequence[Value], group: Group) -> bool:
    return bool(given) and given[0].ids is not None and bool(np.isin(group.ids, given[0].ids).all())


def columns_of(array: np.ndarray, axis: int) -> np.ndarray:
    """What goes into a layer as (values, channels).

    Args:
        array: shape (samples, …).
        axis: of the channels, as in `Value`: the batch axis not counted, -1 for the last.
    """
    last = np.moveaxis(array, axis if axis < 0 else axis + 1, -1)
    return last.reshape(-1, last.shape[-1])


def _tensors(model: Model) -> Mapping[tuple[Path, str], Tensor]:
    return {(layer.path, t.role): t for layer in model.layers for t in layer.tensors}


def _slots(
    found: Dependencies, of: Mapping[tuple[Path, str], Tensor], group: Group, use: str = ""
) -> list[int]:
    """The slots of a group that are axes of kernels."""

    def wanted() -> Iterator[int]:
        for number, _ in group.slots:
            slot = found.slots[number]
            kernel = of[slot.path, slot.role].kind in TARGET_KINDS
            if kernel and use in ("", slot.use):
                yield number

    return list(wanted())


def by_channel(each: np.ndarray, ids: np.ndarray, group: Group) -> np.ndarray:
    """Sums over the indices of an axis that a channel stands at."""
    return np.bincount(ids, each, int(group.ids.max()) + 1)[group.ids]


def _checked(scores: np.ndarray, known: bool) -> np.ndarray | str:
    if not known:
        return "no layer that reads its channels can be looked at"
    return scores if np.isfinite(scores).all() else NOT_FINITE

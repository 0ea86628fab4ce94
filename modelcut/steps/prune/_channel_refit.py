"""What is left after channels are removed is refitted, so that layers give what they gave before.

Layer by layer in the network's order, each that has lost inputs is to give on what the pruned
network feeds it the outputs that the original gives on its own inputs: least squares, drawn a
little to the weights as they were (Luo et al. 2017, section 3.2; He et al. 2017, section 3.1 and
its "whole model pruning"). The statistics of batch normalizations move as those of their inputs do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from modelcut.errors import RecipeError
from modelcut.graph import edit
from modelcut.graph.groups import Dependencies
from modelcut.graph.keras.channel_values import Value
from modelcut.model.model import Layer, Model
from modelcut.runtime import Running
from modelcut.steps.prune._channel_data import Data, columns_of
from modelcut.steps.prune._channel_obs import kernel_of, sampled
from modelcut.steps.prune._hessian import damped

MOMENTS = frozenset({"moving_mean", "moving_variance"})


def refitted(
    model: Model, result: Model, found: Dependencies, gone: np.ndarray, data: Data
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """New values of the tensors behind removed channels.

    Args:
        model: the original.
        result: the same without some channels.
        found: the dependency groups of the original.
        gone: numbers of the channels that were removed.
        data: the samples.

    Returns:
        Tensor name -> values, of the shape that it has now; and layer -> the error of its outputs,
        over the outputs of the original.

    Raises:
        RecipeError: what goes into a layer is NaN or infinite.
    """
    kept = edit.keeping(gone)
    before, after = data.runtime.open(model), data.runtime.open(result)
    old = {layer.path: layer for layer in model.layers}
    new: dict[str, np.ndarray] = {}
    errors: dict[str, float] = {}
    for path in dict.fromkeys(slot.path for slot in found.slots):
        layer = old[path]
        reads = next((s for s in found.slots if s.path == path and s.use == "reads"), None)
        kernel = kernel_of(layer)
        if reads is not None and kernel is not None and not kept(reads.ids).all():
            makes = next((s for s in found.slots if s.path == path and s.use == "makes"), None)
            outputs = np.ones(kernel.shape[-1], bool) if makes is None else kept(makes.ids)
            values, errors[layer.name] = _solved(layer, before, after, outputs, data)
        elif set(layer.by_role) >= MOMENTS and new:
            value = found.given[path][0]
            assert value.ids is not None
            values = _moved(layer, value, kept(value.ids), before, after, data)
        else:
            continue
        after.write(values)
        new.update(values)
    return new, errors


def _solved(
    layer: Layer, before: Running, after: Running, outputs: np.ndarray, data: Data
) -> tuple[dict[str, np.ndarray], float]:
    """A layer's kernel and bias after least squares, and the relative error of its outputs."""
    kernel, bias = kernel_of(layer), layer.by_role.get("bias")
    assert kernel is not None
    data.context.say(f"{data.title}: {layer.name}, refitted")
    old = before.read([kernel.name])[kernel.name]
    weights = old.reshape(-1, old.shape[-1])[:, outputs].astype(np.float64)
    now = after.read([kernel.name])[kernel.name]
    start = now.reshape(-1, now.shape[-1]).astype(np.float64)
    gram = np.zeros((len(start),) * 2)
    cross = np.zeros(start.shape)
    inputs, wanted, power, count = np.zeros(len(start)), np.zeros(start.shape[1]), 0.0, 0
    for rows in data.batches(before):
        pairs = zip(
            before.layer_inputs(rows, [layer.name])[layer.name],
            after.layer_inputs(rows, [layer.name])[layer.name],
            strict=True,
        )
        for given, gives in pairs:
            both = zip(
                sampled(layer, kernel, given, data.rows),
                sampled(layer, replace(kernel, shape=now.shape), gives, data.rows),
                strict=True,
            )
            for one, other in both:
                target = one @ weights.astype(np.float32)
                gram += other.T @ other
                cross += other.T @ target
                inputs += other.sum(axis=0, dtype=np.float64)
                wanted += target.sum(axis=0, dtype=np.float64)
                power += float(np.square(target, dtype=np.float64).sum())
                count += len(one)
    if not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        raise RecipeError(
            f"{data.title}: what goes into {layer.name} is NaN or infinite",
            "check the data's scale, or exclude that layer",
        )
    if bias is not None and count:
        gram -= np.outer(inputs, inputs) / count
        cross -= np.outer(inputs, wanted) / count
        power -= float(np.square(wanted).sum()) / count
    ridge = damped(gram, data.damp)
    extra = ridge[0, 0] - gram[0, 0]
    solved = np.linalg.solve(ridge, cross + extra * start)
    noise = power - 2 * float(np.sum(solved * cross)) + float(np.sum(solved * (gram @ solved)))
    found = {kernel.name: solved.reshape(now.shape).astype(now.dtype)}
    if bias is not None and count:
        shift = (wanted - inputs @ solved) / count
        found[bias.name] = (after.read([bias.name])[bias.name] + shift).astype(now.dtype)
    return found, (max(0.0, noise) / power) ** 0.5 if power > 0 else 0.0


def _moved(
    layer: Layer,
    value: Value,
    channels: np.ndarray,
    before: Running,
    after: Running,
    data: Data,
) -> dict[str, np.ndarray]:
    """The statistics of a batch normalization, moved as those of its inputs have."""
    data.context.say(f"{data.title}: {layer.name}, statistics")
    moments = []
    for running in (before, after):
        count, total, squares = 0, np.zeros(0), np.zeros(0)
        for rows in data.batches(running):
            for given in running.layer_inputs(rows, [layer.name])[layer.name]:
                columns = columns_of(given, value.axis).astype(np.float64)
                count += len(columns)
                total = columns.sum(axis=0) + (total if total.size else 0)
                squares = np.square(columns).sum(axis=0) + (squares if squares.size else 0)
        mean = total / count
        moments.append((mean, np.maximum(squares / count - np.square(mean), 0)))
    (old_mean, old_variance), (mean, variance) = moments
    old_mean, old_variance = old_mean[channels], old_variance[channels]
    means, variances = (layer.by_role[role].name for role in ("moving_mean", "moving_variance"))
    now = after.read([means, variances])
    ratio = np.divide(variance, old_variance, out=np.ones_like(variance), where=old_variance > 0)
    found = {means: now[means] + (mean - old_mean), variances: now[variances] * ratio}
    return {
        name: values.astype(now[name].dtype)
        for name, values in found.items()
        if np.isfinite(values).all()
    }

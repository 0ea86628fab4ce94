"""Ranges of channels made alike in what makes and in what reads them (Nagel et al. 2019)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from modelcut.model.encoding import Dense, Encoding
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import CODED, NOT_FINITE, Context, Need, Outcome, Step
from modelcut.steps.equalize._regions import Found, Region, regions
from modelcut.steps.samples import Samples

_MOST = 2.0**10
"""No factor is larger, nor is its inverse: a channel that is nearly dead keeps its range."""


class CrossLayer(Step):
    """Equalize ranges of channels across layers; the network's outputs stay the same to the bit.

    Factors are powers of two, which float arithmetic moves through linear layers and ReLU without
    any rounding.
    """

    refuses: ClassVar[dict[str, str]] = dict.fromkeys(CODED, "its values would leave their levels")
    absent: ClassVar[dict[str, str]] = {"budget": "it changes no output, so there is no limit"}

    by: Literal["weights", "outputs"] = Field(
        default="weights",
        description="Ranges that are made alike: of the weights that make a channel and of those "
        "that read it (weights); or of its values over calibration samples and of the weights "
        "that read it (outputs), as activations of 8 bits want it.",
    )
    balance: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5,
        description="How much of the difference the reading weights take up: 0 nothing, 1 all.",
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="With by: outputs, the maximum number of calibration samples to use.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        needs: frozenset[Need] = super().needs | {"graph"}
        return needs | {"calibration"} if self.by == "outputs" else needs

    def apply(self, model: Model, context: Context) -> Outcome:
        """Moves a factor for each channel across each region that allows it."""
        self.architecture_of(model, context, "nothing tells which layers follow one another")
        chosen, skipped = self.select(model, context)
        names = {tensor.name for tensor in chosen}
        found = regions(model)
        values = {
            tensor.name: tensor.pull()[0]
            for layer in model.layers
            for tensor in layer.tensors
            if layer.path[1:] == ()
        }
        before = {name: array.copy() for name, array in values.items()}
        facts: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        for region in found.regions:
            kernels = [_kernel(layer) for layer in (*region.makers, *region.readers)]
            aimed = [kernel.name for kernel in kernels if kernel is not None]
            reason = region.reason or ("" if region.readers else "no layer reads its channels")
            if not reason and not names.issuperset(aimed):
                reason = "a layer that shares its channels is not among the targets"
            factors = reason or self._factors(region, found, values, model, context)
            if isinstance(factors, str):
                reasons.update(dict.fromkeys(aimed, factors))
                continue
            _scale(region, factors, values)
            makers = ", ".join(layer.name for layer in region.makers)
            facts[makers] = {
                "readers": [layer.name for layer in region.readers],
                "factors": [float(factors.min()), float(factors.max())],
            }
        changed = {
            name: array
            for name, array in values.items()
            if array.tobytes() != before[name].tobytes()
        }
        for tensor in chosen:
            if tensor.name not in changed:
                skipped[tensor.name] = reasons.get(tensor.name, "its channels are alike already")
        edited = {
            tensor.name: tensor.then(context.index, _pin(changed[tensor.name]), tensor.kinds)
            for tensor in model.tensors
            if tensor.name in changed
        }
        return Outcome(model.with_tensors(edited), {"equalized": facts}, skipped)

    def _factors(
        self,
        region: Region,
        found: Found,
        values: dict[str, np.ndarray],
        model: Model,
        context: Context,
    ) -> np.ndarray | str:
        """What each channel is divided by, a power of two; or why there is none."""
        width = _width(region.makers[0])
        odd = [layer for layer in region.makers if _width(layer) != width]
        reads = [_read(layer, values, width, flat=region.flat) for layer in region.readers]
        if odd or any(part is None for part in reads):
            return "its channels do not stand in the same order in the layers that share them"
        own = [t.name for layer in (*region.makers, *region.readers) for t in layer.tensors]
        if not all(np.isfinite(values[name]).all() for name in own):
            return NOT_FINITE
        if any(t.kinds[-1:] != Dense().kinds for layer in region.makers for t in layer.tensors):
            return "the values of a layer that makes its channels are restricted"
        if self.by == "outputs":
            made = self._seen(region, width, model, context)
        else:
            made = np.max([_made(layer, found, values) for layer in region.makers], axis=0)
        read = np.max([part for part in reads if part is not None], axis=0)
        on = (made > 0) & (read > 0)
        ratio = np.divide(made, read, out=np.ones(width), where=on) ** self.balance
        factors = np.exp2(np.rint(np.log2(np.clip(ratio, 1 / _MOST, _MOST))))
        # All channels by the same factor would only change the layers' sizes.
        middle = np.exp2(np.rint(np.median(np.log2(factors[on])))) if on.any() else 1.0
        return np.where(on, factors / middle, 1.0)

    def _seen(self, region: Region, width: int, model: Model, context: Context) -> np.ndarray:
        """The largest magnitude of each channel over the samples, at the first reader."""
        runtime = context.required_runtime(self.title)
        if "running" not in context.memo:
            context.memo["running"] = runtime.open(model)
        running = context.memo["running"]
        samples = Samples(runtime, context, self.rows, self.title)
        name = region.readers[0].name
        most = np.zeros(width)
        for _, found in samples.inputs(running, [name]):
            for given in found[name]:
                most = np.maximum(most, np.abs(given.reshape(-1, width)).max(axis=0))
        return most


def _kernel(layer: Layer) -> Tensor | None:
    found = [tensor for tensor in layer.tensors if tensor.kind == "kernel"]
    return found[0] if found else None


def _depthwise(layer: Layer) -> bool:
    return layer.class_name.startswith("Depthwise")


def _width(layer: Layer) -> int:
    """Channels that a layer makes."""
    kernel = _kernel(layer)
    if kernel is None:
        return layer.by_role["gamma"].size
    return kernel.shape[-1] * (kernel.shape[-2] if _depthwise(layer) else 1)


def _made(layer: Layer, found: Found, values: dict[str, np.ndarray]) -> np.ndarray:
    """The range of the weights that make each channel; a batch normalization's folded in."""
    kernel = _kernel(layer)
    if kernel is not None:
        weights = np.abs(values[kernel.name])
        weights = weights.reshape(-1, _width(layer)) if weights.size else weights
        most: np.ndarray = weights.max(axis=0).astype(np.float64)
        return most
    roles = {tensor.role: values[tensor.name].astype(np.float64) for tensor in layer.tensors}
    epsilon = float(layer.config.get("epsilon", 1e-3))
    gain = np.abs(roles["gamma"])
    source = found.normalized.get(layer.name)
    if source is None:
        return gain
    folded: np.ndarray = gain / np.sqrt(roles["moving_variance"] + epsilon)
    return folded * _made(source, found, values)


def _read(
    layer: Layer, values: dict[str, np.ndarray], width: int, *, flat: bool
) -> np.ndarray | None:
    """The range of the weights that read each channel; None where these are in another order."""
    kernel = _kernel(layer)
    assert kernel is not None
    moved = np.moveaxis(values[kernel.name], _in_axis(kernel, layer), 0)
    if len(moved) != width and not (flat and len(moved) % width == 0):
        return None
    parts = np.abs(moved.reshape(-1, width, moved[0].size))
    most: np.ndarray = parts.max(axis=(0, 2)).astype(np.float64)
    return most


def _in_axis(kernel: Tensor, layer: Layer) -> int:
    return len(kernel.shape) - 2 if _depthwise(layer) else (kernel.in_axis or 0)


def _scale(region: Region, factors: np.ndarray, values: dict[str, np.ndarray]) -> None:
    """Moves the factors, in place."""
    for layer in region.makers:
        kernel = _kernel(layer)
        roles = {"gamma", "beta"} if kernel is None else {"bias"}
        if kernel is not None:
            shape = values[kernel.name].shape
            flat = values[kernel.name].reshape(-1, factors.size)
            values[kernel.name] = (flat / factors).astype(flat.dtype).reshape(shape)
        for tensor in layer.tensors:
            if tensor.role in roles:
                array = values[tensor.name]
                values[tensor.name] = (array / factors).astype(array.dtype)
    for layer in region.readers:
        kernel = _kernel(layer)
        assert kernel is not None
        axis = _in_axis(kernel, layer)
        moved = np.moveaxis(values[kernel.name], axis, 0)
        each = np.tile(factors, len(moved) // factors.size)
        scaled = moved * each.reshape(-1, *(1,) * (moved.ndim - 1))
        back = np.moveaxis(scaled.astype(moved.dtype), 0, axis)
        values[kernel.name] = np.ascontiguousarray(back)


def _pin(values: np.ndarray) -> Edit:
    def edit(before: np.ndarray, encoding: Encoding) -> Rewrite:
        del before

        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            return values[rows].astype(part.dtype, copy=False)

        return Rewrite(encoding, block)

    return edit

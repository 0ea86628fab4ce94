"""Statistics put right: each layer's output gets back the mean and variance that it had.

A change of weights moves the mean of a layer's outputs and shrinks or widens their spread, and what
comes after was trained for others. The mean goes into the bias (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.2, here with calibration
samples), both go into the statistics of a batch normalization (Finkelstein et al. 2019, "Fighting
Quantization Bias With Bias"; Sun et al. 2019, "Hybrid 8-bit Floating Point", section 3.2). Layers
are corrected in order, each on what the corrected ones before it give. Labels are not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field

from modelcut.graph.keras.classes import get
from modelcut.model.encoding import Encoding
from modelcut.model.model import Layer, Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import Context, Need, Outcome, Step
from modelcut.steps.samples import Samples

if TYPE_CHECKING:
    from modelcut.runtime import Running
    from modelcut.steps.operands import Operand

How: TypeAlias = Literal["bias", "batchnorm", "both"]

_NORMS = (
    "BatchNormalization",
    "BatchNormalizationV1",
    "BatchNormalizationV2",
    "SyncBatchNormalization",
)
_STATES = ("moving_mean", "moving_variance")


class Corrected(Step):
    """A step that changes weights, and can put the statistics of the layers' outputs right."""

    correct: How | None = Field(
        default=None,
        description="After the step, match the means (and, at a batch normalization, the "
        "variances) of the layers' outputs to those before it, over calibration samples: in the "
        "biases, in the statistics of the batch normalizations, or both. Labels are not needed.",
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="Maximum number of calibration samples to use; labels are not needed.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"calibration"} if self.correct else super().needs

    def finished(self, model: Model, outcome: Outcome, context: Context) -> Outcome:
        """The outcome, corrected if that was asked for."""
        if self.correct is None or outcome.model is model:
            return outcome
        samples = Samples(context.required_runtime(self.title), context, self.rows, self.title)
        matcher = Matcher(model, samples, self.correct, context)
        found, facts = corrected(outcome.model, matcher, samples, context)
        return replace(outcome, model=found, facts={**outcome.facts, "correction": facts})


@dataclass(frozen=True)
class _Moments:
    """Mean and variance of each channel, float64."""

    mean: np.ndarray
    variance: np.ndarray

    def same(self, other: _Moments) -> bool:
        return np.array_equal(self.mean, other.mean) and np.array_equal(
            self.variance, other.variance
        )


@dataclass(frozen=True)
class _Bias:
    """A bias, and the kernel whose outputs it is added to."""

    bias: Tensor
    operand: Operand


class Matcher:
    """The statistics of a network, which a changed one is to have."""

    def __init__(self, model: Model, samples: Samples, how: How, context: Context) -> None:
        """Runs the network over the samples once.

        Args:
            model: the network whose statistics are wanted.
            samples: what it runs on.
            how: which statistics are put right, and so are needed.
            context: of the step.
        """
        self._samples, self._how = samples, how
        self._title, self._say = samples.title, context.say
        key = ("statistics", id(model), how, samples.most)
        if key not in context.memo:
            context.memo[key] = self._measured(model)
        self._wanted: dict[str, Any] = context.memo[key]
        self.changed: dict[str, list[str]] = {"bias": [], "batchnorm": []}

    def _measured(self, model: Model) -> dict[str, Any]:
        self._say(f"{self._title}: statistics of the network as it was")
        running = self._samples.runtime.open(model)
        sites = {layer.name: site for layer in model.layers if (site := self._site(layer))}
        found: dict[str, Any] = dict(self._look(running, sites))
        for name, site in sites.items():
            if isinstance(site, Layer):
                roles = ("gamma", "beta", *_STATES)
                tensors = [t for t in site.tensors if t.role in roles]
                values = running.read([t.name for t in tensors])
                found[name] = found[name], {t.role: values[t.name] for t in tensors}
        return found

    def _site(self, layer: Layer) -> _Bias | Layer | None:
        """What of a layer can be put right."""
        if layer.class_name in _NORMS and {*_STATES} <= set(layer.by_role):
            return layer if self._how in ("batchnorm", "both") else None
        return _bias_of(layer) if self._how in ("bias", "both") else None

    def _look(
        self, running: Running, sites: Mapping[str, _Bias | Layer]
    ) -> dict[str, _Moments | np.ndarray]:
        """The statistics of some layers of a network, in one pass."""
        sums: dict[str, _MomentsSum | _MeanSum] = {
            name: _MomentsSum(site) if isinstance(site, Layer) else _MeanSum(name, site)
            for name, site in sites.items()
        }
        for _, found in self._samples.inputs(running, list(sums)) if sums else ():
            for name, calls in found.items():
                for given in calls:
                    sums[name].add(given, running)
        return {name: each.result(running) for name, each in sums.items()}

    def fix(
        self, running: Running, layer: Layer, among: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """The tensors of a layer of the changed network that put its statistics right.

        Args:
            running: the changed network, all layers before this one corrected.
            layer: of the changed network.
            among: names of the tensors that may be changed; None: all.

        Returns:
            New values by name, written into the running copy too; none where nothing moved.
        """
        site = self._site(layer)
        wanted = self._wanted.get(layer.name)
        if site is None or wanted is None:
            return {}
        now = self._look(running, {layer.name: site})[layer.name]
        if isinstance(now, _Moments):
            assert isinstance(site, Layer)
            before, roles = wanted
            if before.mean.shape != now.mean.shape or before.same(now):
                return {}
            found = _normalized(running, site, before, roles, now)
        else:
            assert isinstance(site, _Bias)
            if wanted.shape != now.shape or np.array_equal(wanted, now):
                return {}
            bias = running.read([site.bias.name])[site.bias.name]
            found = {site.bias.name: (bias + (wanted - now).reshape(bias.shape))}
        finite = all(np.isfinite(values).all() for values in found.values())
        found = {name: v for name, v in found.items() if among is None or name in among}
        if not finite or not found:
            return {}
        names = {tensor.name: tensor for tensor in layer.tensors}
        found = {name: values.astype(names[name].dtype) for name, values in found.items()}
        running.write(found)
        self.changed["batchnorm" if isinstance(site, Layer) else "bias"].append(layer.name)
        return found


def corrected(
    model: Model, matcher: Matcher, samples: Samples, context: Context
) -> tuple[Model, dict[str, Any]]:
    """A changed model with its statistics put right, and what was done."""
    running = samples.runtime.open(model)
    values: dict[str, np.ndarray] = {}
    for layer in model.layers:
        context.say(f"{samples.title}: statistics of {layer.name}")
        values.update(matcher.fix(running, layer))
    return pinned_all(model, values, context), {"samples": samples.count, **matcher.changed}


def pinned_all(model: Model, values: dict[str, np.ndarray], context: Context) -> Model:
    """The model with new values for some tensors, each still in its encoding."""
    changed = {
        tensor.name: tensor.then(context.index, _pin(values[tensor.name]), tensor.kinds)
        for tensor in model.tensors
        if tensor.name in values
    }
    return model.with_tensors(changed)


def _pin(values: np.ndarray) -> Edit:
    def edit(_: np.ndarray, encoding: Encoding) -> Rewrite:
        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            del part
            return encoding.project(values[rows], rows)

        return Rewrite(encoding, block)

    return edit


def _bias_of(layer: Layer) -> _Bias | None:
    """The bias of a layer whose outputs are sums of inputs, and what makes these."""
    biases = [tensor for tensor in layer.tensors if tensor.kind == "bias"]
    if len(biases) != 1 or any(tensor.kind == "recurrent" for tensor in layer.tensors):
        return None
    from modelcut.steps.operands import operand  # pruning alone has no need of it

    kernels = [tensor for tensor in layer.tensors if tensor.kind == "kernel"]
    found = operand(layer, kernels[-1]) if kernels else ""
    if isinstance(found, str):
        return None
    groups, _, outputs = found.sizes
    return _Bias(biases[0], found) if biases[0].size == groups * outputs else None


class _MeanSum:
    """Sums up what a kernel multiplies."""

    def __init__(self, name: str, site: _Bias) -> None:
        self._name, self._operand = name, site.operand
        self._total, self._count = np.zeros(site.operand.sizes[:2]), 0

    def add(self, given: np.ndarray, running: Running) -> None:
        def read(role: str) -> np.ndarray:
            whole = f"{self._name}/{role}"
            return running.read([whole])[whole]

        for part in self._operand.rows(given, read, 1 << 62):
            self._total += part.sum(axis=1, dtype=np.float64)
            self._count += part.shape[1]

    def result(self, running: Running) -> np.ndarray:
        """Mean of the layer's outputs before its bias, float64 (groups, outputs)."""
        kernel = self._operand.kernel.name
        weights = self._operand.split(running.read([kernel])[kernel]).astype(np.float64)
        mean = self._total / max(1, self._count)
        found: np.ndarray = np.matmul(mean[:, None], weights)[:, 0]
        return found


class _MomentsSum:
    """Sums up what goes into a batch normalization, by channel."""

    def __init__(self, layer: Layer) -> None:
        axis = get(layer.config, "axis", default=-1)
        self._axis = int(axis[0] if isinstance(axis, (list, tuple)) else axis)
        self._channels = layer.by_role["moving_mean"].size
        self._count = 0
        self._total, self._squares = np.zeros(self._channels), np.zeros(self._channels)

    def add(self, given: np.ndarray, running: Running) -> None:
        del running
        flat = np.moveaxis(given, self._axis, -1).reshape(-1, self._channels).astype(np.float64)
        self._count += len(flat)
        self._total += flat.sum(axis=0)
        self._squares += np.einsum("ij,ij->j", flat, flat)

    def result(self, running: Running) -> _Moments:
        del running
        mean = self._total / max(1, self._count)
        return _Moments(mean, np.maximum(self._squares / max(1, self._count) - mean**2, 0))


def _normalized(
    running: Running, layer: Layer, before: _Moments, old: dict[str, np.ndarray], now: _Moments
) -> dict[str, np.ndarray]:
    """Mean and variance with which a batch normalization gives what it gave before.

    A channel that has become constant, or was, gets its mean only.
    """
    tensors = {tensor.role: tensor.name for tensor in layer.tensors}
    read = running.read(list(tensors.values()))
    own = {role: read[name].astype(np.float64) for role, name in tensors.items()}
    epsilon = float(get(layer.config, "epsilon", default=1e-3))
    spread = np.sqrt(old["moving_variance"].astype(np.float64) + epsilon)
    ones, zeros = np.ones(spread.shape), np.zeros(spread.shape)
    gain, own_gain = old.get("gamma", ones).astype(np.float64), own.get("gamma", ones)
    shift, own_shift = old.get("beta", zeros).astype(np.float64), own.get("beta", zeros)
    wanted_mean = gain * (before.mean - old["moving_mean"]) / spread + shift
    wanted_spread = np.abs(gain) * np.sqrt(before.variance) / spread
    sigma = np.sqrt(own["moving_variance"] + epsilon)
    made = np.abs(own_gain) * np.sqrt(now.variance)
    floor = 1e-6 * (np.abs(now.mean) + np.sqrt(before.variance) + 1e-12)
    alive = (wanted_spread > 0) & (np.sqrt(now.variance) > floor)
    ratio = np.divide(made, wanted_spread, out=sigma.copy(), where=alive)
    variance = np.maximum(ratio**2 - epsilon, 0)
    variance = np.where(alive, variance, own["moving_variance"])
    sigma = np.sqrt(variance + epsilon)
    on = own_gain != 0
    offset = np.divide(wanted_mean - own_shift, own_gain, out=np.zeros_like(sigma), where=on)
    mean = np.where(on, now.mean - sigma * offset, own["moving_mean"])
    return {tensors["moving_mean"]: mean, tensors["moving_variance"]: variance}

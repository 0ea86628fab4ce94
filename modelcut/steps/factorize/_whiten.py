"""What goes into the layers of the running network, so that the error of their outputs is small.

The squared error of a layer's outputs over samples X is tr(Δᵀ XᵀX Δ) for a change Δ of its kernel.
Ranks and factors are chosen by XᵀX of the network as it is. Then the layers are done in order: the
last kernel of each chain is fitted by least squares to the outputs of the untouched network, on
what the layers before it, factorized already, give it (Zhang et al. 2016, the asymmetric
reconstruction), and the mean of the error is taken off by the bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from modelcut.errors import RecipeError
from modelcut.steps.base import Context
from modelcut.steps.factorize._parts import Factors
from modelcut.steps.factorize._target import Target, as_stored
from modelcut.steps.patches import Patches

if TYPE_CHECKING:
    from modelcut.runtime import Part, Rows, Running, Runtime

MOST_INPUTS = 8192
"""Of wider kernels there is no XᵀX, only that of their outputs: 512 MiB of float64."""
_PLACES = 32768
"""So many places are looked at, or eight for each input if those are more."""
_BYTES = 1 << 28
"""What all layers are given for one batch may take about so much."""


def wide(matrix: np.ndarray) -> np.ndarray:
    """In float32, or in float64 if it is."""
    kind = np.float64 if matrix.dtype.itemsize == 8 else np.float32
    return matrix.astype(kind, copy=False)


@dataclass(frozen=True)
class Statistics:
    """Means over the places that were looked at.

    Attributes:
        gram: of what goes under the kernel, (d, d), its mean taken off where there is a bias; None:
            too wide.
        outputs: the same of the kernel's outputs, (outputs, outputs).
        mean: of what goes under the kernel, (d,); None: the layer has no bias to correct.
        places: how many there were.
    """

    gram: np.ndarray | None
    outputs: np.ndarray
    mean: np.ndarray | None
    places: int

    def error(self, matrix: np.ndarray, factors: Factors) -> float:
        """The squared error of the outputs over their square; of the bias nothing is left."""
        total = float(np.trace(self.outputs))
        if self.gram is None or total <= 0:
            return 0.0
        delta = matrix.astype(np.float64) - factors.product(slice(None))
        return max(0.0, float(np.sum(delta * (self.gram @ delta)))) / total

    def refitted(self, matrix: np.ndarray, factors: Factors) -> Factors:
        """The last kernel by least squares, and the bias for it."""
        if self.gram is None:
            return factors
        exact = matrix.astype(np.float64)
        goal = self.gram @ exact
        made = None if self.mean is None else self.mean @ exact
        return _fit(factors, self.gram, goal, self.mean, made, self.places)

    def roots(self, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        """Square root and its inverse of the covariance of the channels that go in, (inputs,) * 2.

        Places under the window are taken to be alike; of a wide kernel, the channels too.
        """
        if self.gram is None:
            return np.eye(inputs), np.eye(inputs)
        places = len(self.gram) // inputs
        blocks = self.gram.reshape(places, inputs, places, inputs)
        squares, vectors = np.linalg.eigh(np.einsum("ksku->su", blocks) / places)
        roots = np.sqrt(np.maximum(squares, 1e-6 * max(float(squares[-1]), 1e-30)))
        return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _fit(
    factors: Factors, gram: np.ndarray, goal: np.ndarray, mean: np.ndarray | None,
    made: np.ndarray | None, places: int,
) -> Factors:  # fmt: skip
    """The least squares fit of the last kernel, from the one it has.

    Args:
        factors: of which the last is fitted.
        gram: of what goes in, (d, d).
        goal: its products with the outputs that are wanted, (d, outputs).
        mean: of what goes in, (d,); None: there is no bias.
        made: of the outputs that are wanted, without the bias, (outputs,).
        places: how many the means are of.
    """
    features = factors.features.astype(np.float64)
    small = features.T @ gram @ features
    rest = features.T @ (goal - gram @ (features @ factors.last))
    width = len(small)
    damp = (1e-6 + 0.1 * width / max(1, places)) * max(float(np.trace(small)) / width, 1e-30)
    small[np.diag_indices_from(small)] += damp
    last = factors.last + np.linalg.solve(small, rest)
    bias = None
    if mean is not None and made is not None:
        bias = made - (mean @ features) @ last
    return replace(factors, last=last.astype(factors.last.dtype), bias=bias)


@dataclass
class _Sums:
    """What is summed up of one layer: of what goes in, and of the outputs that are wanted."""

    target: Target
    matrix: np.ndarray
    most: int
    rng: np.random.Generator
    gram: np.ndarray | None = None
    goal: np.ndarray | None = None
    outputs: np.ndarray | None = None
    mean: np.ndarray | None = None
    made: np.ndarray | None = None
    energy: float = 0.0
    count: int = 0

    def add(self, share: float, given: np.ndarray, before: np.ndarray | None = None) -> None:
        """Adds what goes into one call.

        Args:
            share: fraction of the places that are to be looked at.
            given: what goes in, (rows, …).
            before: of the same samples, what went in before anything was factorized.
        """
        if self.target.kind == "embedding":
            self._add_rows(given)
            return
        both = [given] if before is None else [given, before]
        rows, *others = _sampled(self.target, both, max(1, round(self.most * share)), self.rng)
        self.count += len(rows)
        self.mean = _plus(self.mean, rows.sum(axis=0, dtype=np.float64))
        if self.target.depth <= MOST_INPUTS:
            self.gram = _plus(self.gram, rows.T @ rows)
        if others or self.target.depth > MOST_INPUTS:
            made = (others or [rows])[0] @ self.matrix
            self.made = _plus(self.made, made.sum(axis=0, dtype=np.float64))
            self.energy += float(np.square(made, dtype=np.float64).sum())
            if others and self.gram is not None:
                self.goal = _plus(self.goal, rows.T @ made)
            if not others:
                self.outputs = _plus(self.outputs, made.T @ made)

    def _add_rows(self, given: np.ndarray) -> None:
        """Of an embedding: each row as often as it is looked up."""
        numbers = given.astype(np.int64).ravel()
        numbers = numbers[(numbers >= 0) & (numbers < len(self.matrix))]
        counts = np.bincount(numbers, minlength=len(self.matrix))
        self.count += numbers.size
        made = (self.matrix * counts[:, None]).T @ self.matrix
        self.outputs = _plus(self.outputs, made)

    def statistics(self) -> Statistics:
        """Of what goes in, and of the outputs that the kernel makes of it."""
        count = max(1, self.count)
        exact = self.matrix.astype(np.float64)
        mean = None
        if self.target.bias is not None and self.mean is not None:
            mean = self.mean / count
        gram = None
        if self.gram is not None:
            gram = self.gram / count - (0 if mean is None else np.outer(mean, mean))
            outputs = exact.T @ gram @ exact
        else:
            assert self.outputs is not None
            outputs = self.outputs / count
            if mean is not None:
                outputs = outputs - np.outer(mean @ exact, mean @ exact)
        return Statistics(gram, outputs, mean, self.count)

    def fitted(self, factors: Factors) -> tuple[Factors, float]:
        """The factors fitted to the outputs that are wanted, and the squared error left of them.

        Of a wide kernel the bias alone is fitted, and the error is not known (NaN).
        """
        assert self.mean is not None
        assert self.made is not None
        mean, made = self.mean / self.count, self.made / self.count
        if self.gram is None or self.goal is None:
            if self.target.bias is None:
                return factors, float("nan")
            bias = made - (mean @ factors.features) @ factors.last
            return replace(factors, bias=bias), float("nan")
        gram, goal = self.gram / self.count, self.goal / self.count
        energy = self.energy / self.count
        if self.target.bias is None:
            result = _fit(factors, gram, goal, None, None, self.count)
        else:
            gram, goal = gram - np.outer(mean, mean), goal - np.outer(mean, made)
            energy -= float(made @ made)
            result = _fit(factors, gram, goal, mean, made, self.count)
        whole = result.features.astype(np.float64) @ result.last
        error = float(np.sum(whole * (gram @ whole)) - 2 * np.sum(whole * goal)) + energy
        return result, max(0.0, error) / max(energy, 1e-300)


def _plus(total: np.ndarray | None, more: np.ndarray) -> np.ndarray:
    return more.astype(np.float64) if total is None else total + more


def _sampled(
    target: Target, given: Sequence[np.ndarray], most: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """What goes under the kernel at some places, float32 (places, d); the same places of each."""
    views = []
    for array in given:
        if target.layer.class_name == "TimeDistributed":
            array = array.reshape(-1, *array.shape[2:])
        if target.kind == "conv":
            views.append(Patches(target.inner.config, target.size).view(array))
        else:
            views.append(array.reshape(-1, target.depth))
    kernel = len(target.size) + 1 if target.kind == "conv" else 1
    shape = views[0].shape[:-kernel]
    total = int(np.prod(shape, dtype=np.int64))
    chosen = np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False))
    index = np.unravel_index(chosen, shape)
    return [view[index].reshape(len(chosen), -1).astype(np.float32, copy=False) for view in views]


def some_rows(
    runtime: Runtime, running: Running, size: int, most: int, context: Context
) -> Iterator[Rows]:
    """At most so many training samples, those left out on which something is judged."""
    size, share = min(size, most), context.set_aside
    part: Part = "train" if share else "all"
    taken = runtime.rows(running, size, part=part, share=share, shuffle=context.seed)
    for number, rows in enumerate(islice(taken, -(-most // size))):
        yield rows[: most - number * size]


def _batch(targets: Sequence[Target]) -> int:
    """Samples at a time, so that what all these layers are given fits."""
    sizes = [int(np.prod([n or 64 for n in target.given or (64,)])) for target in targets]
    return int(np.clip(_BYTES // (4 * max(1, sum(sizes))), 1, 64))


def _sums_of(target: Target, matrix: np.ndarray, context: Context) -> _Sums:
    most = max(_PLACES, 8 * target.depth)
    rng = np.random.default_rng([context.seed, context.index, *target.layer.name.encode()])
    return _Sums(target, matrix, most, rng)


def survey(
    targets: Sequence[Target], matrices: Mapping[str, np.ndarray], running: Running,
    rows: int, context: Context, title: str,
) -> tuple[dict[str, Statistics], int]:  # fmt: skip
    """The statistics of each target, by its name, and how many samples there were."""
    assert context.runtime is not None
    sums = {t.layer.name: _sums_of(t, matrices[t.layer.name], context) for t in targets}
    seen = 0
    batch = _batch(targets)
    for part in some_rows(context.runtime, running, batch, rows, context):
        context.say(f"{title}: inputs of {len(targets)} layers, {seen} of {rows} samples")
        given = running.layer_inputs(part, list(sums))
        for name, one in sums.items():
            for call in given[name]:
                one.add(len(part) / rows / len(given[name]), call)
        seen += len(part)
    found = {name: one.statistics() for name, one in sums.items()}
    for name, statistics in found.items():
        if not np.isfinite(statistics.outputs).all():
            raise RecipeError(
                f"{title}: {name} or what goes into it is NaN or infinite",
                "check the data's scale, or exclude that layer",
            )
    return found, seen


def in_order(
    chosen: Sequence[tuple[Target, Factors]],
    runnings: tuple[Running, Running],
    rows: int,
    context: Context,
    title: str,
) -> dict[str, tuple[Factors, float]]:
    """The factors fitted layer by layer, each on what the network before it gives now.

    Args:
        chosen: the targets with their factors, in the order of the network.
        runnings: the network as it is, and a copy which is changed.
        rows: samples to use.
        context: of the step.
        title: of the step, for messages.

    Returns:
        By name: the factors, and the relative squared error of the layer's outputs, what the
        layers before it have changed included.
    """
    assert context.runtime is not None
    before, now = runnings
    found: dict[str, tuple[Factors, float]] = {}
    for target, factors in chosen:
        name, matrix = target.layer.name, wide(target.matrix())
        if target.kind == "embedding":
            found[name] = factors, float("nan")
        else:
            sums = _sums_of(target, matrix, context)
            for part in some_rows(context.runtime, before, _batch([target]), rows, context):
                pairs = zip(
                    now.layer_inputs(part, [name])[name],
                    before.layer_inputs(part, [name])[name],
                    strict=True,
                )
                for here, there in pairs:
                    sums.add(len(part) / rows, here, there)
            context.say(f"{title}: {name}, fitting")
            found[name] = sums.fitted(factors)
        now.write(_changed(target, found[name][0]))
    return found


def _changed(target: Target, factors: Factors) -> dict[str, np.ndarray]:
    """The tensors of the layer as the chain would have them, by name."""
    whole = factors.product(slice(None))
    widths = [kernel.shape[-1 if k is None else k] for kernel in target.kernels
              for k in [kernel.out_axis]]  # fmt: skip
    values = {}
    for kernel, part in zip(
        target.kernels, np.split(whole, np.cumsum(widths)[:-1], axis=1), strict=True
    ):
        shaped = part.reshape(*target.size, target.inputs, -1) if target.size else part
        values[kernel.name] = as_stored(shaped, kernel, len(target.size)).astype(kernel.dtype)
    bias = target.bias
    if bias is not None and factors.bias is not None:
        values[bias.name] = (bias.pull()[0] + factors.bias).astype(bias.dtype)
    return values

"""Splits a dense layer into two by the truncated singular value decomposition.

W of m × n becomes (U √S)(√S V) of ranks k: the best product of that rank (Eckart and Young 1936);
as a compression of networks, Denton et al. 2014, section 3.1. Both factors carry the square root
of the singular values, so that a quantizer after it sees two ranges alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from modelcut.arrays.blocks import row_blocks
from modelcut.graph.architecture import Architecture, Refusal
from modelcut.model.encoding import Dense
from modelcut.model.measure import change, difference
from modelcut.model.model import Layer, Model, Source, Tensor
from modelcut.steps.base import CODED, Context, Need, Outcome
from modelcut.steps.strength import Budgeted, Strength


class Svd(Budgeted):
    """Factorize dense layers into two of lower rank by SVD, where that is smaller."""

    strength: ClassVar[Strength] = Strength(
        "energy", (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5), instead=("rank", "ratio")
    )
    refuses: ClassVar[dict[str, str]] = {
        **CODED,
        "sparse": "the factors of a sparse matrix are not sparse",
    }

    rank: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Rank of the factors: the width between the two layers."
    )
    energy: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Fraction of the sum of squared singular values to keep, such as 0.95.",
    )
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Maximum fraction of the layer's weights to keep, such as 0.25."
    )

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"graph"}

    def apply(self, model: Model, context: Context) -> Outcome:
        """See `Step`; the factors are computed here, once, and kept: they are the smaller part."""
        self.architecture_of(model, context, "a layer cannot be split")
        chosen, skipped = self.select(model, context)
        names = {tensor.name for tensor in chosen}
        facts: dict[str, Any] = {"layers": {}}
        for layer in model.layers:
            kernel = next((t for t in layer.tensors if t.name in names), None)
            if kernel is None:
                continue
            result = self.settings(layer, kernel)._split(model, layer, kernel, context)
            if isinstance(result, str):
                skipped.update({t.name: result for t in layer.tensors if t.name in names})
            else:
                model, facts["layers"][layer.name] = result
        return Outcome(model, facts, skipped)

    def _split(
        self, model: Model, layer: Layer, kernel: Tensor, context: Context
    ) -> tuple[Model, dict[str, Any]] | str:
        """The model with one layer split and what was decided; or why it was skipped."""
        config = _dense_config(layer)
        if config is None:
            return f"{layer.class_name or 'a layer without a class'} is not a dense layer"
        if kernel.role.rpartition("/")[2] != "kernel" or len(kernel.shape) != 2:
            return "is not the kernel of a dense layer"
        m, n = kernel.shape
        most = (m * n - 1) // (m + n)  # the largest rank that is smaller than the layer
        if most < 1:
            return f"{m}×{n} cannot become smaller"
        if self.rank is not None and self.rank > most:
            return f"rank {self.rank} would not be smaller (at most {most})"
        context.say(f"{self.title}: {layer.name}")
        values, _ = kernel.pull()
        if not np.isfinite(values).all():
            return "holds NaN or infinite values"
        found = _decompose(values.astype(np.float64 if kernel.dtype.itemsize == 8 else np.float32))
        rank = self._rank(found.singular, m, n)
        if rank > most:
            return f"rank {rank} keeps the energy, which would not be smaller (at most {most})"
        left, right = found.factors(rank)
        left, right = left.astype(kernel.dtype), right.astype(kernel.dtype)
        architecture = model.architecture
        assert architecture is not None
        name = _free_name(architecture, layer.path)
        first, second = _configs(layer, config, name, rank)
        try:
            edited = architecture.split(layer.path, (name, first), second, rank)
        except Refusal as reason:
            return f"cannot be split: {reason}"
        energy = float(np.sum(found.singular[:rank] ** 2) / max(found.total, 1e-300))
        made = _layers(layer, kernel, edited, name, (left, right))
        fact = {"rank": rank, "of": min(m, n), "energy": energy, **_error(values, left, right)}
        return model.with_layer(layer.path, made, edited), fact

    def _rank(self, singular: np.ndarray, m: int, n: int) -> int:
        if self.rank is not None:
            return self.rank
        if self.ratio is not None:
            return max(1, int(self.ratio * m * n / (m + n)))
        assert self.energy is not None
        kept = np.cumsum(singular.astype(np.float64) ** 2)
        if kept[-1] == 0:
            return 1
        return int(np.searchsorted(kept, self.energy * kept[-1] * (1 - 1e-12)) + 1)


@dataclass(frozen=True)
class _Decomposition:
    """Left singular vectors times singular values, or what gives them when the rank is known."""

    matrix: np.ndarray
    vectors: np.ndarray
    singular: np.ndarray
    tall: bool

    @property
    def total(self) -> float:
        return float(np.sum(self.singular.astype(np.float64) ** 2))

    def factors(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """M × k and k × n, whose product is the best approximation of that rank."""
        basis = self.vectors[:, :rank]
        root = np.sqrt(np.maximum(self.singular[:rank], np.finfo(np.float32).tiny))
        if self.tall:
            # W = (W V) V^T, the columns of W V having the singular values as their norms.
            return (self.matrix @ basis) / root, (basis * root).T
        return basis * root, ((basis.T @ self.matrix).T / root).T


def _decompose(matrix: np.ndarray) -> _Decomposition:
    """Singular values and the vectors of the shorter side, from that side's Gram matrix.

    The Gram matrix of the shorter side is summed in float64 block by block, so that a 25088 × 4096
    layer needs no square matrix of its longer side. Singular values below about 1e-7 of the
    largest drown in rounding; they carry 1e-14 of the energy.
    """
    m, n = matrix.shape
    tall = m >= n
    gram = np.zeros((min(m, n),) * 2)
    long = matrix if tall else matrix.T
    for rows in row_blocks(long.shape, 4 * matrix.itemsize):
        block = long[rows].astype(np.float64)
        gram += block.T @ block
    squares, vectors = np.linalg.eigh(gram)
    order = np.argsort(squares)[::-1]
    singular = np.sqrt(np.maximum(squares[order], 0))
    return _Decomposition(matrix, vectors[:, order].astype(matrix.dtype), singular, tall)


def _error(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """What the product loses, measured block by block."""
    wide = np.result_type(left.dtype, np.float32)
    right = right.astype(wide)
    parts = [
        difference(values[rows], left[rows].astype(wide) @ right)
        for rows in row_blocks(values.shape, values.itemsize)
    ]
    return change(parts).to_dict()


def _dense_config(layer: Layer) -> dict[str, Any] | None:
    """The configuration of the dense layer that this is, or that TimeDistributed repeats."""
    if layer.class_name == "Dense":
        return dict(layer.config)
    inner = layer.config.get("layer") if layer.class_name == "TimeDistributed" else None
    if isinstance(inner, dict) and inner.get("class_name") == "Dense":
        return dict(inner.get("config") or {})
    return None


def _free_name(architecture: Architecture, path: tuple[str, ...]) -> str:
    taken = architecture.names(path[:-1])
    name, number = f"{path[-1]}_factor", 2
    while name in taken:
        name, number = f"{path[-1]}_factor{number}", number + 1
    return name


_WIDTH_KEYS = ("units", "output_dim")
_INPUT_KEYS = ("batch_input_shape", "batch_shape", "input_shape", "input_dim")
_NO_BIAS = ("bias_regularizer", "bias_constraint", "activity_regularizer", "b_regularizer",
            "b_constraint", "kernel_constraint", "W_constraint")  # fmt: skip


def _configs(
    layer: Layer, dense: dict[str, Any], name: str, rank: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configurations of the narrow layer that comes first, and of the old one behind it."""
    first = {**dense, "name": f"{dense.get('name', name)}_factor", "activation": "linear"}
    first.update({key: rank for key in _WIDTH_KEYS if key in dense})
    first.update({key: None for key in _NO_BIAS if key in dense})
    first.update({key: False for key in ("use_bias", "bias") if key in dense})
    second = {key: value for key, value in dense.items() if key not in _INPUT_KEYS}
    if layer.class_name == "Dense":
        return {**first, "name": name}, second
    wrapper = dict(layer.config)
    entry = dict(wrapper["layer"])
    inner_first = {**entry, "config": first}
    inner_second = {**entry, "config": second}
    if isinstance(entry.get("build_config"), dict):
        shape = entry["build_config"].get("input_shape")
        if isinstance(shape, list):
            built = {**entry["build_config"], "input_shape": [*shape[:-1], rank]}
            inner_second["build_config"] = built
    outer = {key: value for key, value in wrapper.items() if key not in _INPUT_KEYS}
    return (
        {**wrapper, "name": name, "layer": inner_first},
        {**outer, "layer": inner_second},
    )


def _layers(
    layer: Layer,
    kernel: Tensor,
    architecture: Architecture,
    name: str,
    factors: tuple[np.ndarray, np.ndarray],
) -> tuple[Layer, Layer]:
    nodes = {node.path: node for node in architecture.nodes}
    path = (*layer.path[:-1], name)
    first, second = (
        replace(
            kernel,
            name=f"{'/'.join(where)}/{kernel.role}",
            shape=factor.shape,
            source=_pinned(factor),
            encoding=Dense(),
            edits=(),
            key="",
        )
        for where, factor in zip((path, layer.path), factors, strict=True)
    )
    rest = tuple(second if t is kernel else t for t in layer.tensors)
    one = Layer(path, layer.class_name, nodes[path].config, (first,), nodes[path])
    two = Layer(layer.path, layer.class_name, nodes[layer.path].config, rest, nodes[layer.path])
    return one, two


def _pinned(values: np.ndarray) -> Source:
    kept = np.ascontiguousarray(values)
    return Source(kept.copy, lambda count: kept.ravel()[:: max(1, kept.size // count)])

"""Sparsity that rises while the network trains (Zhu and Gupta 2017, section 3).

Weights are ranked by magnitude, or by how they moved: Sanh et al. 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from modelcut.errors import RecipeError
from modelcut.model.model import Layer, Model, Tensor
from modelcut.steps.base import TARGET_KINDS
from modelcut.steps.select import matches, optional

Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class SparsityTarget:
    """The final sparsity of one tensor, and whether an override sets it."""

    sparsity: float
    own: bool = False


class Gradual(BaseModel):
    """How sparsity rises."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sparsity: Fraction = Field(
        description="Final sparsity: the fraction of weights that are zero at the end."
    )
    criterion: Literal["magnitude", "movement"] = Field(
        default="magnitude",
        description="Pruning criterion: the magnitude of the weights, or their accumulated "
        "movement towards zero.",
    )
    schedule: Literal["cubic", "linear", "once"] = Field(
        default="cubic",
        description="Increase of the sparsity: cubic, linear, or in a single step.",
    )
    scope: Literal["layer", "global"] = Field(
        default="global",
        description="Compute one threshold over all layers, or one for each layer.",
    )
    begin: Fraction = Field(
        default=0.0, description="Fraction of the training steps after which pruning begins."
    )
    end: Fraction = Field(
        default=0.6,
        description="Fraction of the training steps after which the final sparsity is reached.",
    )
    include: list[str] = Field(
        default_factory=list, description="Prune only these layers or roles."
    )
    exclude: list[str] = Field(
        default_factory=list, description="Do not prune these layers or roles."
    )
    overrides: dict[str, Fraction] = Field(
        default_factory=dict,
        description="Final sparsity of individual layers: a mapping from pattern to fraction.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.begin > self.end:
            raise ValueError("prune: begin comes after end")
        return self

    def at(self, progress: float, start: float, end: float) -> float:
        """The sparsity after a fraction of the steps, from `start` to `end`."""
        if self.schedule == "once" or progress >= self.end:
            return end if progress >= self.begin else start
        if progress <= self.begin:
            return start
        left = 1 - (progress - self.begin) / (self.end - self.begin)
        return end + (start - end) * (left**3 if self.schedule == "cubic" else left)

    def targets(
        self, model: Model, trained: Mapping[str, Tensor], where: str
    ) -> dict[str, SparsityTarget]:
        """The final sparsity of each tensor that is pruned.

        Raises:
            RecipeError: a pattern matches nothing, or nothing is left to prune.
        """
        found: dict[str, SparsityTarget] = {}
        matched: set[str] = set()
        for layer in model.layers:
            for tensor in layer.tensors:
                if self._is_aimed_at(layer, tensor, matched) and tensor.name in trained:
                    target = SparsityTarget(self.sparsity)
                    for pattern, sparsity in self.overrides.items():
                        if matches(pattern, layer, tensor):
                            target = SparsityTarget(sparsity, own=True)
                    found[tensor.name] = target
        for pattern in (*self.include, *self.exclude, *self.overrides):
            if not optional(pattern) and not any(matches(pattern, one) for one in model.layers):
                raise RecipeError(
                    f"{where}: prune: {pattern!r} matches no layer",
                    "`modelcut inspect` lists the layers",
                )
        if not found:
            raise RecipeError(f"{where}: prune: no tensor is selected for pruning")
        return found

    def _is_aimed_at(self, layer: Layer, tensor: Tensor, matched: set[str]) -> bool:
        if any(matches(pattern, layer, tensor) for pattern in self.exclude):
            return False
        hits = [pattern for pattern in self.include if matches(pattern, layer, tensor)]
        matched.update(hits)
        if self.include and not hits:
            return False
        return tensor.kind in TARGET_KINDS or any(hit.startswith("role:") for hit in hits)

    def masks(
        self,
        scores: Mapping[str, np.ndarray],
        targets: Mapping[str, SparsityTarget],
        start: Mapping[str, float],
        progress: float,
    ) -> dict[str, np.ndarray]:
        """Which weights are kept after a fraction of the steps.

        Args:
            scores: scores of all weights by tensor name, including those that are zero now.
            targets: final sparsities, as `targets` returns them.
            start: the sparsity of each before the training.
            progress: fraction of the training steps that are done.
        """
        common = [name for name in targets if self.scope == "global" and not targets[name].own]
        masks = {
            name: largest(scores[name], self.at(progress, start[name], targets[name].sparsity))
            for name in targets
            if name not in common
        }
        if common:
            flat = np.concatenate([scores[name].ravel() for name in common])
            zeros = sum(start[name] * scores[name].size for name in common)
            kept = largest(flat, self.at(progress, zeros / max(1, flat.size), self.sparsity))
            start_at = 0
            for name in common:
                size = scores[name].size
                masks[name] = kept[start_at : start_at + size].reshape(scores[name].shape)
                start_at += size
        return masks


def largest(values: np.ndarray, sparsity: float) -> np.ndarray:
    """A mask that keeps the largest values; `sparsity` is the fraction pruned, ties by index."""
    flat = values.ravel()
    count = round(sparsity * flat.size)
    mask = np.ones(flat.size, bool)
    if count:
        limit = np.partition(flat, count - 1)[count - 1]
        below = flat < limit
        mask[below] = False
        ties = np.flatnonzero(flat == limit)
        mask[ties[: count - int(below.sum())]] = False
    return mask.reshape(values.shape)

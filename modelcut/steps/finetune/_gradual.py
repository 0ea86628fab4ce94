"""Sparsity that rises while the network trains (Zhu and Gupta 2017, section 3).

Which weights go is settled by their magnitude, or by how they moved: Sanh et al. 2020, section 3.
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

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class SparsityTarget:
    """The sparsity that one tensor is led to, and whether it is one of its own."""

    share: float
    own: bool = False


class Gradual(BaseModel):
    """How sparsity rises."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sparsity: Share = Field(
        description="Final sparsity: the fraction of weights that are zero at the end."
    )
    criterion: Literal["magnitude", "movement"] = Field(
        default="magnitude",
        description="Pruning criterion: the magnitude of the weights, or their accumulated "
        "movement towards zero.",
    )
    schedule: Literal["cubic", "linear", "once"] = Field(
        default="cubic",
        description="How the sparsity increases: along a cubic, linearly, or at once.",
    )
    scope: Literal["layer", "global"] = Field(
        default="global",
        description="Compute one threshold over all layers, or one for each layer.",
    )
    begin: Share = Field(
        default=0.0, description="Fraction of the training steps after which pruning begins."
    )
    end: Share = Field(
        default=0.6,
        description="Fraction of the training steps after which the final sparsity is reached.",
    )
    include: list[str] = Field(
        default_factory=list, description="Prune only these layers or roles."
    )
    exclude: list[str] = Field(
        default_factory=list, description="Do not prune these layers or roles."
    )
    overrides: dict[str, Share] = Field(
        default_factory=dict,
        description="Final sparsity of individual layers: a mapping from pattern to fraction.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.begin > self.end:
            raise ValueError("prune: begin comes after end")
        return self

    def at(self, progress: float, start: float, end: float) -> float:
        """The sparsity after a share of the steps, from `start` to `end`."""
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
                    for pattern, share in self.overrides.items():
                        if matches(pattern, layer, tensor):
                            target = SparsityTarget(share, own=True)
                    found[tensor.name] = target
        for pattern in (*self.include, *self.exclude, *self.overrides):
            if not optional(pattern) and not any(matches(pattern, one) for one in model.layers):
                raise RecipeError(
                    f"{where}: prune: {pattern!r} matches no layer",
                    "`modelcut inspect` lists the layers",
                )
        if not found:
            raise RecipeError(f"{where}: prune: nothing is left to prune")
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
        worth: Mapping[str, np.ndarray],
        targets: Mapping[str, SparsityTarget],
        start: Mapping[str, float],
        progress: float,
    ) -> dict[str, np.ndarray]:
        """Which weights are kept after a share of the steps.

        Args:
            worth: scores of all weights by tensor name, also of those that are zero now.
            targets: final sparsities, as `targets` returns them.
            start: the sparsity of each before the training.
            progress: fraction of the training steps that are done.
        """
        common = [name for name in targets if self.scope == "global" and not targets[name].own]
        masks = {
            name: largest(worth[name], self.at(progress, start[name], targets[name].share))
            for name in targets
            if name not in common
        }
        if common:
            flat = np.concatenate([worth[name].ravel() for name in common])
            zeros = sum(start[name] * worth[name].size for name in common)
            kept = largest(flat, self.at(progress, zeros / max(1, flat.size), self.sparsity))
            place = 0
            for name in common:
                size = worth[name].size
                masks[name] = kept[place : place + size].reshape(worth[name].shape)
                place += size
        return masks


def largest(values: np.ndarray, sparsity: float) -> np.ndarray:
    """A mask of the largest values, all but a share of them; ties by their place."""
    flat = values.ravel()
    gone = round(sparsity * flat.size)
    mask = np.ones(flat.size, bool)
    if gone:
        limit = np.partition(flat, gone - 1)[gone - 1]
        below = flat < limit
        mask[below] = False
        ties = np.flatnonzero(flat == limit)
        mask[ties[: gone - int(below.sum())]] = False
    return mask.reshape(values.shape)

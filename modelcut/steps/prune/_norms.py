"""What `l1` and `l2` have in common: whole filters or inputs, by their norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import Self

from modelcut.arrays import floats
from modelcut.errors import RecipeError
from modelcut.model.encoding import Encoding, Sparse
from modelcut.model.model import Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import NOT_FINITE, Context, Outcome
from modelcut.steps.prune._groups import keep_one, lowest, under
from modelcut.steps.prune._iterated import Finetune, Iterated, Rounds, Until
from modelcut.steps.strength import Strength


class Norms(Iterated):
    """Zeroes the groups of smallest norm; see the methods."""

    order: ClassVar[int]
    strength: ClassVar[Strength] = Strength(
        "sparsity",
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        instead=("threshold", "cutoff"),
        along={"scope": "layer"},
    )
    global_fields: ClassVar[frozenset[str]] = frozenset({"scope", "of"})

    sparsity: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Fraction of the groups to prune."
    )
    threshold: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Prune the groups whose score is below this threshold."
    )
    of: Literal["filters", "inputs"] = Field(
        default="filters",
        description="Groups to prune: output channels (filters), or inputs. Channels that are "
        "the network's outputs are skipped unless include or overrides name the layer.",
    )
    scope: Literal["layer", "global"] = Field(
        default="global",
        description="With sparsity: rank the groups within each layer, or over all layers.",
    )
    relative: bool = Field(
        default=True,
        description="Divide each score by the layer's mean score, so that layers of different "
        "scale can be ranked together.",
    )
    standardize: bool = Field(
        default=False,
        description="Standardize each layer's weights to mean 0 and standard deviation 1 before "
        "computing norms.",
    )
    cutoff: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Prune the groups whose score is below this many times the mean score of the "
        "layer's remaining groups.",
    )
    until: Until = None
    finetune: Finetune = None
    rounds: Rounds = None

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",)

    def survey(
        self, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Any, dict[str, Any]]:
        """Scores every group, then decides which go."""
        del context
        scores: dict[str, np.ndarray] = {}
        pruned: dict[str, np.ndarray] = {}
        common: dict[str, np.ndarray] = {}
        for tensor, settings in targets:
            axis = self._axis(tensor)
            if axis is None:
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                values = tensor.pull()[0]
                found = settings._scores(values, axis)
            if settings.cutoff is not None:  # what is pruned is not left, whatever its score
                found[~_lives(values, axis)] = -1
            if not np.isfinite(found).all():
                continue
            scores[tensor.name] = found
            if settings.cutoff is not None:
                most = 1 if self.until is None else self.rounds or 0
                pruned[tensor.name] = under(found, settings.cutoff, most)
            elif settings.threshold is not None:
                pruned[tensor.name] = found < settings.threshold
            elif settings.sparsity == self.sparsity:
                common[tensor.name] = found
            else:
                assert settings.sparsity is not None
                pruned |= lowest({tensor.name: found}, settings.sparsity, together=False)
        if common:
            assert self.sparsity is not None
            pruned |= lowest(common, self.sparsity, together=self.scope == "global")
        spared = [name for name, mask in pruned.items() if keep_one(mask, scores[name])]
        facts: dict[str, Any] = {"groups": {name: int(mask.size) for name, mask in pruned.items()}}
        facts["removed"] = {name: int(mask.sum()) for name, mask in pruned.items()}
        if spared:
            facts["would_have_vanished"] = spared
        return pruned, facts

    def _axis(self, tensor: Tensor) -> int | None:
        return tensor.out_axis if self.of == "filters" else tensor.in_axis

    def _scores(self, values: np.ndarray, axis: int) -> np.ndarray:
        """The norm of each group per weight, so that width does not count; shape (groups,)."""
        work = values.astype(np.float32, copy=False)
        if self.standardize:
            deviation = float(work.std(dtype=np.float64)) or 1.0
            work = (work - np.float32(work.mean(dtype=np.float64))) / np.float32(deviation)
        others = tuple(i for i in range(values.ndim) if i != axis)
        powers = np.abs(work) if self.order == 1 else np.square(work)
        score = powers.mean(axis=others, dtype=np.float64) ** (1 / self.order)
        mean = float(score.mean()) if score.size else 0.0
        return score / mean if self.relative and mean > 0 else score

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del context
        axis = self._axis(tensor)
        if axis is None:
            return f"has no axis of {self.of}"
        if tensor.name not in survey:
            return NOT_FINITE
        shape = tuple(n if i == axis else 1 for i, n in enumerate(tensor.shape))
        pruned = survey[tensor.name].reshape(shape)

        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            mask = pruned[rows] if axis == 0 else pruned
            return floats.masked(part, ~(mask | (part == 0)))

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            del values
            return Rewrite(Sparse(encoding.unmasked, self.of), block)

        return plan

    def select(self, model: Any, context: Context) -> tuple[list[Tensor], dict[str, str]]:
        chosen, skipped = super().select(model, context)
        if chosen and all(self._axis(tensor) is None for tensor in chosen):
            raise RecipeError(
                f"step {context.index + 1}, {self.title}: none of the selected tensors has an axis "
                f"of {self.of}"
            )
        if self.of == "filters":
            from modelcut.steps import outlets

            reasons = outlets.spared(model, self.include, self.overrides)
            skipped |= {t.name: reasons[t.name] for t in chosen if t.name in reasons}
            chosen = [tensor for tensor in chosen if tensor.name not in reasons]
        return chosen, skipped

    def apply(self, model: Model, context: Context) -> Outcome:
        from modelcut.steps import outlets

        outcome = super().apply(model, context)
        named = self.of == "inputs" or self.include or self.exclude
        if named or outlets.layers_of(model) is not None:
            return outcome
        warning = (
            f"{self.title}: {model.origin.path.name} does not say which layers give the network's "
            "outputs, so their filters may be among the removed; exclude those layers"
        )
        return replace(outcome, warnings=(*outcome.warnings, warning))

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))


def _lives(values: np.ndarray, axis: int) -> np.ndarray:
    """Which groups have a weight that is not zero."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    found: np.ndarray = np.any(values != 0, axis=others)
    return found

"""Removes the weights of smallest magnitude (Han et al. 2015, section 3)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.arrays import floats
from modelcut.model.encoding import Encoding, Sparse
from modelcut.model.model import Model, Tensor
from modelcut.model.rewrite import ByRows, Edit, Rewrite, leave
from modelcut.steps.base import NOT_FINITE, Context
from modelcut.steps.prune._groups import block_scores, lowest, of_blocks, outside_n_of_m
from modelcut.steps.prune._iterated import Finetune, Iterated, Positive, Rounds, Until, finite
from modelcut.steps.prune._smallest import Threshold, Walk, removal, sample_of, smallest, walk_of
from modelcut.steps.strength import SPARSITIES, Strength

_SAMPLES = 1 << 20
_TARGETS = ("sparsity", "threshold", "cutoff", "pattern")


class Magnitude(Iterated):
    """Prune the weights of smallest magnitude; existing zeros count towards the sparsity."""

    strength: ClassVar[Strength] = Strength(
        "sparsity", SPARSITIES, instead=_TARGETS[1:], along={"scope": "layer"}
    )
    global_fields: ClassVar[frozenset[str]] = frozenset({"scope", "block"})

    sparsity: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Sparsity: the fraction of weights that are zero after the step."
    )
    threshold: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Prune the weights whose magnitude is below this threshold."
    )
    cutoff: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Prune the weights within this many standard deviations of the layer's mean.",
    )
    scope: Literal["layer", "global"] = Field(
        default="layer",
        description="With sparsity: one threshold for each layer, or one over all layers, which "
        "suits networks whose layers have similar scale; where BatchNormalization follows, a "
        "global threshold can empty a layer.",
    )

    pattern: Annotated[str, Field(pattern=r"^[1-9][0-9]?:[1-9][0-9]?$")] | None = Field(
        default=None,
        description="n:m sparsity, such as 2:4: of every m neighboring weights along the input "
        "axis, the n largest are kept.",
    )
    block: tuple[Positive, Positive] | None = Field(
        default=None,
        description="[rows, columns]: with sparsity, prune whole blocks of the (input, output) "
        "axes, those of smallest mean magnitude; the sparsity is then the fraction of blocks. "
        "Blocks over all inputs skip the network's outputs, unless include or overrides name the "
        "layer.",
    )
    until: Until = None
    finetune: Finetune = None
    rounds: Rounds = None

    @model_validator(mode="after")
    def _targets_fit(self) -> Self:
        if self.pattern is not None and self._n_of_m[0] > self._n_of_m[1]:
            raise ValueError("pattern: n:m keeps n of m neighbors, so n is at most m")
        if self.block is not None and self.sparsity is None and self.budget is None:
            raise ValueError("block needs a sparsity")
        return self

    def select(self, model: Model, context: Context) -> tuple[list[Tensor], dict[str, str]]:
        chosen, skipped = super().select(model, context)
        if self.block is None:
            return chosen, skipped
        # A block over all inputs is a whole channel.
        from modelcut.steps import outlets

        reasons = outlets.spared(model, self.include, self.overrides)
        spared = {t.name for t in chosen if t.name in reasons and self._spans_inputs(t)}
        skipped |= {name: reasons[name] for name in spared}
        return [tensor for tensor in chosen if tensor.name not in spared], skipped

    def _spans_inputs(self, tensor: Tensor) -> bool:
        return (
            self.block is not None and len(tensor.shape) == 2 and self.block[0] >= tensor.shape[0]
        )

    @property
    def _n_of_m(self) -> tuple[int, int]:
        n, _, m = (self.pattern or "1:1").partition(":")
        return int(n), int(m)

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",)

    def survey(
        self, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Any, dict[str, Any]]:
        """What one layer cannot tell: a threshold over all, the rank of blocks, the rounds."""
        if self.block is not None:
            return self._survey_blocks(targets)
        if self.until is not None:
            most = self.rounds or 0
            found = {t.name: settings._rounds(t.pull()[0], most) for t, settings in targets}
            facts = {name: [left for _, _, left in rounds] for name, rounds in found.items()}
            return found, {} if self.rounds == 1 else {"nonzeros_after_each_round": facts}
        return self._survey_threshold(targets, context)

    def _survey_threshold(
        self, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[dict[str, Threshold], dict[str, Any]]:
        """For one threshold over all layers: the layers without a setting of their own."""
        common = [
            tensor
            for tensor, settings in targets
            if settings is self or settings.sparsity == self.sparsity
        ]
        if self.sparsity is None or self.scope == "layer" or not common:
            return {}, {}
        total = sum(tensor.size for tensor in common)
        fraction = _SAMPLES / max(1, total)
        samples = [np.abs(t.sample(max(256, int(fraction * t.size)))).ravel() for t in common]
        # Each tensor's sample must weigh as much as the tensor does.
        sample = np.concatenate(
            [
                np.resize(part.astype(np.float64), max(1, round(t.size * fraction)))
                if fraction < 1
                else part.astype(np.float64)
                for part, t in zip(samples, common, strict=True)
            ]
        )

        def walks() -> list[Walk]:
            return [tensor.map_rows for tensor in common]

        found = smallest(walks, sample, total, round(self.sparsity * total))
        context.say(f"threshold {found.magnitude:.4g}")
        ties = found.ties or (0,) * len(common)
        shared = {
            tensor.name: Threshold(found.magnitude, (mine,))
            for tensor, mine in zip(common, ties, strict=True)
        }
        return shared, {"threshold": max(0.0, found.magnitude)}

    def _survey_blocks(
        self, targets: list[tuple[Tensor, Self]]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        assert self.block is not None
        pruned: dict[str, np.ndarray] = {}
        common: dict[str, np.ndarray] = {}
        for tensor, settings in targets:
            if len(tensor.shape) < 2 or settings.sparsity is None:
                continue
            scores = block_scores(tensor.pull()[0], *self.block)
            if settings.sparsity == self.sparsity:
                common[tensor.name] = scores
            else:
                pruned |= lowest({tensor.name: scores}, settings.sparsity, together=False)
        if common:
            assert self.sparsity is not None
            pruned |= lowest(common, self.sparsity, together=self.scope == "global")
        return pruned, {"blocks": {name: int(mask.size) for name, mask in pruned.items()}}

    def _rounds(self, values: np.ndarray, most: int = 0) -> list[tuple[float, float, int]]:
        """Intervals of weights that go, each with how many weights are left behind it."""
        if self.cutoff is None:
            return []
        rounds: list[tuple[float, float, int]] = []
        if not finite(values):
            return rounds
        left = values[values != 0]
        while left.size and (not most or len(rounds) < most):
            mean, deviation = _moments(left)
            low, high = mean - self.cutoff * deviation, mean + self.cutoff * deviation
            kept = left[(left <= low) | (left >= high)]
            if kept.size == left.size:
                break
            left = kept
            rounds.append((low, high, int(left.size)))
        return rounds

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del context
        if (self.block or self.pattern) and len(tensor.shape) < 2:
            return "has no two axes to lay a pattern on"
        if self.pattern and tensor.in_axis is None:
            return "has no axis of inputs to lay a pattern on"
        if self.pattern and tensor.shape[tensor.in_axis or 0] <= self._n_of_m[0]:
            return f"has so few inputs that {self.pattern} keeps all of them"
        shape = self.pattern or (f"block {self.block[0]}x{self.block[1]}" if self.block else "")

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            if self.cutoff is not None and not finite(values):
                return leave(encoding, NOT_FINITE)
            removed = self._removed(tensor, values, survey.get(tensor.name))

            def block(part: np.ndarray, rows: slice) -> np.ndarray:
                return floats.masked(part, ~removed(part, rows))

            return Rewrite(Sparse(encoding.unmasked, shape), block)

        whole = shape or self.cutoff is not None or self.until is not None
        return plan if whole else ByRows(plan)

    def _removed(self, tensor: Tensor, values: np.ndarray, found: Any) -> Any:
        """A function from some rows to their mask of pruned weights; `found` by the survey."""
        if self.pattern is not None:
            assert tensor.in_axis is not None
            mask = outside_n_of_m(values, tensor.in_axis, *self._n_of_m)
            return lambda part, rows: mask[rows] | (part == 0)
        if self.block is not None and self.sparsity is not None:
            mask = of_blocks(found, values.shape, *self.block)
            return lambda part, rows: mask[rows] | (part == 0)
        if self.until is not None and self.cutoff is not None:
            return lambda part, _: _inside(part, found)
        if self.threshold is not None:
            limit = self.threshold
            return lambda part, _: (np.abs(part) < limit) | (part == 0)
        if self.cutoff is not None:
            mean, deviation = _moments(values)
            limit = self.cutoff * deviation
            return lambda part, _: (np.abs(part - mean) < limit) | (part == 0)
        assert self.sparsity is not None
        if found is None:
            count = round(self.sparsity * values.size)
            found = smallest(lambda: [walk_of(values)], sample_of(values), values.size, count)
        return removal(values, found)

    def warnings(self, chosen: list[Tensor]) -> tuple[str, ...]:
        if not any(getattr(self, name) for name in _TARGETS) and not self.overrides:
            return (f"{self.title}: this setting removes nothing",)
        return super().warnings(chosen)

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))


def _inside(part: np.ndarray, rounds: list[tuple[float, float, int]]) -> np.ndarray:
    mask = part == 0
    for low, high, _ in rounds:
        mask |= (part > low) & (part < high)
    return mask


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation."""
    wide = np.float64
    mean = float(values.mean(dtype=wide)) if values.size else 0.0
    return mean, float(values.std(dtype=wide)) if values.size else 0.0

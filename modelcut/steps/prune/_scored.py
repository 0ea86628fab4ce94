"""What the criteria have in common that ask the network: a score for every weight, the least go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import Self

from modelcut.errors import RecipeError
from modelcut.model.encoding import Encoding, Sparse
from modelcut.model.model import Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import Context, Need
from modelcut.steps.prune._groups import lowest, under
from modelcut.steps.prune._iterated import Finetune, Iterated, Rounds, Until
from modelcut.steps.strength import SPARSITIES, Strength


class Scored(Iterated):
    """Zeroes the weights of least score; see the methods."""

    runs: ClassVar[bool] = True

    strength: ClassVar[Strength] = Strength(
        "sparsity", SPARSITIES, instead=("cutoff",), along={"scope": "layer"}
    )
    global_fields: ClassVar[frozenset[str]] = frozenset({"scope", "rows"})

    sparsity: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Sparsity: the fraction of weights that are zero after the step."
    )
    scope: Literal["layer", "global"] = Field(
        default="global",
        description="With sparsity: rank the weights within each layer, or over all layers.",
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=4096, description="Maximum number of training samples to use."
    )
    cutoff: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Prune the weights whose score is below this many times the mean score of "
        "the layer's remaining weights; the largest is always kept.",
    )
    until: Until = None
    finetune: Finetune = None
    rounds: Rounds = None

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"train"}

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",)

    @abstractmethod
    def statistics(
        self, model: Model, targets: list[Tensor], context: Context
    ) -> tuple[Mapping[str, np.ndarray | str], dict[str, Any]]:
        """What the score needs besides the weights, by running the network.

        Args:
            model: the model as the step receives it.
            targets: the tensors that are scored.
            context: with the runtime.

        Returns:
            Tensor name -> array that broadcasts to the tensor's shape, or why there is none; and
            facts.
        """

    @abstractmethod
    def score(self, weights: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        """The score of each weight, 0 or more; those of least score are pruned."""

    def survey_model(
        self, model: Model, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[dict[str, np.ndarray | str], dict[str, Any]]:
        """Runs the network for the statistics, then decides which weights are pruned."""
        found, facts = self._remembered([tensor for tensor, _ in targets], model, context)
        survey: dict[str, np.ndarray | str] = {}
        common: dict[str, np.ndarray] = {}
        for tensor, settings in targets:
            statistic = found[tensor.name]
            if isinstance(statistic, str):
                survey[tensor.name] = statistic
                continue
            scores = settings._checked_scores(tensor, statistic)
            if settings.cutoff is not None:
                survey[tensor.name] = under(scores, settings.cutoff, 1)
            elif settings.scope == "global" and settings.sparsity == self.sparsity:
                common[tensor.name] = scores
            else:
                survey[tensor.name] = settings.least(tensor, scores)
        if common:
            assert self.sparsity is not None
            survey |= lowest(common, self.sparsity, together=True)
        return survey, facts

    def _remembered(
        self, targets: list[Tensor], model: Model, context: Context
    ) -> tuple[dict[str, np.ndarray | str], dict[str, Any]]:
        """The statistics, from the memo where a search computed them before on the same model."""
        known = context.memo
        missing = [tensor for tensor in targets if (id(model), tensor.name) not in known]
        if missing:
            found, facts = self.statistics(model, missing, context)
            known.update({(id(model), name): value for name, value in found.items()})
            known[id(model), ""] = facts
        return {t.name: known[id(model), t.name] for t in targets}, known.get((id(model), ""), {})

    def least(self, tensor: Tensor, scores: np.ndarray) -> np.ndarray:
        """The mask of pruned weights of one tensor that is ranked by itself."""
        assert self.sparsity is not None
        return lowest({tensor.name: scores}, self.sparsity, together=False)[tensor.name]

    def _checked_scores(self, tensor: Tensor, statistic: np.ndarray) -> np.ndarray:
        weights = tensor.pull()[0]
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self.score(weights.astype(np.float32, copy=False), statistic)
        if not np.isfinite(scores).all():
            raise RecipeError(
                f"{self.title}: the scores of {tensor.name} are not finite",
                "the network's outputs or its weights are NaN or too large; check the data's scale",
            )
        # Zeros come first, whatever their score: pruned weights stay pruned, and count.
        return np.where(weights == 0, np.float32(-1), scores.astype(np.float32))

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del context
        pruned = survey[tensor.name]
        if isinstance(pruned, str):
            return pruned

        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            return np.where(pruned[rows] | (part == 0), np.zeros((), part.dtype), part)

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            del values
            return Rewrite(Sparse(encoding.unmasked), block)

        return plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))

"""Removes the weights of smallest magnitude (Han et al. 2015, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from modelcut.encoding import Encoding, Sparse
from modelcut.model import Edit, Rewrite, Tensor
from modelcut.step import Context, TensorStep
from modelcut.steps.prune._smallest import Threshold, first_ties, sample_of, smallest

_SAMPLES = 1 << 20


class Magnitude(TensorStep):
    """Remove the weights of smallest magnitude; zeros that are there already count."""

    global_fields: ClassVar[frozenset[str]] = frozenset({"scope"})

    sparsity: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Share of the weights that are zero afterwards, exactly."
    )
    threshold: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Remove weights whose magnitude is below this."
    )
    cutoff: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Remove weights nearer to the layer's mean than this many standard deviations.",
    )
    scope: Literal["layer", "global"] = Field(
        default="global",
        description="For sparsity: one threshold over all layers, or one for each layer.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [n for n in ("sparsity", "threshold", "cutoff") if getattr(self, n) is not None]
        if len(given) != 1:
            what = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of sparsity, threshold and cutoff (given: {what})")
        return self

    def _with(self, fields: Any) -> Self:
        # An override by threshold replaces the step's sparsity rather than adding to it.
        targets = {"sparsity", "threshold", "cutoff"}
        if targets & set(fields):
            given = {n: getattr(self, n) for n in self.model_fields_set if n not in targets}
            return type(self).model_validate({**given, "overrides": {}, **fields})
        return super()._with(fields)

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",)

    def survey(
        self, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[Any, dict[str, Any]]:
        """For one threshold over all layers: the layers without a setting of their own."""
        common = [
            tensor
            for tensor, settings in targets
            if settings is self or settings.sparsity == self.sparsity
        ]
        if self.sparsity is None or self.scope == "layer" or not common:
            return {}, {}
        total = sum(tensor.size for tensor in common)
        share = _SAMPLES / max(1, total)
        samples = [np.abs(t.sample(max(256, int(share * t.size)))).ravel() for t in common]
        # Each tensor's sample must weigh as much as the tensor does.
        sample = np.concatenate(
            [
                np.resize(part.astype(np.float64), max(1, round(t.size * share)))
                if share < 1
                else part.astype(np.float64)
                for part, t in zip(samples, common, strict=True)
            ]
        )

        def passes() -> Iterator[np.ndarray]:
            for tensor in common:
                yield tensor.pull()[0]

        found = smallest(passes, sample, total, round(self.sparsity * total))
        context.say(f"threshold {found.magnitude:.4g}")
        ties = found.ties or (0,) * len(common)
        shared = {
            tensor.name: Threshold(found.magnitude, (mine,))
            for tensor, mine in zip(common, ties, strict=True)
        }
        return shared, {"threshold": max(0.0, found.magnitude)}

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit:
        del context

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            inner = encoding.inner if isinstance(encoding, Sparse) else encoding
            removed = self._removed(values, survey.get(tensor.name))

            def block(part: np.ndarray, rows: slice) -> np.ndarray:
                # np.where, not a product with the mask: that would leave -0.0 behind.
                return np.where(removed(part, rows), np.zeros((), part.dtype), part)

            return Rewrite(Sparse(inner), block)

        return plan

    def _removed(self, values: np.ndarray, found: Threshold | None) -> Any:
        """A function from some rows to the mask of what goes."""
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
            found = smallest(lambda: [values], sample_of(values), values.size, count)
        end = first_ties(values, found.magnitude, sum(found.ties))
        row = int(np.prod(values.shape[1:], dtype=np.int64)) if values.ndim else 1
        magnitude = found.magnitude

        def removed(part: np.ndarray, rows: slice) -> np.ndarray:
            size = np.abs(part)
            mask = (size < magnitude) | (part == 0)
            start = (rows.start or 0) * row
            if start < end:
                ties = size == magnitude if np.isfinite(magnitude) else ~np.isfinite(part)
                ties.reshape(-1)[max(0, end - start) :] = False
                mask |= ties
            return mask

        return removed

    def warnings(self, chosen: list[Tensor]) -> tuple[str, ...]:
        if not (self.sparsity or self.threshold or self.cutoff) and not self.overrides:
            return (f"{self.title}: this setting removes nothing",)
        return super().warnings(chosen)

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation."""
    wide = np.float64
    mean = float(values.mean(dtype=wide)) if values.size else 0.0
    return mean, float(values.std(dtype=wide)) if values.size else 0.0

"""Means and variances of the layers' outputs as they were in the original network."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from modelcut.model.model import Model
from modelcut.steps.base import Context, Need, Outcome, Step
from modelcut.steps.correction import How, Matcher, pinned_all
from modelcut.steps.samples import Samples


class Statistics(Step):
    """Match means and variances of the layers' outputs to the original's, over samples."""

    aims: ClassVar[frozenset[str]] = frozenset({"bias", "state"})
    absent: ClassVar[dict[str, str]] = {"budget": "it has no setting to search"}

    how: How = Field(
        default="both",
        description="Where: means in the biases (bias), means and variances in the statistics of "
        "the batch normalizations (batchnorm), or both.",
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="Maximum number of calibration samples to use; labels are not needed.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"calibration"}

    def apply(self, model: Model, context: Context) -> Outcome:
        """Corrects layer after layer in a running copy, each on what the corrected ones give."""
        chosen, skipped = self.select(model, context)
        names = {tensor.name for tensor in chosen}
        runtime = context.required_runtime(self.title)
        samples = Samples(runtime, context, self.rows, self.title)
        matcher = Matcher(runtime.original, samples, self.how, context)
        running = runtime.open(model)
        values: dict[str, np.ndarray] = {}
        for layer in model.layers:
            if names.intersection(tensor.name for tensor in layer.tensors):
                context.say(f"{self.title}: {layer.name}")
                values.update(matcher.fix(running, layer, names))
        for tensor in chosen:
            if tensor.name not in values:
                skipped[tensor.name] = (
                    "the original network has no statistics for it, or it has them already"
                )
        facts = {"samples": samples.count, **matcher.changed}
        return Outcome(pinned_all(model, values, context), facts, skipped)

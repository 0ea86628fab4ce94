"""The common part of the criteria that use the gradient of the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from modelcut.model.model import Model, Tensor
from modelcut.steps.base import Context
from modelcut.steps.prune._scored import Scored
from modelcut.steps.samples import some_rows

Kind = Literal["mean", "magnitude", "square"]


class Gradients(Scored):
    """Scores by the gradient of the mean loss of batches of training samples, in inference mode."""

    global_fields: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    aliases: ClassVar[dict[str, str]] = {"batch": "batch_size"}
    kind: ClassVar[Kind]
    """Summed over batches: the gradient itself, its magnitude, or its square."""

    batch_size: Annotated[int, Field(ge=1)] = Field(
        default=32, description="Batch size of the gradients."
    )

    def statistics(
        self, model: Model, targets: list[Tensor], context: Context
    ) -> tuple[Mapping[str, np.ndarray | str], dict[str, Any]]:
        """The mean over batches, each weighted by its number of samples."""
        runtime = context.required_runtime(self.title)
        running = runtime.open(model)
        names = [tensor.name for tensor in targets]
        trained = [name for name in names if name in running.trainable]
        sums = {t.name: np.zeros(t.shape) for t in targets if t.name in running.trainable}
        count = 0
        for rows in some_rows(runtime, running, self.batch_size, self.rows, context):
            context.say(f"{self.title}: gradients, {count} of {self.rows} rows")
            for name, found in running.gradients(rows, trained).items():
                gradient = found.astype(np.float64)
                if self.kind == "magnitude":
                    gradient = np.abs(gradient)
                elif self.kind == "square":
                    gradient = np.square(gradient)
                sums[name] += len(rows) * gradient
            count += len(rows)
        frozen = dict.fromkeys(names, "is frozen, so that it has no gradient")
        return {**frozen, **{n: (s / count).astype(np.float32) for n, s in sums.items()}}, {
            "rows": count
        }

    @abstractmethod
    def score(self, weights: np.ndarray, statistic: np.ndarray) -> np.ndarray: ...

"""Training for integer inference: what goes between layers is rounded while the network trains."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from modelcut import runtime
from modelcut.data.rows import joined
from modelcut.runtime import Runtime
from modelcut.steps.base import Context
from modelcut.steps.samples import some_rows

_SAMPLES = 512
"""Training samples that give the first ranges; a batch where that is more."""


class Activations(BaseModel):
    """How activations are rounded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bits: int = Field(
        default=8, ge=4, le=8, description="Bits of each activation; LiteRT computes in 8."
    )

    def plan(
        self, engine: Runtime, running: runtime.Running, batch: int, context: Context
    ) -> runtime.Activations:
        """What the training is told.

        Args:
            engine: reads the training samples.
            running: the network that is to be trained.
            batch: batch size.
            context: of the step.
        """
        most = max(1, _SAMPLES // batch) * batch
        rows = joined([*some_rows(engine, running, batch, most, context, "train")])
        return runtime.Activations(self.bits, rows)

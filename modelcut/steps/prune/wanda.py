"""Removes the weights that carry least (Sun et al. 2024, section 3, eq. 1): |w| times its input.

Needs no labels and no gradient: only the inputs of each layer over some training samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from modelcut.model.model import Model, Tensor
from modelcut.steps.base import Context
from modelcut.steps.prune._groups import evenly
from modelcut.steps.prune._inputs import matrices, refusal
from modelcut.steps.prune._scored import Scored
from modelcut.steps.samples import some_rows
from modelcut.steps.strength import SPARSITIES, Strength


class Wanda(Scored):
    """Prune the weights of smallest |w| · ‖x‖, x being the input that the weight multiplies."""

    strength: ClassVar[Strength] = Strength(
        "sparsity", SPARSITIES, instead=("cutoff",), along={"scope": "output"}
    )

    scope: Literal["output", "layer", "global"] = Field(  # type: ignore[assignment]
        default="output",
        description="With sparsity: rank the weights within each output channel, within each "
        "layer, or over all layers. Each output channel loses the same number of weights, up to "
        "the remainder of the division.",
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="Maximum number of training samples to use; labels are not needed.",
    )

    def statistics(
        self, model: Model, targets: list[Tensor], context: Context
    ) -> tuple[Mapping[str, np.ndarray | str], dict[str, Any]]:
        """The norm of each input over samples and positions; broadcasts to the kernel's shape."""
        owners = {tensor.name: layer for layer in model.layers for tensor in layer.tensors}
        reasons = {tensor.name: refusal(owners[tensor.name], tensor) for tensor in targets}
        kernels = [tensor for tensor in targets if not reasons[tensor.name]]
        if not kernels:
            return reasons, {"rows": 0}
        runtime = context.required_runtime(self.title)
        running = runtime.open(model)
        sums = {tensor.name: np.zeros(int(np.prod(tensor.shape[:-1]))) for tensor in kernels}
        count = 0
        for rows in some_rows(runtime, running, 64, self.rows, context):
            context.say(f"{self.title}: inputs, {count} of {self.rows} rows")
            found = running.layer_inputs(rows, [owners[tensor.name].name for tensor in kernels])
            for tensor in kernels:
                layer = owners[tensor.name]
                for given in found[layer.name]:
                    for matrix in matrices(layer, tensor, given):
                        sums[tensor.name] += np.einsum("ij,ij->j", matrix, matrix)
            count += len(rows)
        norms = {t.name: np.sqrt(sums[t.name]).reshape(*t.shape[:-1], 1) for t in kernels}
        return {**reasons, **norms}, {"rows": count}

    def score(self, weights: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        return np.abs(weights) * statistic.astype(np.float32)

    def least(self, tensor: Tensor, scores: np.ndarray) -> np.ndarray:
        if self.scope != "output":
            return super().least(tensor, scores)
        assert self.sparsity is not None
        return evenly(scores, self.sparsity)

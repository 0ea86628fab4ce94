"""One-shot second-order pruning: the remaining weights compensate for the pruned ones.

Optimal Brain Surgeon (Hassibi and Stork 1993) layer by layer, with the Hessian of the layer's
squared output error over calibration samples; `_subset` chooses the weights that are kept, and they
are refitted to the least squares optimum. Layers are done in order, each on what the layers before
it, pruned already, produce (Frantar and Alistarh 2023, section 4). Needs no labels.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import Self

from modelcut.errors import RecipeError
from modelcut.model.encoding import Encoding, Sparse
from modelcut.model.model import Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite
from modelcut.steps.base import CODED, Context, Need, TensorStep
from modelcut.steps.correction import Corrected
from modelcut.steps.prune._inputs import matrices, refusal
from modelcut.steps.samples import some_rows
from modelcut.steps.strength import SPARSITIES, Budgeted, Strength

_MOST_INPUTS = 8192
"""The widest Hessian: 512 MiB of float64, and some minutes."""


class Obs(Corrected, Budgeted, TensorStep):
    """Prune by the layer's output error to second order, and refit the remaining weights."""

    refuses: ClassVar[dict[str, str]] = dict.fromkeys(CODED, "it changes the weights that are kept")
    strength: ClassVar[Strength] = Strength("sparsity", SPARSITIES)
    global_fields: ClassVar[frozenset[str]] = frozenset({"rows", "damp"})

    sparsity: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Sparsity: the fraction of each layer's weights that are zero after the step.",
    )
    rows: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="Maximum number of training samples to use; labels are not needed.",
    )
    damp: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.01,
        description="Damping: the fraction of the Hessian's mean diagonal that is added to its "
        "diagonal.",
    )

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"train"}

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",)

    def survey_model(
        self, model: Model, targets: list[tuple[Tensor, Self]], context: Context
    ) -> tuple[dict[str, np.ndarray | str], dict[str, Any]]:
        """Prunes layer by layer in a running copy; the results are kept."""
        owners = {tensor.name: layer for layer in model.layers for tensor in layer.tensors}
        survey: dict[str, np.ndarray | str] = {}
        runtime = context.required_runtime(self.title)
        running = runtime.open(model)
        counted = 0
        errors: dict[str, float] = {}
        for tensor, settings in targets:
            layer = owners[tensor.name]
            survey[tensor.name] = reason = refusal(layer, tensor) or _too_wide(tensor)
            if reason:
                continue
            gram = np.zeros((int(np.prod(tensor.shape[:-1])),) * 2)
            counted = 0
            for rows in some_rows(runtime, running, 64, self.rows, context):
                context.say(f"{self.title}: {layer.name}, {counted} of {self.rows} rows")
                for given in running.layer_inputs(rows, [layer.name])[layer.name]:
                    for matrix in matrices(layer, tensor, given):
                        gram += matrix.T @ matrix
                counted += len(rows)
            context.say(f"{self.title}: {layer.name}, solving")
            found, errors[tensor.name] = settings._solve(tensor, gram)
            survey[tensor.name] = found
            running.write({tensor.name: found})
        return survey, {"rows": counted, "output_error": errors}

    def _solve(self, tensor: Tensor, gram: np.ndarray) -> tuple[np.ndarray, float]:
        """The new values, and the relative error of the layer's outputs on the rows."""
        from modelcut.steps.prune._hessian import damped
        from modelcut.steps.prune._subset import pruned

        assert self.sparsity is not None
        weights = tensor.pull()[0]
        matrix = weights.reshape(-1, weights.shape[-1]).astype(np.float64)
        if not (np.isfinite(gram).all() and np.isfinite(matrix).all()):
            raise RecipeError(
                f"{self.title}: {tensor.name} or the inputs of its layer are NaN or infinite",
                "check the data's scale, or exclude that layer",
            )
        hessian = damped(gram, self.damp)
        found = pruned(matrix, hessian, self.sparsity)
        signal = float(np.sum(matrix * (gram @ matrix)))
        delta = found - matrix
        noise = max(0.0, float(np.sum(delta * (gram @ delta))))
        error = (noise / signal) ** 0.5 if signal > 0 else 0.0
        return found.reshape(weights.shape).astype(weights.dtype), error

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit | str:
        del context
        found = survey[tensor.name]
        if isinstance(found, str):
            return found

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            del values
            after = Sparse(encoding.unmasked)

            def block(part: np.ndarray, rows: slice) -> np.ndarray:
                return after.project(found[rows].astype(part.dtype, copy=False), rows)

            return Rewrite(after, block)

        return plan

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", *(kind for kind in tensor.kinds if kind != "sparse"))


def _too_wide(tensor: Tensor) -> str:
    width = int(np.prod(tensor.shape[:-1]))
    if width <= _MOST_INPUTS:
        return ""
    return f"has {width} inputs, and a Hessian of more than {_MOST_INPUTS} is not made"

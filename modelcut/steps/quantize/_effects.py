"""What each layer's width does to the network's outputs, measured over calibration samples.

Of each layer its squared output error at each width, by the Hessian of its inputs and with the
step's own rounding; and, once, how much of such an error reaches the network's outputs: the layer
alone is quantized in a running copy, and the change of the outputs is measured. To first order the
effects of layers add up (Dong et al. 2020, "HAWQ-V2", section 3.2, sums up likewise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from modelcut.model.model import Layer, Model, Tensor
from modelcut.steps.base import Context
from modelcut.steps.hessian import Sums
from modelcut.steps.operands import Operand, operand
from modelcut.steps.samples import Samples

if TYPE_CHECKING:
    from modelcut.runtime import Running

At: TypeAlias = "Callable[[Operand, Sums, int], np.ndarray]"
"""The values of a tensor at a width, by the sums over its inputs."""

_PROBE = 4
"""Bits at which a layer's effect on the outputs is measured: enough to stand out from rounding."""


class Effects:
    """A network and samples, on which the effects of its layers are measured."""

    def __init__(self, model: Model, samples: Samples, context: Context) -> None:
        self._samples, self._context = samples, context
        self._running = samples.runtime.open(model)
        self._outputs = self._predicted()
        self._spread = sum(
            float(np.square(part - part.mean(axis=0)).sum()) for part in self._outputs
        )

    def of(self, layer: Layer, tensor: Tensor, at: At, widths: Sequence[int]) -> list[float] | str:
        """Squared change of the network's outputs, by their variance, at each width of one tensor.

        Args:
            layer: the layer that owns the tensor.
            tensor: the tensor.
            at: the tensor's values at a width.
            widths: the widths.

        Returns:
            A number for each width; or why there are none.
        """
        view = operand(layer, tensor)
        if isinstance(view, str):
            return view
        self._context.say(f"{self._samples.title}: effect of {tensor.name}")
        values, _ = tensor.pull()
        sums = summed(self._samples, self._running, layer, view)
        weights = view.split(values)
        errors, probe = [], values
        for width in widths:
            found = at(view, sums, width)
            errors.append(float(sums.error(view.split(found), weights).sum()))
            probe = found if width == _PROBE else probe
        reached = errors[list(widths).index(_PROBE)]
        if not reached > 0:
            return errors
        self._running.write({tensor.name: probe})
        moved = sum(
            float(np.square(new - old).sum())
            for new, old in zip(self._predicted(), self._outputs, strict=True)
        )
        self._running.write({tensor.name: values})
        gain = moved / (self._spread or 1.0) / reached
        return [error * gain for error in errors]

    def _predicted(self) -> list[np.ndarray]:
        found = [self._running.predict(rows) for rows in self._samples.batches(self._running)]
        return [
            np.concatenate([part.reshape(len(part), -1) for part in parts]).astype(np.float64)
            for parts in zip(*found, strict=True)
        ]


def summed(
    samples: Samples,
    running: Running,
    layer: Layer,
    view: Operand,
    other: Running | None = None,
) -> Sums:
    """The sums over what goes into a kernel of a running network, and of another one beside it."""
    sums = Sums(view, samples.most, compares=other is not None)
    prefix = f"{layer.name}/"

    def read(role: str) -> np.ndarray:
        return running.read([prefix + role])[prefix + role]

    for batch in samples.batches(running):
        given = running.layer_inputs(batch, [layer.name], again=True)[layer.name]
        beside = (
            [None] * len(given)
            if other is None
            else (other.layer_inputs(batch, [layer.name], again=True)[layer.name])
        )
        for mine, theirs in zip(given, beside, strict=True):
            sums.add(mine, read, len(batch), theirs)
    return sums

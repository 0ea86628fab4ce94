"""The integers of Keras' own int8 and int4 layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from modelcut.model.encodings.affine import Affine


@dataclass(frozen=True, eq=False)
class KerasInt(Affine):
    """Uniform quantization on a grid that a layer of Keras 3 can hold as it is.

    In a `.keras` file the codes and the scales stand in the place of the floats; other formats
    keep floats, and this record.

    Attributes:
        stored: bits in which Keras stores each code, 8 or 4; the codes may take fewer.
    """

    kind: ClassVar[str] = "keras_int"
    stored: int = 8

    @property
    def label(self) -> str:
        name = f"int{self.width} in a Keras int{self.stored} layer"
        return f"{name}, groups of {self.group}" if self.group else name

    def signed(self, values: np.ndarray) -> np.ndarray:
        """The codes as Keras has them: int8, of the tensor's shape, from -127 or -8 on."""
        steps, _, _ = self._steps(values, slice(None))
        if self.zero_point is not None:
            steps += self._spread(self.signed_zero(), values.shape, slice(None))
        return steps.astype(np.int8)

    def signed_zero(self) -> np.ndarray:
        """The zero points on the scale of those codes: int8, of the shape of `scale`."""
        if self.zero_point is None:
            return np.zeros(self.scale.shape, np.int8)
        zero = self.zero_point - (1 << (self.width - 1))
        return np.broadcast_to(zero, self.scale.shape).astype(np.int8)

    def record(self) -> dict[str, Any]:
        return {**super().record(), "stored": self.stored}

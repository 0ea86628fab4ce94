"""Weight sharing: a codebook of centroids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from modelcut.arrays import floats
from modelcut.arrays.blocks import ALL
from modelcut.model.encoding import Encoding


@dataclass(frozen=True, eq=False)
class Codebook(Encoding):
    """Weight clustering: each value is one of the centroids (Han et al. 2016, section 3).

    Attributes:
        centres: the centroids, float32 (float64 for float64 tensors), shape (k,), ascending,
            distinct, finite.
    """

    kind: ClassVar[str] = "codebook"
    centres: np.ndarray

    @property
    def label(self) -> str:
        return f"{self.symbols} centroids"

    @property
    def symbols(self) -> int:
        return int(self.centres.size)

    @property
    def uniform(self) -> bool:
        return True

    def fits(self, shape: tuple[int, ...]) -> bool:
        del shape
        sound = isinstance(self.centres, np.ndarray) and self.centres.ndim == 1
        if not sound or not self.centres.size or not np.isfinite(self.centres).all():
            return False
        return not np.any(np.diff(self.centres) <= 0)

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        return _cuts(self, values.dtype).pick(values)

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        return _cuts(self, values.dtype).places(values)

    def coded(self, values: np.ndarray, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray | None]:
        codes = self.codes(values, rows)
        return self.decode(codes, values.dtype), codes

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        return self.centres.astype(dtype).take(codes)

    def side_bits(self) -> int:
        return self.centres.size * 32

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "centres": self.centres}


@lru_cache(maxsize=8)
def _cuts(book: Codebook, dtype: np.dtype) -> floats.Cuts:
    """The midpoints between the centroids."""
    low, high = book.centres[:-1].astype(np.float64), book.centres[1:].astype(np.float64)
    middles = low / 2 + high / 2
    return floats.Cuts.at(np.where(middles < high, middles, low), book.centres, dtype)

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
        if codes.dtype == np.uint8 and codes.flags.c_contiguous and _in_pairs(codes, dtype):
            pairs = codes.reshape(-1).view(np.uint16)
            # NumPy makes eight bytes of each index first: half as many take half as long.
            found: np.ndarray = _pairs(self, dtype).take(pairs, mode="clip")
            return found.view(dtype).reshape(codes.shape)
        return self.centres.astype(dtype).take(codes)

    def side_bits(self) -> int:
        return self.centres.size * 32

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "centres": self.centres}


_PAIRS_PAY = 1 << 17
"""Codes from which a table of all pairs, of 65,536 entries, beats one of each."""


def _in_pairs(codes: np.ndarray, dtype: np.dtype) -> bool:
    return codes.size >= _PAIRS_PAY and codes.size % 2 == 0 and dtype.itemsize <= 4


@lru_cache(maxsize=8)
def _pairs(book: Codebook, dtype: np.dtype) -> np.ndarray:
    """What two codes stand for, by both of them in memory as one number; unsigned."""
    both = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    values = np.full(256, np.nan, dtype)
    values[: book.symbols] = book.centres.astype(dtype)
    return values.take(both).view(f"u{2 * dtype.itemsize}")


@lru_cache(maxsize=8)
def _cuts(book: Codebook, dtype: np.dtype) -> floats.Cuts:
    """The midpoints between the centroids."""
    low, high = book.centres[:-1].astype(np.float64), book.centres[1:].astype(np.float64)
    middles = low / 2 + high / 2
    return floats.Cuts.at(np.where(middles < high, middles, low), book.centres, dtype)

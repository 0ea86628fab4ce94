"""Weight sharing: 1-D k-means over each tensor's weights (Han et al. 2016, section 3)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from modelcut.arrays import floats
from modelcut.model.encoding import Encoding
from modelcut.model.encodings.codebook import Codebook
from modelcut.model.model import Tensor
from modelcut.model.rewrite import ByRows, Edit, Rewrite, leave
from modelcut.steps.base import CODED, NOT_FINITE, STORED_KINDS, Context, random_generator
from modelcut.steps.quantize import _kmeans
from modelcut.steps.quantize._calibrated import Calibrated
from modelcut.steps.quantize._cells import short
from modelcut.steps.strength import Budgeted, Strength

_FEW = 32
_MANY = 1 << 12


class Cluster(Budgeted, Calibrated):
    """Weight clustering (1-D k-means); indices are entropy-coded when written.

    Zeros of a pruned tensor keep an index of their own, besides those of the centroids. Entropy
    coding happens when the model is written: by deflate in `.h5` and `.keras`, by Huffman or range
    coding of the indices in `.mcut`.
    """

    aims: ClassVar[frozenset[str]] = STORED_KINDS
    strength: ClassVar[Strength] = Strength(
        "bits", (8, 7, 6, 5, 4, 3, 2, 1), instead=("values",), needed=False
    )
    refuses: ClassVar[dict[str, str]] = CODED

    bits: Annotated[int, Field(ge=1, le=8)] | None = Field(
        default=None,
        description="Number of clusters as a power of two, 2^bits; 4 if values is not given "
        "either. In layers with more than 4,096 distinct weights, 32 or fewer centroids are "
        "rounded to 8 significant bits, by at most 0.4 %.",
    )
    values: Annotated[int, Field(ge=2, le=256)] | None = Field(
        default=None, description="Number of clusters, 2 to 256, instead of bits."
    )
    start: _kmeans.Start = Field(
        default="optimum",
        description="Initialization of k-means: the optimum of a coarser histogram, linearly "
        "over the range, by density (quantiles), or k-means++. A layer with few distinct weights "
        "gets the exact optimum in any case.",
    )
    entropy_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="Penalty on the entropy of the indices: the squared error that one bit is "
        "traded for, as a fraction of the layer's mean square. 0: plain k-means; 0.01 to 0.1 are "
        "usual.",
    )

    @property
    def _k(self) -> int:
        return self.values or 1 << (4 if self.bits is None else self.bits)

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("codebook",)

    def edit(self, tensor: Tensor, survey: Any, context: Context) -> Edit:
        del survey

        def plan(values: np.ndarray, encoding: Encoding) -> Rewrite:
            line, finite = _kmeans.line_of(values, zeros=not encoding.masked)
            if not finite:
                return leave(encoding, NOT_FINITE)
            if not line.points.size:  # wholly pruned
                after = encoding.recoded(_book(np.zeros(1), values.dtype))
                return Rewrite(after)
            rng = random_generator(context, tensor.name)
            centres = _held(_kmeans.clusters(line, self._k, self.start, rng), line)
            if self.entropy_weight:
                return self._traded(values, encoding, line, centres)
            after = encoding.recoded(_book(centres, values.dtype))
            return Rewrite(after)

        return ByRows(plan)

    def _traded(
        self, values: np.ndarray, encoding: Encoding, line: _kmeans.Line, centres: np.ndarray
    ) -> Rewrite:
        """Each weight gets the centroid of least cost, error and bits, instead of the nearest."""
        sparse = encoding.masked
        zeros = values.size - float(line.weights.sum()) if sparse else 0.0
        centres, edges = _kmeans.weighted(line, centres, self.entropy_weight, zeros=zeros)
        centres = _held(centres, line)
        cuts = floats.Cuts.at(edges, centres + 0.0, values.dtype)
        kept = centres[centres != 0] if sparse and np.any(centres != 0) else centres
        after = encoding.recoded(_book(kept, values.dtype))

        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            del rows
            chosen = cuts.pick(part)
            return floats.masked(chosen, part != 0) if sparse else chosen

        return Rewrite(after, block)

    def kinds_after(self, tensor: Tensor) -> tuple[str, ...]:
        return ("sparse", "codebook") if "sparse" in tensor.kinds else ("codebook",)


def _held(centres: np.ndarray, line: _kmeans.Line) -> np.ndarray:
    """The centroids as they are stored: 8 significant bits where few represent very many weights.

    That moves one by 0.4 % at most, little compared with the distance to its neighbors, and the
    weights' low bytes are zero: the file of a large layer deflates by an eighth better. Where the
    points are the weights themselves and few, they are stored exactly.
    """
    if centres.size > _FEW or (line.exact and line.points.size <= _MANY):
        return centres
    return short(centres).astype(np.float64)


def _book(centres: np.ndarray, dtype: np.dtype) -> Codebook:
    """Centroids that the tensor's dtype represents exactly."""
    wide = np.float64 if dtype == np.float64 else np.float32
    held: np.ndarray = centres.astype(dtype).astype(wide)
    return Codebook(np.unique(held + 0.0))

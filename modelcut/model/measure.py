"""Measurements of tensors: made in this module only, from the values as they are written.

A `Meter` watches one tensor on its way to the file: what it was, and what each edit made of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from modelcut.arrays import floats
from modelcut.arrays.blocks import in_threads, map_rows, row_blocks
from modelcut.arrays.deflate import choose
from modelcut.model.encoding import Encoding

_SAMPLED_BYTES = 4 << 20
_SAMPLES = 16


@dataclass(frozen=True)
class Summary:
    """One tensor at one moment.

    Attributes:
        size: number of values.
        nonzeros: how many are not zero.
        nonfinite: how many are NaN or infinite.
        peak: largest finite magnitude; 0 for none.
        bytes: size of the values as they are stored, uncompressed.
        bits: size of a plain fixed-length form of the encoding, its parameters counted.
        distinct: number of distinct codes in use; None where values are not coded.
        entropy: order-0 entropy of the codes in bits per value; None where not coded.
        deflated: bytes after deflate; None where it was not computed.
        estimated: whether that is what pieces of the tensor come to.
    """

    size: int
    nonzeros: int
    nonfinite: int
    peak: float
    bytes: int
    bits: int
    distinct: int | None
    entropy: float | None
    deflated: int | None = None
    estimated: bool = False


@dataclass(frozen=True)
class Change:
    """What one edit did to one tensor.

    Attributes:
        error: Frobenius norm of the difference over that of the values before; 0 for no change.
        sqnr_db: signal to quantization noise, 10 log10(sum w^2 / sum d^2); None for no change.
        peak_error: largest magnitude of a difference.
    """

    error: float
    sqnr_db: float | None
    peak_error: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Values: TypeAlias = Any
"""An array, or what has its `size`, `dtype` and `nbytes` and gives pieces of it by `flat`."""

Count: TypeAlias = "tuple[int, int, float, np.ndarray | None]"
"""(how many are not zero, how many not finite, largest finite magnitude, how often each code)."""


def summarize(values: np.ndarray, encoding: Encoding) -> Summary:
    """Counts one tensor, block by block on all cores.

    Args:
        values: any numeric dtype, any shape.
        encoding: what the values are restricted to.
    """
    whole = np.atleast_1d(values)  # a scalar has no rows
    parts = map_rows(lambda rows: count(whole[rows], encoding, rows), whole)
    return summary(values, encoding, parts)


def count(
    block: np.ndarray, encoding: Encoding, rows: slice, codes: np.ndarray | None = None
) -> Count:
    """Counts one block, from which `summary` makes the whole tensor's.

    Args:
        block: the values of some rows.
        encoding: encoding of the tensor.
        rows: which they are.
        codes: codes of the block, where they are known already.
    """
    inexact = np.issubdtype(block.dtype, np.inexact) or block.dtype.kind == "V"
    if inexact and block.dtype.itemsize == 2:
        nonzeros, nonfinite, peak = _of_halves(block)
    else:
        nonzeros, nonfinite, peak = _of_values(block, inexact=inexact)
    used = None
    if encoding.symbols is not None:
        codes = encoding.codes(block, rows) if codes is None else codes
        used = floats.histogram(codes, encoding.symbols)
    return nonzeros, nonfinite, peak, used


def summary(values: Values, encoding: Encoding, parts: list[Count]) -> Summary:
    """Sums the blocks of one tensor."""
    nonzeros = sum(part[0] for part in parts)
    distinct, entropy = None, None
    symbols = encoding.symbols
    if symbols is not None:
        used = sum((part[3] for part in parts if part[3] is not None), np.zeros(symbols, np.int64))
        used = used[used > 0]
        distinct = int(used.size)
        share = used / max(1, values.size)
        entropy = float(-(share * np.log2(share)).sum()) + 0.0
    return Summary(
        size=values.size,
        nonzeros=nonzeros,
        nonfinite=sum(part[1] for part in parts),
        peak=max((part[2] for part in parts), default=0.0),
        bytes=values.nbytes,
        bits=encoding.bits(values.size, nonzeros, values.dtype.itemsize),
        distinct=distinct,
        entropy=entropy,
    )


def _of_values(block: np.ndarray, *, inexact: bool) -> tuple[int, int, float]:
    """How many are not zero, how many not finite, and the largest finite magnitude."""
    nonzeros = int(np.count_nonzero(block != 0))  # a third faster than counting floats
    if not inexact or not block.size:
        return nonzeros, 0, 0.0
    peak = max(abs(float(block.min())), abs(float(block.max())))
    if np.isfinite(peak):
        return nonzeros, 0, peak
    finite = block[np.isfinite(block)]
    peak = float(np.abs(finite).max()) if finite.size else 0.0
    return nonzeros, block.size - finite.size, peak


def _of_halves(block: np.ndarray) -> tuple[int, int, float]:
    """The same of 16-bit floats, by their bits: NumPy compares the floats one at a time."""
    sizes = block.view(np.uint16) & np.uint16(0x7FFF)
    infinite = np.array(np.inf, block.dtype).view(np.uint16)
    nonzeros, nonfinite = int(np.count_nonzero(sizes)), 0
    peak = sizes.max(initial=0)
    if peak >= infinite:
        nonfinite = int(np.count_nonzero(sizes >= infinite))
        peak = sizes.max(initial=0, where=sizes < infinite)
    return nonzeros, nonfinite, float(peak.view(block.dtype))


def deflated_size(values: Values, *, full: bool = False) -> int:
    """Bytes after ISA-L's deflate, the bytes shuffled first where that is less.

    Of a tensor of more than 4 MB, or that is not in memory, what 16 pieces of it come to, spread
    evenly: coding all of it would take longer than everything else.

    Args:
        values: the tensor.
        full: code all of it all the same.
    """
    if isinstance(values, np.ndarray):
        values = np.atleast_1d(values)
    if values.size == 0:
        return 0
    if not full and _in_pieces(values):
        return round(choose(values, looks=_SAMPLES).share * values.nbytes)
    way = choose(values)
    blocks = row_blocks(values.shape, values.dtype.itemsize)
    return sum(in_threads(lambda rows: len(way.pack(values[rows])), blocks))


def _in_pieces(values: Values) -> bool:
    return values.nbytes > _SAMPLED_BYTES or not isinstance(values, np.ndarray)


def compare(before: np.ndarray, after: np.ndarray) -> Change:
    """The change between two arrays of one shape."""
    before, after = np.atleast_1d(before), np.atleast_1d(after)
    parts = map_rows(lambda rows: difference(before[rows], after[rows]), before)
    return change(parts)


Difference = tuple[float, float, float]
"""(sum of squares before, sum of squares of the difference, largest difference)."""


def difference(before: np.ndarray, after: np.ndarray) -> Difference:
    """The sums of one block, from which `change` makes the whole tensor's."""
    before = before.astype(np.float64 if before.dtype == np.float64 else np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite weights are warned of elsewhere
        delta = (before - after.astype(before.dtype, copy=False)).ravel()
        before = before.ravel()
        # Inside a block of some MB, NumPy's dot sums pairwise in vector lanes: float32 is enough.
        signal, noise = float(np.dot(before, before)), float(np.dot(delta, delta))
    peak = max(float(delta.max()), -float(delta.min())) if delta.size else 0.0
    return signal, noise, peak


def change(parts: list[Difference]) -> Change:
    """Sums the blocks of one tensor."""
    signal = float(sum(part[0] for part in parts))
    noise = float(sum(part[1] for part in parts))
    peak = max((part[2] for part in parts), default=0.0)
    if noise == 0:
        return Change(0.0, None, 0.0)
    if signal == 0:
        return Change(float("inf"), float("-inf"), peak)
    return Change((noise / signal) ** 0.5, 10 * float(np.log10(signal / noise)), peak)


class Histogram:
    """How the non-zero values of one tensor are spread, before and after its edits, in a sample.

    Attributes:
        low, high: ends of the range, four standard deviations to each side of the mean.
        before, after: how many of the sampled values fall into each of `BINS` equal bins; values
            beyond an end are counted in the bin there, and zeros nowhere.
        size: number of values in the sample.
    """

    BINS = 41
    _SAMPLE = 4096
    _STEP = (
        2654435761  # a prime near 2^32 / golden ratio: no two of a sample's values are neighbours
    )

    def __init__(self, values: np.ndarray) -> None:
        """Takes the values as they were read."""
        self._at = self.places(values.size)
        self.size = self._at.size
        sample = self._sample(values)
        finite = sample[np.isfinite(sample) & (sample != 0)]
        with np.errstate(over="ignore"):
            spread = float(finite.std()) if finite.size else 0.0
        middle = float(finite.mean()) if finite.size else 0.0
        spread = spread if np.isfinite(spread) else 0.0
        reach = 4 * spread or abs(middle) or 1.0
        self.low = max(middle - reach, float(finite.min())) if finite.size else -1.0
        self.high = min(middle + reach, float(finite.max())) if finite.size else 1.0
        if not self.low < self.high:
            self.low, self.high = self.low - reach, self.high + reach
        self.before = self.after = self._counted(sample)

    @classmethod
    def places(cls, size: int) -> np.ndarray:
        """Where the sample of a tensor of so many values lies in flat order: int64."""
        count = min(cls._SAMPLE, size)
        return np.arange(count, dtype=np.int64) * cls._STEP % max(1, size)

    @classmethod
    def sampled(cls, before: np.ndarray, after: np.ndarray) -> Histogram:
        """The same of values at the `places`, in whatever order."""
        made = cls(before)  # the sample of so few values is all of them
        made.after = made._counted(after.astype(np.float64))
        return made

    def edited(self, values: np.ndarray) -> None:
        """Takes the values after an edit; of another size, some others of them."""
        if values.size != 0:
            self._at %= values.size
            self.after = self._counted(self._sample(values))

    def _sample(self, values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1) if values.flags.c_contiguous else values.ravel(order="K")
        return flat[self._at].astype(np.float64)

    def _counted(self, sample: np.ndarray) -> np.ndarray:
        kept = sample[np.isfinite(sample) & (sample != 0)]
        # Rather than np.histogram, which takes three times as long on so few values.
        bins = (np.clip(kept, self.low, self.high) - self.low) * (
            self.BINS / (self.high - self.low)
        )
        return np.bincount(np.minimum(bins.astype(np.int64), self.BINS - 1), minlength=self.BINS)


class Meter:
    """Watches one tensor from its source through its edits.

    Attributes:
        deflates: whether it finds out what the values deflate to.
        full: by coding all of them, where they are many.
        before: the tensor as it was read.
        after: a summary after each edit, in order.
        changes: what each edit did, in order.
        left_alone: steps that found in the values why they could not edit them, and the reasons.
        histogram: how the values are spread; None for few values, and where nothing was read.
    """

    _FEW = 64

    def __init__(self, *, deflate: bool = False, full: bool = False) -> None:
        """Has seen nothing yet.

        Args:
            deflate: find out what the values deflate to.
            full: code all of them for it; else pieces of large tensors.
        """
        self.deflates = deflate
        self.full = full
        self.histogram: Histogram | None = None
        self.before: Summary | None = None
        self.after: list[tuple[int, Summary]] = []
        self.changes: list[tuple[int, Change]] = []
        self.left_alone: list[tuple[int, str]] = []

    def read(self, values: np.ndarray, encoding: Encoding) -> None:
        """The tensor was read from its source."""
        self.was_read(summarize(values, encoding))
        if self.charts(values):
            self.histogram = Histogram(values)

    def charts(self, values: Values) -> bool:
        """Whether the spread of these values is worth a chart."""
        return values.size >= self._FEW and values.dtype.kind in "fV"

    def was_read(self, before: Summary) -> None:
        """The tensor was read from its source in blocks, and this is what it was."""
        self.before = before

    def edited(
        self,
        step: int,
        values: Values,
        encoding: Encoding,
        parts: list[tuple[Difference, Count]],
    ) -> None:
        """An edit of step number `step` is done; `parts` are the numbers of its blocks."""
        if self.histogram is not None and isinstance(values, np.ndarray):
            self.histogram.edited(values)
        self.changes.append((step, change([part[0] for part in parts])))
        self.after.append((step, summary(values, encoding, [part[1] for part in parts])))

    def done_with(self, values: Values, deflated: int | None = None) -> None:
        """The values as they were last summarized will not be seen again.

        Args:
            values: these values.
            deflated: what they deflate to, where a writer has found out; None: found out here.
        """
        if not self.deflates:
            return
        found = deflated_size(values, full=self.full) if deflated is None else deflated
        guess = deflated is None and not self.full and _in_pieces(values)
        self.deflates_to(found, estimated=guess)

    def deflates_to(self, size: int, *, estimated: bool) -> None:
        """The values as they were last summarized deflate to so many bytes."""
        if self.after:
            step, last = self.after[-1]
            self.after[-1] = step, replace(last, deflated=size, estimated=estimated)
        elif self.before is not None:
            self.before = replace(self.before, deflated=size, estimated=estimated)

"""A tensor on its way from its file to another, block by block, never in memory as a whole.

Each block is read, measured, edited, measured again and coded while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelcut.arrays import digest
from modelcut.arrays.blocks import BLOCK_BYTES, in_threads, row_blocks
from modelcut.arrays.clock import working
from modelcut.errors import ModelcutError
from modelcut.model.encoding import Encoding
from modelcut.model.measure import (
    Count,
    Difference,
    Histogram,
    Meter,
    count,
    deflated_size,
    summary,
)

if TYPE_CHECKING:
    from modelcut.model.rewrite import Rewrite


@dataclass(frozen=True)
class Unread:
    """Values that stay in the file: an array as far as rows of axis 0 are asked for.

    Attributes:
        shape: of the tensor; one axis at least.
        dtype: of the values.
        flat: returns the values from one place to another in flat order, in a fresh array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    flat: Callable[[int, int], np.ndarray]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.itemsize

    @property
    def row(self) -> int:
        """Values in one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The values of some neighbouring rows."""
        start, stop, _ = rows.indices(self.shape[0])
        return self.flat(start * self.row, stop * self.row).reshape(-1, *self.shape[1:])


class Stream:
    """Rows of a tensor after its edit, for a writer.

    Attributes:
        encoding: what the values are restricted to.
        dtype: dtype of the values.
        shape: shape of the values.
    """

    def __init__(
        self,
        unread: Unread,
        encoding: Encoding,
        rewrite: Rewrite | None,
        step: int,
        meter: Meter | None,
        *,
        where: str = "",
    ) -> None:
        """Takes what `Tensor.stream` has planned.

        Args:
            unread: the values in the file.
            encoding: their encoding.
            rewrite: what becomes of them; None: they stay as they are.
            step: number of the step that asked for it.
            meter: measures them.
            where: step and tensor, for messages.
        """
        self._unread = unread
        self._before = encoding
        self._rewrite = rewrite
        self._step = step
        self._where = where
        self._meter = meter
        self._places = np.zeros(0, np.int64)
        if meter is not None and meter.charts(unread):
            self._places = np.sort(Histogram.places(unread.size))
        self._samples: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._digests: dict[int, tuple[int, str]] | None = None
        self._parts: dict[int, tuple[Count, tuple[Difference, Count] | None]] = {}
        self.encoding = encoding if rewrite is None else rewrite.encoding
        self.shape = unread.shape
        retyped = None if rewrite is None else rewrite.dtype
        self.dtype = unread.dtype if retyped is None else retyped
        if meter is not None and rewrite is not None:
            # What the original deflates to; of the result a writer may find it out.
            self._deflated = deflated_size(unread, full=meter.full) if meter.deflates else None

    @property
    def size(self) -> int:
        """Number of values."""
        return self._unread.size

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.itemsize

    def flat(self, start: int, stop: int) -> np.ndarray:
        """The values from one place to another in flat order, to look at: not measured."""
        row = self._unread.row
        rows = slice(start // row, -(-stop // row))
        values = self[rows].reshape(-1)
        return values[start - rows.start * row : stop - rows.start * row]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The values of some rows, not measured."""
        return self._edited(self._unread[rows], rows, measured=False)[0]

    def take(self, rows: slice) -> np.ndarray:
        """The values of some rows, measured; from any thread.

        All rows are to be taken in blocks, each once; or again in the same blocks.

        Raises:
            ModelcutError: they cannot be read, or the edit fails.
        """
        return self.coded(rows)[0]

    def coded(self, rows: slice) -> tuple[np.ndarray, np.ndarray | None]:
        """Like `take`, and the codes of the values where the edit has made them; else None."""
        with working("read"):
            before = self._unread[rows]
        with working("edit"):
            after, codes = self._taken(before, rows)
        if self._digests is not None:
            with working("hash"):
                self._digests[rows.start] = len(after), digest.of_values(after)
        return after, codes

    def hashed(self) -> None:
        """Has the rows hashed as they are taken; see `checksum`."""
        self._digests = {}

    def checksum(self) -> str:
        """That of the values that were taken; see `digest.checksum`."""
        assert self._digests is not None
        found = [self._digests[start] for start in sorted(self._digests)]
        rows = found[0][0]
        if len(found) == 1:
            return found[0][1][:32]
        if any(count != rows for count, _ in found[:-1]) or found[-1][0] > rows:
            return digest.checksum(self[slice(0, self.shape[0])])
        return digest.joined(rows, [part for _, part in found])

    def _taken(self, before: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray | None]:
        if self._meter is None:
            return self._edited(before, rows, measured=False)[:2]
        seen = count(before, self._before, rows)
        after, codes, change = self._edited(before, rows, measured=True)
        self._parts[rows.start] = seen, change
        start = rows.start * self._unread.row
        ends = np.searchsorted(self._places, [start, start + before.size])
        places = self._places[slice(*ends)] - start
        if places.size:
            samples = before.reshape(-1)[places], after.reshape(-1)[places]
            self._samples[rows.start] = samples
        return after, codes

    def done(self, deflated: int | None = None) -> None:
        """All rows were taken: the meter learns of it.

        Args:
            deflated: what the values deflate to, where the writer has found out; None: it is
                found out here.
        """
        if self._meter is None:
            return
        parts = [self._parts[start] for start in sorted(self._parts)]
        counts = [part[0] for part in parts]
        self._meter.was_read(summary(self._unread, self._before, counts))
        if self._samples:
            both = (np.concatenate(one) for one in zip(*self._samples.values(), strict=True))
            self._meter.histogram = Histogram.sampled(*both)
        if self._rewrite is not None:
            if self._deflated is not None:
                self._meter.deflates_to(self._deflated, estimated=not self._meter.full)
            changes = [part[1] for part in parts if part[1] is not None]
            self._meter.edited(self._step, self, self.encoding, changes)
        self._meter.done_with(self, deflated)

    def measure(self) -> None:
        """Takes all rows, where nobody writes them."""
        blocks = row_blocks(self.shape, self._unread.dtype.itemsize)
        for _ in in_threads(self.take, blocks):
            pass
        self.done()

    def _edited(
        self, before: np.ndarray, rows: slice, *, measured: bool
    ) -> tuple[np.ndarray, np.ndarray | None, tuple[Difference, Count] | None]:
        if self._rewrite is None:
            return before, None, None
        try:
            return self._rewrite.of(before, rows, self.dtype, measured=measured)
        except ModelcutError as error:
            error.message = f"{self._where}: {error.message}"
            raise


def streams(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether a tensor has rows that are small enough to be read one by one."""
    return bool(shape) and dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64)) <= BLOCK_BYTES

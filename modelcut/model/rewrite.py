"""Edits of one tensor that wait until it is pulled, and how each block is rewritten then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from modelcut.model.encoding import Encoding
from modelcut.model.measure import Count, Difference, count, difference


@dataclass(frozen=True)
class Rewrite:
    """How an edit rewrites one tensor, once it has seen it.

    Attributes:
        encoding: what the values are restricted to afterwards.
        block: pure function from the values of some rows, and which rows of axis 0 they are, to
            the new values, of the same shape. Called from several threads. None: the nearest
            values that the encoding permits.
        dtype: dtype of the new values; None: unchanged.
        whole: call `block` once with all rows (an edit that must see them at once).
        left_alone: why the tensor was skipped, where only its values can tell; `leave`
            makes such a rewrite.
        take: (axis, indices) pairs: the slices that are kept, the others being removed; instead of
            a `block`. The measured error is that of the removed values set to zero.
    """

    encoding: Encoding
    block: Callable[[np.ndarray, slice], np.ndarray] | None = None
    dtype: np.dtype | None = None
    whole: bool = False
    left_alone: str = ""
    take: tuple[tuple[int, np.ndarray], ...] = ()

    def of(
        self, before: np.ndarray, rows: slice, dtype: np.dtype, *, measured: bool
    ) -> tuple[np.ndarray, np.ndarray | None, tuple[Difference, Count] | None]:
        """The new values of some rows, in this dtype, and what was measured while at hand.

        Between the two stand the codes of the values, where they came up; else None.
        """
        codes = None
        if self.block is not None:
            after = self.block(before, rows)
        elif measured:
            after, codes = self.encoding.coded(before, rows)
        else:
            after = self.encoding.project(before, rows)
        # A block may come back in another type; what is counted is what will be kept.
        after = np.asarray(after, dtype)
        if not measured:
            return after, None, None
        seen = difference(before, after), count(after, self.encoding, rows, codes)
        return after, codes, seen


def leave(encoding: Encoding, reason: str) -> Rewrite:
    """A rewrite that changes nothing, for the reason that the report will give."""
    return Rewrite(encoding, lambda part, _: part, left_alone=reason)


Edit: TypeAlias = "Callable[[np.ndarray, Encoding], Rewrite]"
"""Looks at a whole tensor and its encoding (neither may be changed) and plans its rewriting."""


@dataclass(frozen=True)
class ByRows:
    """An edit that looks at the tensor by `values[rows]` only, and rewrites it block by block.

    It may be given an `Unread` in the place of an array: the tensor need not be in memory.

    Attributes:
        plan: the edit.
    """

    plan: Edit

    def __call__(self, values: Any, encoding: Encoding) -> Rewrite:
        """See `Edit`."""
        return self.plan(values, encoding)


@dataclass(frozen=True)
class Deferred:
    """An edit that waits for its tensor: which step asked for it, and what kinds it leads to."""

    step: int
    edit: Edit
    kinds: tuple[str, ...]

"""Zeroes whole filters (or inputs) of smallest L1 norm (Li et al. 2017, section 3.1)."""

from __future__ import annotations

from typing import ClassVar

from modelcut.steps.prune._norms import Norms


class L1(Norms):
    """Zero whole filters or inputs of smallest L1 norm; at least one per layer is kept."""

    order: ClassVar[int] = 1

"""Zeroes whole filters (or inputs) of smallest L2 norm (He et al. 2018, section 3.2)."""

from __future__ import annotations

from typing import ClassVar

from modelcut.steps.prune._norms import Norms


class L2(Norms):
    """Zero whole filters or inputs of smallest L2 norm; at least one per layer is kept."""

    order: ClassVar[int] = 2

"""Steps that restrict weights to few values: their tensors end up coded."""

from __future__ import annotations

SUMMARY = "Quantize weights to fewer bits."


DEFAULT = "linear"


ALIASES = {"huffman": "cluster"}
"""Former names of methods, which recipes and the command line still take."""


TOO_LARGE = "holds values too large for a scale in float32"
"""Why a tensor is skipped whose values are finite, but near the largest float."""


NOTHING_TO_SEARCH = {
    "budget": "it has no setting to search; quantize: binary, cluster and linear have one"
}
"""What a method lacks that is either applied to a layer or not."""

"""Steps that restrict weights to few values: their tensors end up coded."""

TOO_LARGE = "holds values too large for a scale in float32"
"""Why a tensor is left alone whose values are finite, but not by much."""

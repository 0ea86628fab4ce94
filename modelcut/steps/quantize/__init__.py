"""Steps that restrict weights to few values: their tensors end up coded."""

NOT_FINITE = "holds NaN or infinite values"
"""Why a tensor is left alone whose values have no nearest code."""

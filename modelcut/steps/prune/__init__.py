"""Steps that remove weights: their tensors end up `Sparse`, zeros exactly +0.0."""

SUMMARY = "Prune weights: set the least important ones to zero."
DEFAULT = "magnitude"

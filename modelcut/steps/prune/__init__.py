"""Steps that remove weights: their tensors end up `Sparse`, zeros exactly +0.0."""

SUMMARY = "Remove weights."
DEFAULT = "magnitude"

"""Steps that move factors between layers: the network computes what it computed before."""

SUMMARY = "Equalize the ranges of channels between layers, without changing what is computed."
DEFAULT = "cross_layer"

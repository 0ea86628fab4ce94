"""Steps that put what one layer computes into the weights of another."""

SUMMARY = "Fold layers into the weights of their neighbours."
DEFAULT = "batchnorm"

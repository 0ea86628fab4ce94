"""Steps that split a layer into a product of smaller ones."""

SUMMARY = "Factorize layers into products of smaller ones."
DEFAULT = "svd"

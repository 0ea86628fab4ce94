"""Steps that split a layer into a product of smaller ones."""

SUMMARY = "Split layers into products of smaller ones."
DEFAULT = "svd"

"""Steps that split a layer into a product of smaller ones."""

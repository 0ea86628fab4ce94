"""Steps that restrict weights to few values: their tensors end up coded."""

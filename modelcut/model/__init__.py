"""A model: its architecture and its tensors with their encodings."""

"""Keras HDF5 and `.keras` files."""

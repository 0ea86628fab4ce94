"""Arrays in blocks, floats as bit patterns, deflate. NumPy only."""

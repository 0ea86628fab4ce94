"""modelcut: makes Keras model files smaller and faster, from the shell."""

__version__ = "0.1.0"

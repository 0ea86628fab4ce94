"""What is known about Keras' own layers."""

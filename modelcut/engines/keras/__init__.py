"""Keras 3 and tf_keras: loading, running and training networks."""

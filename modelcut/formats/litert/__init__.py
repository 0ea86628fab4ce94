"""`.tflite` files."""

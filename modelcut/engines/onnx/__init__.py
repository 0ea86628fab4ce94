"""ONNX: made by Keras' own export, run by onnxruntime."""

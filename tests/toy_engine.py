"""A network of dense layers in NumPy: what engines do, by hand, with derivatives by hand."""

from __future__ import annotations

import numpy as np

from modelcut.data import InputSpec
from modelcut.engines import OutputSpec


class ToyNetwork:
    """Runs a sequential model of dense layers: ReLU between them, softmax at the end."""

    engine = "numpy"
    loss = "categorical_crossentropy"
    fixed_batch = None

    def __init__(self, model):
        self.values = {tensor.name: tensor.pull()[0] for tensor in model.tensors}
        self.layers = [layer.name for layer in model.layers if layer.tensors]
        first = self.values[f"{self.layers[0]}/kernel"]
        last = self.values[f"{self.layers[-1]}/kernel"]
        self.inputs = (InputSpec("x", (first.shape[0],)),)
        self.outputs = (OutputSpec("y", (last.shape[1],), "softmax"),)
        self.assigned = []

    def assign(self, values):
        self.assigned.append(sorted(values))
        for name, array in values.items():
            assert self.values[name].shape == array.shape
            self.values[name] = array

    def forward(self, x):
        """Inputs of each layer, and the probabilities."""
        inputs = []
        for name in self.layers:
            inputs.append(x)
            x = x @ self.values[f"{name}/kernel"] + self.values.get(f"{name}/bias", 0)
            if name != self.layers[-1]:
                x = np.maximum(x, 0)
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return inputs, x / x.sum(axis=1, keepdims=True)

    def predict(self, inputs, *, exact=False):
        return [self.forward(inputs["x"])[1]]

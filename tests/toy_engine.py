"""A laboratory in NumPy: networks of dense layers, with derivatives by hand."""

from __future__ import annotations

import numpy as np

from modelcut import metrics
from modelcut.lab import Rows


class ToyNetwork:
    """Runs a sequential model of dense layers: ReLU between them, softmax at the end."""

    engine = "numpy"

    def __init__(self, model):
        self.values = {tensor.name: tensor.pull()[0] for tensor in model.tensors}
        self.layers = [layer.name for layer in model.layers if layer.tensors]
        self.trainable = frozenset(self.values)
        self.written = []

    def read(self, names):
        return {name: self.values[name] for name in names}

    def write(self, values):
        self.written.append(sorted(values))
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

    def predict(self, rows):
        return [self.forward(rows.inputs[0])[1]]

    def loss(self, rows):
        chosen = self.predict(rows)[0][np.arange(len(rows)), rows.labels[0]]
        return float(-np.log(chosen).mean())

    def gradients(self, rows, names):
        inputs, delta = self.forward(rows.inputs[0])
        delta[np.arange(len(rows)), rows.labels[0]] -= 1
        delta = delta / len(rows)
        found = {}
        for name, x in zip(self.layers[::-1], inputs[::-1], strict=True):
            found[f"{name}/kernel"] = x.T @ delta
            found[f"{name}/bias"] = delta.sum(axis=0)
            delta = (delta @ self.values[f"{name}/kernel"].T) * (x > 0)
        return {name: found[name] for name in names}

    def layer_inputs(self, rows, layers):
        inputs, _ = self.forward(rows.inputs[0])
        return {name: [inputs[self.layers.index(name)]] for name in layers}


class ToyLab:
    """Rows in memory, labelled with what a teacher decides."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels
        self.opened = []

    @classmethod
    def taught_by(cls, model, rows=400, seed=3, shift=0):
        width = next(t.shape[0] for t in model.tensors)
        inputs = np.random.default_rng(seed).normal(size=(rows, width)).astype("float32")
        decided = ToyNetwork(model).forward(inputs)[1]
        return cls(inputs, (decided.argmax(axis=1) + shift) % decided.shape[1])

    def open(self, model):
        self.opened.append(ToyNetwork(model))
        return self.opened[-1]

    def rows(self, running, size, *, part="all", share=0.1, shuffle=-1):
        for at in range(0, len(self.inputs), size):
            yield Rows((self.inputs[at : at + size],), (self.labels[at : at + size],))

    def accumulator(self, running):
        units = running.values[f"{running.layers[-1]}/kernel"].shape[-1]
        return metrics.accumulator("multiclass", units)

    def judge(self, running, *, part="all", share=0.1):
        sums = self.accumulator(running)
        for rows in self.rows(running, 100):
            sums.update(rows.labels[0], running.predict(rows)[0])
        return sums.result()

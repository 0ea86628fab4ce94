"""The toy laboratory, made to be watched: what was written, and a teacher for labels."""

from __future__ import annotations

import numpy as np
from toy_runtime import ToyRunning, ToyRuntime

from modelcut.runtime import Rows


class ToyNetwork(ToyRunning):
    """Remembers what was written into it."""

    def __init__(self, model):
        super().__init__(model)
        self.written = []

    def write(self, values):
        self.written.append(sorted(values))
        super().write(values)

    def forward(self, inputs):
        """The probabilities of some rows."""
        return self._forward(Rows((inputs,), None))[1]


class WatchedLab(ToyRuntime):
    """All rows are for everything; remembers the networks that it opened."""

    def __init__(self, model, inputs, labels):
        super().__init__(model, inputs, labels)
        self.inputs, self.labels = inputs, labels
        self.opened = []

    @classmethod
    def taught_by(cls, model, rows=400, seed=3, shift=0):
        """Rows labelled with what a model decides on them."""
        width = next(tensor.shape[0] for tensor in model.tensors)
        inputs = np.random.default_rng(seed).normal(size=(rows, width)).astype("float32")
        decided = ToyNetwork(model).forward(inputs)
        return cls(model, inputs, (decided.argmax(axis=1) + shift) % decided.shape[1])

    def open(self, model):
        self.opened.append(ToyNetwork(model))
        return self.opened[-1]

    def rows(self, running, size, *, part="all", share=0.1, shuffle=-1, teacher=None):
        for at in range(0, len(self.inputs), size):
            yield Rows((self.inputs[at : at + size],), (self.labels[at : at + size],))

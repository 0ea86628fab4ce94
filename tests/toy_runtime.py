"""A runtime of NumPy alone: dense layers, convolutions and batch normalizations in a row, some
within submodels, softmax at the end.

Steps that need the network running are tested on it without TensorFlow.
"""

from __future__ import annotations

import contextlib

import numpy as np

from modelcut.metrics.scores import Scores, Target
from modelcut.metrics.task import Task
from modelcut.model.encoding import Sparse
from modelcut.runtime import Passed, Rows


class ToyRuntime:
    """See `runtime.Runtime`; the rows are given."""

    def __init__(self, original, inputs, labels):
        self.original = original
        self._rows = Rows((inputs,), None if labels is None else (labels,))

    workers = 1

    def open(self, model):
        return ToyRunning(model)

    @contextlib.contextmanager
    def timer(self, model, engine):
        """Seconds that go with the number of weights, on any machine."""
        del engine
        yield lambda: 1e-9 * sum(t.size for t in model.tensors if t.kind == "kernel")

    def agreed(self, numbers):
        return list(numbers)

    @property
    def teacher(self):
        return self.open(self.original)

    def rows(self, running, size, *, part="all", share=0.1, shuffle=-1, teacher=None):
        del teacher  # it is run in each step
        number = np.arange(len(self._rows))
        aside = number < share * len(number)
        chosen = {"train": number[~aside], "validation": number[aside]}.get(part, number)
        if shuffle >= 0:
            chosen = np.random.default_rng(shuffle).permutation(chosen)
        for start in range(0, len(chosen), size):
            yield self._rows[chosen[start : start + size]]

    def scores(self, running):
        units = running.values[f"{running.layers[-1][0]}/kernel"].shape[-1]
        return Scores([Target("y", Task("multiclass", units, logits=False), (0,), ("label",))])

    def judge(self, running, *, part="all", share=0.1):
        rows = next(self.rows(running, len(self._rows), part=part, share=share))
        outputs = running.predict(rows)[0]
        right = outputs.argmax(axis=1) == rows.labels[0]
        return {"accuracy": float(right.mean()), "log_loss": running.loss(rows)}


class ToyRunning:
    """See `runtime.Running`."""

    engine = "numpy"

    def __init__(self, model):
        self.values = {t.name: t.pull()[0].astype("float32") for t in model.tensors}
        self.layers = [
            (layer.name, layer.config.get("activation") == "relu")
            for layer in model.layers
            if layer.tensors
        ]
        self.normalizations = {
            layer.name for layer in model.layers if layer.class_name == "BatchNormalization"
        }
        self.depthwise = {
            layer.name for layer in model.layers if layer.class_name.startswith("Depthwise")
        }
        frozen = {layer.name for layer in model.layers if layer.config.get("trainable") is False}
        self.trainable = frozenset(n for n in self.values if n.rpartition("/")[0] not in frozen)

    def read(self, names):
        return {name: self.values[name].copy() for name in names}

    def write(self, values):
        self.values.update({name: array.astype("float32") for name, array in values.items()})

    def _kernel(self, name):
        """The kernel; of a depthwise convolution that of a plain one which does the same."""
        kernel = self.values[f"{name}/kernel"]
        return kernel * np.eye(kernel.shape[2]) if name in self.depthwise else kernel

    def _patches(self, name, x):
        """What the kernel multiplies, on the last axis: the inputs, or what lies under a window."""
        kernel = self._kernel(name)
        if kernel.ndim == 2:  # a Flatten before it has no weights, and is not in the layers
            return x.reshape(len(x), -1)
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
        places = np.moveaxis(windows, 3, -1)
        return places.reshape(*places.shape[:3], -1)

    def _normalized(self, name, x):
        of = {
            role: self.values[f"{name}/{role}"]
            for role in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        plain = (x - of["moving_mean"]) / np.sqrt(of["moving_variance"] + 1e-3)
        return plain, of["gamma"], plain * of["gamma"] + of["beta"]

    def _forward(self, rows):
        seen, x = [], rows.inputs[0]
        for number, (name, relu) in enumerate(self.layers):
            if name in self.normalizations:
                z = self._normalized(name, x)[2]
            else:
                kernel = self._kernel(name)
                flat = kernel.reshape(-1, kernel.shape[-1])
                z = self._patches(name, x) @ flat + self.values.get(f"{name}/bias", 0)
            seen.append((x, z))
            x = np.maximum(z, 0) if relu and number < len(self.layers) - 1 else z
        raised = np.exp(x - x.max(axis=1, keepdims=True))
        return seen, raised / raised.sum(axis=1, keepdims=True)

    def predict(self, rows):
        return [self._forward(rows)[1]]

    def loss(self, rows):
        outputs = self.predict(rows)[0]
        return float(-np.log(outputs[np.arange(len(rows)), rows.labels[0]] + 1e-12).mean())

    def gradients(self, rows, names):
        truth = np.eye(self._forward(rows)[1].shape[1])[rows.labels[0]]
        return self._gradients(rows, names, truth)

    def _gradients(self, rows, names, truth):
        seen, outputs = self._forward(rows)
        slope = (outputs - truth) / len(rows)
        found = {}
        for number in range(len(self.layers) - 1, -1, -1):
            name, relu = self.layers[number]
            x, z = seen[number]
            slope = slope.reshape(z.shape)
            if relu and number < len(self.layers) - 1:
                slope = slope * (z > 0)
            slope = self._backward(name, x, slope, found)
        return {name: found[name].astype("float32") for name in names}

    def _backward(self, name, x, slope, found):
        """The slope of a layer's inputs; adds those of its weights to `found`."""
        axes = tuple(range(slope.ndim - 1))
        if name in self.normalizations:
            plain, gamma, _ = self._normalized(name, x)
            found[f"{name}/gamma"] = (slope * plain).sum(axis=axes)
            found[f"{name}/beta"] = slope.sum(axis=axes)
            return slope * gamma / np.sqrt(self.values[f"{name}/moving_variance"] + 1e-3)
        kernel, patches = self._kernel(name), self._patches(name, x)
        width = patches.shape[-1]
        weights = patches.reshape(-1, width).T @ slope.reshape(-1, slope.shape[-1])
        weights = weights.reshape(kernel.shape)
        if name in self.depthwise:
            weights = np.diagonal(weights, axis1=2, axis2=3)[..., None]
        found[f"{name}/kernel"] = weights
        found[f"{name}/bias"] = slope.sum(axis=axes)
        before = slope @ kernel.reshape(width, -1).T
        if kernel.ndim == 2:
            return before.reshape(x.shape)
        before = before.reshape(*before.shape[:3], *kernel.shape[:3])
        total, (rows, columns) = np.zeros_like(x), before.shape[1:3]
        for i, j in np.ndindex(kernel.shape[:2]):
            total[:, i : i + rows, j : j + columns] += before[:, :, :, i, j]
        return total

    def layer_inputs(self, rows, layers, *, again=False):
        seen, _ = self._forward(rows)
        found = {name: x for (name, _), (x, _) in zip(self.layers, seen, strict=True)}
        return {name: [self._given(name, found[name])] for name in layers}

    def _given(self, name, x):
        """What goes into a layer: flat into a dense one, for a Flatten is not in the layers."""
        kernel = self.values.get(f"{name}/kernel")
        return x.reshape(len(x), -1) if kernel is not None and kernel.ndim == 2 else x

    def trainer(self, plan):
        return ToyTrainer(self, plan)


class ToyTrainer:
    """See `runtime.Trainer`: plain gradient descent, NumPy's own projections."""

    def __init__(self, running, plan):
        self.running, self.plan = running, plan
        self.weights = running.read(plan.constraints)
        self.masks = {
            name: self.weights[name] != 0
            for name, constraint in plan.constraints.items()
            if isinstance(constraint.encoding, Sparse)
        }
        self.moved = {
            name: np.zeros_like(self.weights[name])
            for name, constraint in plan.constraints.items()
            if constraint.movement
        }
        self.kept = None

    def run(self, rows, rates):
        total = right = 0.0
        for number, rate in enumerate(rates):
            part = rows[number * self.plan.batch : (number + 1) * self.plan.batch]
            self.settle()
            truth = 0.0
            if part.labels is not None:
                outputs = self.running.predict(part)[0]
                right += float((outputs.argmax(axis=1) == part.labels[0]).sum())
                truth = (1 - self.plan.distill) * np.eye(outputs.shape[1])[part.labels[0]]
                total += self.running.loss(part)
            if self.plan.distill:
                truth = truth + self.plan.distill * self.plan.teacher.predict(part)[0]
            slopes = self.running._gradients(part, list(self.weights), truth)
            for name, slope in slopes.items():
                constraint = self.plan.constraints[name]
                if name in self.moved:
                    self.moved[name] = self.moved[name] - rate * slope * self.weights[name]
                if name in self.masks and not constraint.regrow:
                    slope = slope * self.masks[name]
                self.weights[name] = self.weights[name] - np.float32(rate) * slope
                limit = np.float32(rate * constraint.l1)
                if limit:
                    size = np.maximum(np.abs(self.weights[name]) - limit, 0)
                    self.weights[name] = np.sign(self.weights[name]) * size
            for group in self.plan.coupled:
                self._shrink_together(group, rate)
        return Passed(total / len(rates), right, len(rates) * self.plan.batch)

    def _shrink_together(self, group, rate):
        squares, count = np.zeros(group.channels), np.zeros(group.channels)
        for name, axis, channels in group.parts:
            for index in np.flatnonzero(channels >= 0):
                values = self.weights[name].take(index, axis=axis)
                squares[channels[index]] += np.square(values).sum()
                count[channels[index]] += values.size
        limit = rate * group.strength * np.sqrt(count)
        factors = np.maximum(1 - limit / np.maximum(np.sqrt(squares), 1e-30), 0)
        for name, axis, channels in group.parts:
            shape = [-1 if n == axis else 1 for n in range(self.weights[name].ndim)]
            factor = np.where(channels < 0, 1, factors[channels]).astype("float32")
            self.weights[name] = self.weights[name] * factor.reshape(shape)

    def latent(self, names):
        return {name: self.weights[name].copy() for name in names}

    def saliency(self, names):
        return {name: self.moved.get(name, np.abs(self.weights[name])) for name in names}

    def mask(self, masks):
        self.masks.update(masks)

    def _projected(self, name):
        encoding, values = self.plan.constraints[name].encoding, self.weights[name]
        return encoding.project(values, like=self.masks.get(name))

    def settle(self):
        self.running.write({name: self._projected(name) for name in self.weights})

    def save(self):
        self.kept = dict(self.weights), dict(self.masks)

    def restore(self):
        if self.kept:
            self.weights, self.masks = dict(self.kept[0]), dict(self.kept[1])
        self.settle()

    def state(self):
        weights, masks = (self.weights, self.masks) if self.kept is None else self.kept
        parts = {"now": (self.weights, self.masks), "kept": (weights, masks)}
        return {
            f"{when} {kind} {name}": values
            for when, pair in parts.items()
            for kind, table in zip(("weights", "mask"), pair, strict=True)
            for name, values in table.items()
        }

    def load(self, state):
        def part(when, kind):
            start = f"{when} {kind} "
            return {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}

        self.weights, self.masks = part("now", "weights"), part("now", "mask")
        self.kept = part("kept", "weights"), part("kept", "mask")

    def ranges(self):
        return {}

    def result(self):
        return {
            name: (self._projected(name), constraint.encoding)
            for name, constraint in self.plan.constraints.items()
        }


def toy_runtime(model, rows=60, seed=0, labelled=True):
    """A runtime of random rows for a toy model, labelled by a rule that can be learned."""
    rng = np.random.default_rng(seed)
    kernels = [t for t in model.tensors if t.kind == "kernel"]
    image = model.layers[0].config.get("batch_input_shape")
    shape = tuple(image[1:]) if image else (kernels[0].shape[0],)
    inputs = rng.normal(size=(rows, *shape)).astype("float32")
    rule = rng.normal(size=(int(np.prod(shape)), kernels[-1].shape[1]))
    labels = (inputs.reshape(rows, -1) @ rule).argmax(axis=1).astype(np.int64)
    return ToyRuntime(model, inputs, labels if labelled else None)

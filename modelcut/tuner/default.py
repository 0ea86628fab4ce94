"""The space that is searched where the user names none: made of what the model holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelcut.formats import registry
from modelcut.job import inspect
from modelcut.model.model import Layer, Model
from modelcut.recipe.space import Space
from modelcut.recipe.yaml_text import Document
from modelcut.steps.base import TARGET_KINDS
from modelcut.tuner.ladder import First

_CONV = "class:*Conv*?"
_DEPTHWISE = "class:*Depthwise*?"
_SEPARABLE = "role:depthwise_kernel?"
"""The one of the two kernels of a separable convolution that has few weights."""
_FASTER = ("latency_ms", "macs")
_RUNGS = 24
_FEW = 0.25
"""Of the weights, what the first and the last layer may have to be treated by themselves."""
_HOLD = 0.6
"""Fraction of a training that prunes during which the learning rate stays at its peak."""
_EMBEDDING = "role:embedding?"
_BYTES = {"quantize": "linear", "bits": 8, "per": "channel", "range": "mse"}
"""Costs hardly any accuracy, and no time."""
_LARGE = 200_000
"""Networks of more parameters are trained longer before they are judged."""


@dataclass(frozen=True)
class Facts:
    """What decides which steps make sense.

    Attributes:
        train: whether there is training data, and the network can be trained.
        samples: whether there are calibration samples, and steps may try the network out on them.
        suffix: suffix of the output.
        objective: name of the first objective.
        convolutions: whether there are convolutions beside other layers with kernels.
        depthwise, separable: whether there are depthwise and separable convolutions.
        channels: whether channels can be removed.
        first, last: names of the first and the last layer with a kernel, which are the most
            sensitive ones as a rule; "" where more than a quarter of the weights are in it.
        parameters: number of parameters.
        embeddings: whether there are embeddings, which pruning skips unless they are named.
        untrainable: why the network cannot be trained, such as the graph of a SavedModel.
        types: of the conversion into a `.tflite`, the smallest first.
    """

    train: bool
    samples: bool
    suffix: str
    objective: str
    convolutions: bool
    depthwise: bool
    separable: bool
    channels: bool
    first: str
    last: str
    parameters: int
    embeddings: bool = False
    untrainable: str = ""
    types: tuple[str, ...] = ("dynamic", "float16")

    @property
    def coded(self) -> list[str]:
        """What is pruned and clustered: in a small file, biases take a part."""
        return [*self.weights, "role:bias?"]

    @property
    def weights(self) -> list[str]:
        """What steps that prune aim at by default, and the embeddings."""
        embeddings = [_EMBEDDING] if self.embeddings else []
        return [*embeddings, *(f"role:{kind}?" for kind in sorted(TARGET_KINDS))]

    @classmethod
    def of(cls, model: Model, *, train: bool, samples: bool, suffix: str, objective: str) -> Facts:
        """Looks at a model; nothing is run."""
        layers = [layer for layer in model.layers if _has_kernel(layer)]
        conv = [layer for layer in layers if "Conv" in layer.class_name]
        weights = [sum(tensor.size for tensor in layer.tensors) for layer in layers]
        few = [
            layer.name if size <= _FEW * sum(weights) else ""
            for layer, size in zip(layers, weights, strict=True)
        ]
        architecture = model.architecture
        removable = architecture is not None and _removable(model)
        untrainable, _ = registry.of_model(model).untrainable(model)
        if architecture is None:
            untrainable = untrainable or "its layers are not in the file"
        litert = registry.by_name("litert")
        int8 = not litert.unconvertible(model, "int8") and not model.origin.configuration
        return cls(
            train=train and not untrainable,
            samples=samples and not untrainable,
            suffix=suffix,
            objective=objective,
            convolutions=0 < len(conv) < len(layers),
            depthwise=any("Depthwise" in layer.class_name for layer in layers),
            separable=any("SeparableConv" in layer.class_name for layer in layers),
            channels=removable,
            first=few[0] if few else "",
            last=few[-1] if few else "",
            parameters=sum(tensor.size for tensor in model.tensors),
            embeddings=any(
                tensor.kind == "embedding" and tensor.dtype.kind == "f" for tensor in model.tensors
            ),
            untrainable=untrainable if train else "",
            types=(*(["int8"] if samples and int8 else []), *cls.types),
        )


def space_of(facts: Facts) -> tuple[Space, First]:
    """The default space, and the points of it that are tried first.

    Where there is training data, weights or channels are pruned while the network is fine-tuned,
    the rest is clustered, and fine-tuned again (Han et al. 2016). Without, pruning is gentle. A
    `.tflite` is made faster by fewer channels and quantized by its converter.
    """
    space = Space.of(Document("the default space", _data(facts, _Open())))
    known = [space.locate(data) for data in _known(facts)]
    rungs = [space.locate(_data(facts, _Open((rung + 0.5) / _RUNGS))) for rung in range(_RUNGS - 1)]
    lengths = [name for name in space.parameters if name.endswith(".steps")]
    # Every one of them is a point of the space, as a test holds it to.
    return space, First(
        tuple(point for point in known if point is not None),
        tuple(point for point in rungs if point is not None),
        untrained=() if known or facts.objective in _FASTER else (_BYTES,),
        last=lengths[-1] if len(lengths) > 1 else "",
        note=f"no step trains: {facts.untrainable}" if facts.untrainable else "",
    )


class _Open:
    """Values that are open, or those of a point on the way from careful to bold.

    Attributes:
        at: how bold, 0 to 1; None: the values are open.
        kept: 0.7 down to two thousandths, the fraction of weights that is kept there.
    """

    def __init__(self, at: float | None = None) -> None:
        self.at = at
        bold = at or 0.0
        self.kept = 0.7 * 0.002**bold

    def choose(self, values: list[Any], at: float) -> Any:
        """One of several values; the one nearest to this fraction of the list."""
        if self.at is None:
            return {"choose": values}
        return values[min(int(at * len(values)), len(values) - 1)]

    def among(self, low: float, high: float, value: float, *, log: bool = False) -> Any:
        """A number in a range."""
        if self.at is None:
            return {"range": [low, high], **({"log": True} if log else {})}
        return float(f"{min(max(value, low), high):.4g}")

    def maybe(self, step: Any, *, taken: bool) -> list[Any]:
        """A step that may be left out."""
        if self.at is None:
            return [{"maybe": step}]
        return [step] if taken else []


def _data(facts: Facts, opened: _Open) -> dict[str, Any]:
    if facts.suffix == ".tflite":
        return {"steps": _for_litert(facts, opened), "export": _export(facts, opened)}
    return {"steps": _for_file(facts, opened)}


def _known(facts: Facts) -> list[dict[str, Any]]:
    """What comes with modelcut and trains nothing: the recipes int8 and int4-no-training."""
    if facts.suffix == ".tflite":
        return [{"steps": [], "export": {"type": facts.types[0]}}]
    if facts.train or facts.objective in _FASTER:
        return []
    looks = {"rounding": "gptq", "correct": "both"} if facts.samples else {}
    linear = {**_BYTES, "range": "output" if facts.samples else "mse", **looks}
    return [{"steps": [linear]}, {"steps": [{**linear, "bits": 4}]}]


def _for_file(facts: Facts, opened: _Open) -> list[Any]:
    steps: list[Any] = []
    faster = facts.objective in _FASTER
    if facts.channels and (facts.train or faster):
        steps += _channels(facts, opened, always=faster)
    if not facts.train:
        if not faster:
            steps += opened.maybe(_magnitude(facts, opened), taken=True)
            steps.append(_coded(facts, opened))
        return steps
    if faster:
        return [*steps, _finetune(facts, opened, sparse=False)]
    again = {
        "finetune": "straight_through",
        "steps": opened.choose([200, 600, 1800, 5400], 0.6 if facts.parameters > _LARGE else 0.3),
        "learning_rate": opened.among(1e-4, 2e-3, 7e-4, log=True),
        "validation": 0,
        "mask": "dynamic",
        "distill": {"weight": 0.7, "temperature": 4},
    }
    coded = {**_coded(facts, opened), "include": facts.coded}
    steps += [_finetune(facts, opened, sparse=True), coded, again]
    if facts.channels:
        steps.append({"prune": "dead"})  # what is left of units that nothing reads any more
    return steps


def _for_litert(facts: Facts, opened: _Open) -> list[Any]:
    steps: list[Any] = []
    if facts.channels:
        steps += _channels(facts, opened, always=False)
    if facts.train:
        steps += opened.maybe(_finetune(facts, opened, sparse=False), taken=True)
    return steps


def _export(facts: Facts, opened: _Open) -> dict[str, Any]:
    return {"type": opened.choose(list(facts.types), 0.0)}


def _channels(facts: Facts, opened: _Open, *, always: bool) -> list[Any]:
    """Fewer channels; for a small file alone, weights are pruned rather than channels."""
    litert = facts.suffix == ".tflite"
    criteria = ["obs", "l2", "fpgm", "taylor"] if facts.train else ["l2", "fpgm"]
    step = {
        "prune": "channels",
        "criterion": opened.choose(criteria, 0.0),
        "macs": opened.among(0.1, 0.95, 0.95 - 0.85 * (opened.at or 0.0)),
        "minimum": 2,
    }
    return [step] if always else opened.maybe(step, taken=litert)


def _magnitude(facts: Facts, opened: _Open) -> dict[str, Any]:
    bold = opened.at or 0.0
    step: dict[str, Any] = {
        "prune": "magnitude",
        "sparsity": opened.among(0.1, 0.9, 0.1 + 0.7 * bold),
        "scope": "layer",
    }
    if facts.embeddings:
        step["include"] = facts.weights
    own = opened.among(0.1, 0.7, 0.1 + 0.4 * bold)
    if overrides := {name: {"sparsity": own} for name in _sensitive(facts)}:
        step["overrides"] = overrides
    return step


def _coded(facts: Facts, opened: _Open) -> dict[str, Any]:
    bold = opened.at or 0.0
    cluster: dict[str, Any] = {
        "quantize": "cluster",
        "values": opened.choose([32, 24, 16, 12, 8, 6, 5, 4], 0.1 + 0.95 * bold),
        "entropy_weight": opened.choose([0.0, 0.005, 0.01, 0.02, 0.05], 0.7),
    }
    if facts.train:
        return cluster
    many = [64, 32, 16, 12, 8, 6]
    cluster["values"] = opened.choose(many, bold)
    if sensitive := _sensitive(facts):
        own = opened.choose(many, max(0.0, bold - 0.2))
        cluster["overrides"] = {name: {"values": own} for name in sensitive}
    linear = {
        "quantize": "linear",
        "bits": opened.choose([8, 6, 5, 4, 3], 0.0),
        "per": "channel",
        "range": opened.choose(["mse", "minmax", *(["output"] if facts.samples else [])], 0.0),
    }
    if facts.samples:
        # Rounding by the error of the outputs, with their statistics matched.
        looks = {"rounding": opened.choose(["nearest", "gptq"], 0.9), "correct": "both"}
        cluster |= looks
        linear |= looks
    # A choice of a step has its own values open, which `choose` would not look into.
    return cluster if opened.at is not None else {"choose": [cluster, linear]}


def _finetune(facts: Facts, opened: _Open, *, sparse: bool) -> dict[str, Any]:
    step: dict[str, Any] = {
        "finetune": "straight_through",
        "steps": opened.choose([400, 1200, 3600], 0.9 if facts.parameters > _LARGE else 0.5),
        "learning_rate": opened.among(3e-4, 4e-3, 1.5e-3, log=True),
        "validation": 0,
        "distill": {
            "weight": opened.choose([0.5, 0.7], 0.9),
            "temperature": opened.choose([2, 4], 0.9),
        },
    }
    if not sparse:
        return step
    # Convolutions use each weight many times, the first and the last layer have few.
    overrides: dict[str, Any] = {}
    if facts.convolutions:
        overrides[_CONV] = opened.among(0.2, 0.97, 1 - opened.kept**0.55)
    if facts.depthwise:
        overrides[_DEPTHWISE] = opened.among(0.0, 0.8, 1 - opened.kept**0.25)
    if facts.separable:
        overrides[_SEPARABLE] = opened.among(0.0, 0.8, 1 - opened.kept**0.25)
    if facts.first.isidentifier():
        overrides[f"path:{facts.first}"] = opened.among(0.1, 0.9, 1 - opened.kept**0.15)
    if facts.last.isidentifier():
        overrides[f"path:{facts.last}"] = opened.among(0.2, 0.97, 1 - opened.kept**0.45)
    if facts.embeddings:
        overrides[_EMBEDDING] = opened.among(0.1, 0.97, 1 - opened.kept**0.45)
    overrides["role:bias?"] = opened.among(0.2, 0.97, 1 - opened.kept**0.45)
    prune: dict[str, Any] = {
        "sparsity": opened.among(0.3, 0.999, 1 - opened.kept),
        "end": 0.5,
        "include": facts.coded,
        "overrides": overrides,
    }
    return {**step, "hold": _HOLD, "mask": "dynamic", "prune": prune}


def _sensitive(facts: Facts) -> list[str]:
    """Convolutions and the last layer: few weights, much used."""
    found = [_CONV] if facts.convolutions else []
    return [*found, *([f"path:{facts.last}"] if facts.last.isidentifier() else [])]


def _has_kernel(layer: Layer) -> bool:
    return any(tensor.kind in TARGET_KINDS and tensor.dtype.kind == "f" for tensor in layer.tensors)


def _removable(model: Model) -> bool:
    return bool(inspect.channels(model).groups)

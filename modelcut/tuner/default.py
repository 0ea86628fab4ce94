"""The space that is searched where the user names none: made of what the model holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelcut.job import inspect
from modelcut.model.model import Layer, Model
from modelcut.recipe.space import Parameter, Space
from modelcut.recipe.yaml_text import Document
from modelcut.steps.base import TARGET_KINDS
from modelcut.tuner.sampler import drawn_from

_CONV = "class:*Conv*?"
_FASTER = ("latency_ms", "macs")


@dataclass(frozen=True)
class Facts:
    """What decides which steps make sense.

    Attributes:
        train: whether there is training data, and steps may train.
        samples: whether there are calibration samples.
        suffix: suffix of the output.
        objective: name of the first objective.
        fixed: the graph cannot be changed, such as that of a SavedModel or a `.tflite`.
        convolutions: whether there are convolutions beside other layers with kernels.
        channels: whether channels can be removed.
        last: name of the last layer with a kernel, which is the most sensitive one as a rule.
        parameters: number of parameters.
    """

    train: bool
    samples: bool
    suffix: str
    objective: str
    fixed: bool
    convolutions: bool
    channels: bool
    last: str
    parameters: int

    @classmethod
    def of(cls, model: Model, *, train: bool, samples: bool, suffix: str, objective: str) -> Facts:
        """Looks at a model; nothing is run."""
        layers = [layer for layer in model.layers if _has_kernel(layer)]
        conv = [layer for layer in layers if "Conv" in layer.class_name]
        architecture = model.architecture
        removable = architecture is not None and _removable(model)
        return cls(
            train=train and not model.origin.configuration,
            samples=samples and not model.origin.configuration,
            suffix=suffix,
            objective=objective,
            fixed=architecture is None,
            convolutions=0 < len(conv) < len(layers),
            channels=removable,
            last=layers[-1].name if layers else "",
            parameters=sum(tensor.size for tensor in model.tensors),
        )


def space_of(facts: Facts) -> tuple[Space, tuple[Mapping[str, Any], ...]]:
    """The default space, and the points of it that are tried first.

    Where there is training data, weights or channels are pruned while the network is fine-tuned,
    the rest is clustered, and fine-tuned again (Han et al. 2016). Without, pruning is gentle. A
    `.tflite` is made faster by fewer channels and quantized by its converter.
    """
    if facts.suffix == ".tflite":
        data = {"steps": _for_litert(facts), "export": _export(facts)}
    else:
        data = {"steps": _for_file(facts)}
    space = Space.of(Document("the default space", data))
    return space, tuple(_starts(space))


def _for_file(facts: Facts) -> list[Any]:
    steps: list[Any] = []
    faster = facts.objective in _FASTER
    if facts.channels and (facts.train or faster):
        steps.append(_channels(facts, always=faster))
    if not facts.train:
        if not faster:
            steps.append({"maybe": _magnitude(facts)})
            steps.append(_coded(facts))
        return steps
    if faster:
        return [*steps, _finetune(facts, sparse=False)]
    return [
        *steps,
        _finetune(facts, sparse=True),
        _coded(facts),
        {
            "maybe": {
                "quantize": "cluster",
                "include": ["role:bias"],
                "values": 8,
                "entropy_weight": 0.02,
            }
        },
        {
            "finetune": "straight_through",
            "epochs": {"choose": [1, 3, 6]},
            "learning_rate": {"range": [1e-4, 1e-3], "log": True},
            "validation": 0,
            "mask": "dynamic",
            "distill": {"weight": 0.5, "temperature": 3},
        },
    ]


def _for_litert(facts: Facts) -> list[Any]:
    steps: list[Any] = []
    if facts.channels:
        steps.append(_channels(facts, always=False))
    if facts.train:
        steps.append(_finetune(facts, sparse=False))
    return steps


def _export(facts: Facts) -> dict[str, Any]:
    types = ["int8", "dynamic", "float16"] if facts.samples else ["dynamic", "float16"]
    return {"type": {"choose": types}}


def _channels(facts: Facts, *, always: bool) -> dict[str, Any]:
    step = {
        "prune": "channels",
        "criterion": {"choose": ["l2", "fpgm", "taylor"] if facts.train else ["l2", "fpgm"]},
        "macs": {"range": [0.25, 0.95]},
        "minimum": 2,
    }
    return step if always else {"maybe": step}


def _magnitude(facts: Facts) -> dict[str, Any]:
    step: dict[str, Any] = {
        "prune": "magnitude",
        "sparsity": {"range": [0.1, 0.9]},
        "scope": "layer",
    }
    if overrides := _overrides(facts, "sparsity", {"range": [0.1, 0.7]}):
        step["overrides"] = overrides
    return step


def _coded(facts: Facts) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "quantize": "cluster",
        "values": {"choose": [4, 5, 6, 8, 12, 16, 24, 32]},
        "entropy_weight": {"choose": [0.0, 0.005, 0.01, 0.02, 0.05]},
    }
    if facts.train:
        return cluster
    values = {"choose": [6, 8, 12, 16, 32, 64]}
    if overrides := _overrides(facts, "values", values):
        cluster["overrides"] = overrides
    linear = {
        "quantize": "linear",
        "bits": {"choose": [3, 4, 5, 6, 8]},
        "per": "channel",
        "range": {"choose": ["mse", "minmax"]},
    }
    if facts.samples:
        # Rounding by the error of the outputs, with their statistics matched.
        looks = {"rounding": {"choose": ["nearest", "gptq"]}, "correct": "both"}
        cluster |= looks
        linear |= looks
    return {"choose": [cluster, linear]}


def _finetune(facts: Facts, *, sparse: bool) -> dict[str, Any]:
    step: dict[str, Any] = {
        "finetune": "straight_through",
        "epochs": {"choose": [3, 6, 12]},
        "learning_rate": {"range": [3e-4, 3e-3], "log": True},
        "validation": 0,
        "distill": {"weight": {"choose": [0.5, 0.7]}, "temperature": {"choose": [2, 4]}},
    }
    if sparse:
        prune: dict[str, Any] = {"sparsity": {"range": [0.4, 0.985]}, "end": 0.5}
        own = _overrides(facts, "sparsity", {"range": [0.3, 0.95]})
        if own:
            prune["overrides"] = {name: fields["sparsity"] for name, fields in own.items()}
        step |= {"mask": "dynamic", "prune": prune}
    return step


def _overrides(facts: Facts, field: str, value: Any) -> dict[str, Any]:
    """A setting of its own for convolutions and for the last layer: few weights, much used."""
    found = {}
    if facts.convolutions:
        found[_CONV] = {field: value}
    if facts.last and facts.last.isidentifier():
        found[f"path:{facts.last}"] = {field: value}
    return found


def _starts(space: Space) -> list[Mapping[str, Any]]:
    """A careful point, one in the middle, and a bold one."""
    return [
        {name: _at(name, parameter, at) for name, parameter in space.parameters.items()}
        for at in (0.25, 0.5, 0.8)
    ]


def _at(name: str, parameter: Parameter, at: float) -> Any:
    # Of values and bits many are careful, of sparsity little is.
    careful_high = name.rsplit(".", 1)[-1] in ("values", "bits", "macs")
    return drawn_from(parameter, 1 - at if careful_high else at)


def _has_kernel(layer: Layer) -> bool:
    return any(tensor.kind in TARGET_KINDS and tensor.dtype.kind == "f" for tensor in layer.tensors)


def _removable(model: Model) -> bool:
    return bool(inspect.channels(model).groups)

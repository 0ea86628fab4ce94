"""A recipe for a model and a goal, at once: `modelcut recipe new`."""

from __future__ import annotations

import json
from typing import Literal

from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.graph.keras.channel_values import activation
from modelcut.model.model import Model
from modelcut.tuner.default import Facts

Goal = Literal["size", "speed", "microcontroller"]

_SMALL = 20_000
"""Networks of fewer parameters lose more by the same sparsity."""

_SUFFIX = {"size": ".mcut", "speed": ".tflite", "microcontroller": ".tflite"}


def recipe_for(model: Model, goal: Goal) -> str:
    """The recipe as YAML text with comments.

    Args:
        model: the model.
        goal: what is to be achieved.

    Raises:
        InputError: the file cannot be edited, such as a `.tflite`.
    """
    if final := registry.of_model(model).final:
        raise InputError(f"{model.origin.path}: {final}")
    facts = Facts.of(model, train=True, samples=True, suffix=_SUFFIX[goal], objective="bytes")
    name = model.origin.path.name
    made = {"size": _size, "speed": _speed, "microcontroller": _microcontroller}[goal](facts)
    flags = "--train train.csv --test test.csv" if facts.train else "--test test.csv"
    if goal != "size" and facts.types[0] == "int8":
        flags += " --calibrate train.csv"
    head = [
        f"# {_TITLE[goal]} of {_plain(name)}: {facts.parameters:,} parameters.",
        "#",
        f"#     modelcut run {_plain(name)} -r recipe.yaml {flags} -o small{_SUFFIX[goal]}",
        "#",
        "# A first choice by the network's layers; nothing was tried. `modelcut search` tries.",
        "version: 1",
        "",
        "# data:                  # how samples are read, where it is not found out",
        "#   label: label         # the column that holds the labels",
        "#   scale: 1/255         # where the network was trained on scaled features",
        "",
    ]
    gates = ["", "# Conditions for exit code 0, judged on --test."]
    if _decides(model):
        gates += ["gates:", "  max_accuracy_drop: 0.01"]
        gates += ["  # max_bytes: 64kB"] if goal == "microcontroller" else []
    else:
        gates += ["# gates:", "#   max_rmse_increase: 0.01   # of a classifier: max_accuracy_drop"]
    return "\n".join([*head, *made, *gates]) + "\n"


_TITLE = {
    "size": "A small file",
    "speed": "A faster network",
    "microcontroller": "An int8 .tflite for a microcontroller",
}


def _decides(model: Model) -> bool:
    """Whether the network's last activation says that it is a classifier."""
    nodes = model.architecture.nodes if model.architecture else ()
    names = [activation(node.config) for node in nodes if "activation" in node.config]
    last = nodes[-1].class_name.lower() if nodes else ""
    return last == "softmax" or (names[-1:] or [""])[0] in ("softmax", "sigmoid")


def _size(facts: Facts) -> list[str]:
    """Prune while fine-tuning, cluster, fine-tune again (Han et al. 2016); else 8 bits."""
    if not facts.train:
        return [
            "steps:",
            f"  # No step trains: {facts.untrainable}.",
            "  - quantize: linear    # entropy-coded in a .mcut",
            "    bits: 8",
            "    range: mse",
        ]
    sparsity = 0.6 if facts.parameters < _SMALL else 0.85
    included = [f"include: {json.dumps(facts.weights)}"] if facts.embeddings else []
    overrides = [
        f'"{pattern}": {round(sparsity * 0.6, 2)}    # {why}'
        for pattern, why, there in (
            ("class:*Conv*?", "convolutions use each weight many times", facts.convolutions),
            ("role:embedding?", "each token uses one row only", facts.embeddings),
        )
        if there
    ]
    prune = [f"    prune: {{sparsity: {sparsity}, end: 0.5}}"]
    if overrides:
        fields = [f"sparsity: {sparsity}", "end: 0.5", *included, "overrides:"]
        prune = [
            "    prune:",
            *(f"      {line}" for line in fields),
            *(f"        {line}" for line in overrides),
        ]
    return [
        "steps:",
        "  - finetune: straight_through",
        "    epochs: 10",
        "    hold: 0.6           # fraction of the training before the learning rate decays",
        "    mask: dynamic       # pruned weights may come back while the sparsity grows",
        "    distill: {weight: 0.5, temperature: 3}   # the original is the teacher",
        *prune,
        "",
        "  - quantize: cluster   # weights share a few values; their indices are entropy-coded",
        "    values: 16",
        "    entropy_weight: 0.01",
        "",
        "  - finetune: straight_through   # zeros stay zero, shared values stay shared",
        "    epochs: 5",
        "    learning_rate: 3.e-4",
        "    distill: {weight: 0.5, temperature: 3}",
    ]


def _speed(facts: Facts) -> list[str]:
    """Fewer channels, fine-tuning, int8."""
    return ["export:", *_type(facts), "", *_channels(facts, 0.5)]


def _microcontroller(facts: Facts) -> list[str]:
    own = ["  io: int8              # no float arithmetic on the device"]
    return [
        "export:",
        *_type(facts),
        *(own if facts.types[0] == "int8" else []),
        "  c_array: true         # also a C array, with the measured size of the arena",
        "",
        *_channels(facts, 0.6),
    ]


def _type(facts: Facts) -> list[str]:
    """The type of the conversion, whose field stands under `export`."""
    if facts.types[0] == "int8":
        return ["  type: int8            # weights and activations; needs --calibrate"]
    return ["  type: dynamic         # int8 weights; layers of this network have no int8 form"]


def _channels(facts: Facts, macs: float) -> list[str]:
    """Removes channels, where there are some, and fine-tunes, where the network can be trained."""
    if not facts.train:
        return [
            f"# No step trains: {facts.untrainable}.",
            "steps: []",
        ]
    found = ["steps:"]
    if facts.channels:
        found += [
            "  - prune: channels     # the layers become narrower; zeros alone make none faster",
            f"    macs: {macs}           # fraction of the multiply-accumulates to keep",
            "    round_to: 4",
            "",
        ]
    return [
        *found,
        "  - finetune: straight_through",
        "    epochs: 10",
        "    distill: {weight: 0.5, temperature: 3}   # the original is the teacher",
    ]


def _plain(name: str) -> str:
    """A file's name as it may stand in a comment."""
    return "".join(c if c.isprintable() else "?" for c in name)[:80]

"""The wrappers of the TensorFlow Model Optimization toolkit (tfmot), taken off a Keras 2 file.

`prune_low_magnitude` and `quantize_model` wrap each layer; nobody without the toolkit can open the
file. They are removed as `strip_pruning` does: the wrapped layer remains, under its own name, with
its weights as they are; masks, thresholds and the ranges of quantization are left out
(tensorflow_model_optimization/python/core/sparsity/keras/prune.py, `strip_pruning`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcut.errors import InputError
from modelcut.graph.architecture import Architecture
from modelcut.graph.keras.calls import layer_list, name_of
from modelcut.safety import load_json, printable

_PRUNING = frozenset({"PruneLowMagnitude"})
_QUANTIZING = frozenset({"QuantizeWrapper", "QuantizeWrapperV2", "QuantizeAnnotate"})
_ALONE = "QuantizeLayer"
_MARKS = (*_PRUNING, "QuantizeWrapper", "QuantizeAnnotate", _ALONE, "ClusterWeights")
_OWN = re.compile(r"^(mask|threshold|pruning_step|optimizer_step|\w+_min|\w+_max)(_\d+)?(:\d+)?$")
"""Variables of the wrappers themselves."""

Rename = Callable[[str], "str | None"]


@dataclass(frozen=True)
class Stripped:
    """An architecture without wrappers.

    Attributes:
        text: JSON.
        names: a wrapper's name -> that of its layer; "" for one that is left out altogether.
        warnings: what was done, in words.
    """

    text: str
    names: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def weight(self, name: str) -> bool:
        """Whether a weight of this name, in a legacy file, is one of a layer's own."""
        *groups, last = name.split("/")
        return not (_OWN.match(last) and any(group in self.names for group in groups))


def strip(text: str, where: str) -> Stripped:
    """A model configuration without the wrappers; as it is where there are none.

    Raises:
        InputError: it holds something of the toolkit that cannot be taken off for sure.
    """
    if not any(mark in text for mark in _MARKS):
        return Stripped(text)
    root = load_json(text, where=where, what="model configuration")
    work = _Work(where)
    if not isinstance(root, dict) or layer_list(root) is None:
        return Stripped(text)
    made = json.dumps(work.model(root))
    if not work.names:
        return Stripped(text)
    left = re.search(r"tensorflow_model_optimization|ClusterWeights|QuantizeAwareActivation", made)
    if left:
        raise InputError(
            f"{where}: holds more of the TensorFlow Model Optimization toolkit ({left[0]}) than "
            "modelcut can remove",
            "remove it with the toolkit itself, and save the model again",
        )
    return Stripped(made, work.names, work.warnings())


class _Work:
    def __init__(self, where: str) -> None:
        self.where = where
        self.names: dict[str, str] = {}
        self.pruned = self.quantized = 0

    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.pruned:
            found.append(
                f"{self.pruned} prune_low_magnitude wrappers of tfmot were taken off, as "
                "strip_pruning does"
            )
        if self.quantized:
            found.append(
                f"{self.quantized} wrappers of tfmot's quantization-aware training were taken off: "
                "its ranges are left out, and the layers compute in floats"
            )
        return tuple(found)

    def model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """A model's JSON object without wrappers, submodels too."""
        names: dict[str, str] = {}
        bypass: dict[str, list[Any]] = {}
        entries = []
        for entry in layer_list(model) or []:
            if not isinstance(entry, dict):
                raise InputError(f"{self.where}: has a layer that is not a JSON object")
            made = self.entry(entry, names, bypass)
            if made is not None:
                entries.append(made)
        config = model["config"]
        if isinstance(config, list):
            return {**model, "config": entries}
        made_config = {**config, "layers": entries}
        if names or bypass:
            for made in entries:
                if "inbound_nodes" in made:
                    made["inbound_nodes"] = _relinked(made["inbound_nodes"], names, bypass)
            for key in ("input_layers", "output_layers"):
                if key in config:
                    made_config[key] = _relinked(config[key], names, bypass)
        return {**model, "config": made_config}

    def entry(
        self, entry: Mapping[str, Any], names: dict[str, str], bypass: dict[str, list[Any]]
    ) -> dict[str, Any] | None:
        """A layer's JSON object without its wrapper; None for one that is left out."""
        kind, config = entry.get("class_name"), entry.get("config")
        if layer_list(entry) is not None:
            return self.model(entry)
        if kind == _ALONE and isinstance(config, dict):
            self.quantized += 1
            self.names[name_of(entry)] = ""
            nodes = entry.get("inbound_nodes")
            if isinstance(nodes, list):
                bypass[name_of(entry)] = self._only_input(nodes)
            return None
        if kind == "ClusterWeights":
            raise InputError(
                f"{self.where}: has clustering wrappers of tfmot (ClusterWeights)",
                "remove them with strip_clustering, and save the model again",
            )
        if kind not in _PRUNING | _QUANTIZING or not isinstance(config, dict):
            return dict(entry)
        inner = config.get("layer")
        own = inner.get("config") if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not isinstance(own, dict) or not name_of(inner):
            raise InputError(f"{self.where}: the wrapper {printable(name_of(entry))!r} is empty")
        self.pruned += kind in _PRUNING
        self.quantized += kind in _QUANTIZING
        names[name_of(entry)] = self.names[name_of(entry)] = name_of(inner)
        own = {key: _activation(value) for key, value in own.items()}
        if "batch_input_shape" in config and "batch_input_shape" not in own:
            own["batch_input_shape"] = config["batch_input_shape"]
        made = {**inner, "config": own}
        if "module" not in entry:  # a legacy file names no modules of layers
            for key in ("module", "registered_name", "build_config"):
                made.pop(key, None)
        for key in ("name", "inbound_nodes"):
            if key in entry:
                made[key] = name_of(inner) if key == "name" else entry[key]
        nested = self.entry(made, names, bypass)  # pruned, and quantized around it
        assert nested is not None
        return nested

    def _only_input(self, nodes: list[Any]) -> list[Any]:
        refs = nodes[0] if len(nodes) == 1 else None
        ref = refs[0] if isinstance(refs, list) and len(refs) == 1 else None
        if not isinstance(ref, list) or len(ref) < 3:
            raise InputError(
                f"{self.where}: a {_ALONE} of tfmot that is called more than once",
                "remove it with the toolkit itself",
            )
        return ref


def _activation(value: Any) -> Any:
    """An activation that tfmot has wrapped, as it was."""
    if not isinstance(value, dict) or value.get("class_name") != "QuantizeAwareActivation":
        return value
    config = value.get("config")
    inner = config.get("activation") if isinstance(config, dict) else None
    if isinstance(inner, dict) and inner.get("class_name") == "NoOpActivation":
        return "linear"
    return inner


def _relinked(value: Any, names: Mapping[str, str], bypass: Mapping[str, list[Any]]) -> Any:
    """References to layers, by their new names; past those that are left out."""
    if isinstance(value, dict):
        return {key: _relinked(item, names, bypass) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    is_ref = len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int)
    if not is_ref:
        return [_relinked(item, names, bypass) for item in value]
    steps = 0
    while value[0] in bypass and steps <= len(bypass):
        value, steps = [*bypass[value[0]][:3], *value[3:]], steps + 1
    rest = [_relinked(item, names, bypass) for item in value[3:]]
    return [names.get(value[0], value[0]), value[1], value[2], *rest]


def store_names(text: str, stripped: Stripped, version: str | None, where: str) -> Rename | None:
    """How the weights in a `.keras` file are called without wrappers; None where nothing changes.

    Returns:
        From a path in the file to the path in the stripped architecture; to None
        for what is the wrappers' own.

    Raises:
        InputError: quantization-aware layers, whose kernels such a file does not tell apart.
    """
    if not stripped.names:
        return None
    if any(mark in text for mark in ("QuantizeWrapper", _ALONE)):
        raise InputError(
            f"{where}: has wrappers of tfmot's quantization-aware training, whose weights a .keras "
            "file does not tell apart",
            "save the model as .h5, or remove them with the toolkit itself",
        )
    wrapped = Architecture.parse(text, version, where).store_paths()
    plain = Architecture.parse(stripped.text, version, where).store_paths()
    bases = {}
    for path, base in wrapped.items():
        new = plain.get(tuple(stripped.names.get(name, name) for name in path))
        bases[base] = (new, path[-1] in stripped.names)

    def rename(key: str) -> str | None:
        parts = key.split("/")
        for length in range(len(parts), 0, -1):
            base = "/".join(parts[:length])
            if base in bases:
                new, was_wrapped = bases[base]
                rest = parts[length:]
                if was_wrapped:
                    return "/".join([new, *rest[1:]]) if new and rest[0] == "layer" else None
                return "/".join([new, *rest]) if new else key
        return key

    return rename

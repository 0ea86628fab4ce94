"""The Keras layers behind a SavedModel of Keras 2, where it says what they are.

Keras 2 puts the configuration of each layer, and of the whole model, beside the graph: in
`keras_metadata.pb`, and before TensorFlow 2.5 inside `saved_model.pb`
(keras/saving/legacy/saved_model). Nothing of it is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelcut.errors import InputError
from modelcut.formats.saved_model.meta_graph import MetaGraph, Object
from modelcut.formats.saved_model.proto import Message
from modelcut.graph.architecture import Architecture
from modelcut.safety import load_json

_LAYER = re.compile(r"^layer(_with_weights)?-\d+$")
_MAX_NODES = 100_000


@dataclass(frozen=True)
class Metadata:
    """What Keras says of the objects.

    Attributes:
        version: of the Keras that wrote it; "" for unknown.
        texts: node of the object graph -> JSON text.
    """

    version: str
    texts: Mapping[int, str]

    def parsed(self, node: int, where: str) -> dict[str, Any]:
        """What it says of one object; {} for nothing."""
        text = self.texts.get(node, "")
        value = load_json(text, where=where, what="Keras metadata") if text else {}
        return value if isinstance(value, dict) else {}


def find(graph: MetaGraph, data: bytes) -> Metadata:
    """The metadata of `keras_metadata.pb` (`data`, empty for none) or of the graph itself."""
    texts: dict[int, str] = {}
    for node in Message(data).messages(1)[:_MAX_NODES]:
        texts[node.signed(2)] = node.text(5)
    if not texts:
        for index, item in enumerate(graph.objects):
            if item.kind == "user_object" and item.message.text(1).startswith("_tf_keras_"):
                texts[index] = item.message.text(3)
    match = re.search(r'"keras_version":\s*"([^"]{1,40})"', texts.get(0, ""))
    return Metadata(match[1] if match else "", {k: v for k, v in texts.items() if v})


def architecture(metadata: Metadata, where: str) -> Architecture | None:
    """The architecture, as an `.h5` file of the same Keras would have it; None where there is none.

    Raises:
        InputError: it is broken.
    """
    root = metadata.parsed(0, where)
    config = root.get("model_config")
    if not isinstance(config, dict) or not isinstance(config.get("config"), (dict, list)):
        return None
    inner = config["config"]
    if not (isinstance(inner, list) or "layers" in inner):
        return None  # a subclass of Model: its configuration is its author's own
    text = json.dumps(plain(config))
    return Architecture.parse(text, metadata.version or "2", where)


def training(metadata: Metadata, where: str) -> str:
    """The training configuration as text; "" where there is none."""
    found = metadata.parsed(0, where).get("training_config")
    return json.dumps(plain(found)) if isinstance(found, dict) else ""


def plain(value: Any) -> Any:
    """Configurations as `.h5` files have them: tuples and shapes are lists there."""
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and set(value) == {
            "class_name",
            "items",
        }:
            return plain(value["items"])
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def layer_variables(
    objects: Sequence[Object], metadata: Metadata, where: str
) -> dict[tuple[str, ...], list[int]]:
    """Path of names of each layer -> its variables' nodes, in the order of `layer.weights`.

    Raises:
        InputError: the objects are inconsistent.
    """
    found: dict[tuple[str, ...], list[int]] = {}
    stack: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    while stack:
        node, path = stack.pop()
        if not 0 <= node < len(objects) or len(path) > 50 or len(found) > _MAX_NODES:
            raise InputError(f"{where}: its objects are inconsistent")
        children = dict(objects[node].children)
        if path:
            listed = children.get("variables", -1)
            members = objects[listed].children if 0 <= listed < len(objects) else ()
            found[path] = [child for _, child in members]
        below = {child for name, child in objects[node].children if _LAYER.match(name)}
        for child in sorted(below):
            name = metadata.parsed(child, where).get("name")
            if isinstance(name, str) and (*path, name) not in found:
                stack.append((child, (*path, name)))
    return found

"""Layers that give what they are given, in inference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelcut.graph.keras import classes
from modelcut.graph.keras.channel_values import activation
from modelcut.graph.keras.classes import Shape
from modelcut.graph.node import Node

_IN_TRAINING = re.compile(
    r"^(Dropout|SpatialDropout[123]D|GaussianDropout|GaussianNoise|AlphaDropout"
    r"|ActivityRegularization)$"
)
_NOT_NEGATIVE = frozenset("relu relu6 sigmoid hard_sigmoid softmax softplus exponential".split())
_SHAPED = re.compile(
    r"^(Flatten|Reshape|Permute|(ZeroPadding|Cropping|UpSampling)[123]D"
    r"|(Max|Average)Pooling[123]D)$"
)
"""Layers that are given no mask further, and so are not taken out where there are masks."""


def why(node: Node, given: Shape | None, made: Shape | None, before: Node | None) -> str:
    """Why a layer is an identity, in words for a report; "" where it is not known to be one.

    Args:
        node: the layer.
        given: shape of what goes in, without the batch axis; None: unknown.
        made: of what comes out.
        before: the only layer that feeds it; None: unknown.
    """
    name, config = node.class_name, node.config
    if name == "Identity":
        return "an identity"
    if _IN_TRAINING.match(name):
        return "does something in training only"
    if name == "Activation" and activation(config) == "linear":
        return "a linear activation"
    if name == "Rescaling" and config.get("scale") == 1 and config.get("offset", 0) == 0:
        return "scales by 1"
    if _is_relu(name, config) and before is not None and _not_negative(before):
        return "nothing that it is given is negative"
    if _SHAPED.match(name) and given is not None and made == given and _keeps(name, config):
        return "changes no shape"
    return ""


def drops_masks(node: Node) -> bool:
    """Whether a layer of these gives no mask further."""
    return bool(_SHAPED.match(node.class_name))


def _is_relu(name: str, config: Mapping[str, Any]) -> bool:
    if name == "Activation":
        return activation(config) == "relu"
    plain = config.get("max_value") is None and not config.get("threshold")
    return name == "ReLU" and plain  # whatever the slope of the negative side


def _not_negative(node: Node) -> bool:
    name, config = node.class_name, node.config
    if name == "ReLU":
        return not config.get("negative_slope") and not config.get("threshold")
    own = name == "Activation" or classes.has_weights(name)
    return own and "activation" in config and activation(config) in _NOT_NEGATIVE


def _keeps(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a layer that keeps the shape keeps the values too."""
    if name == "Permute":
        dims = config.get("dims")
        return isinstance(dims, list) and dims == sorted(dims)
    if name in ("Flatten", "Reshape"):
        return True
    if "Pooling" in name:
        ones = [config.get(key) for key in ("pool_size", "pool_length", "strides", "stride")]
        return all(value is None or _all(value, 1) for value in ones) and any(
            value is not None for value in ones[:2]
        )
    key, same = {"Z": ("padding", 0), "C": ("cropping", 0), "U": ("size", 1)}[name[0]]
    return _all(config.get(key, config.get("length")), same)


def _all(value: Any, wanted: int) -> bool:
    """Whether all numbers of a nested list are this one, and there is one."""
    if isinstance(value, list):
        return bool(value) and all(_all(item, wanted) for item in value)
    return not isinstance(value, bool) and value == wanted

"""What each of Keras' layer classes does with channels: makes, carries, reads or joins them.

A rule takes the layer and what goes into it and gives what comes out, and registers on the way
which axes of its weights belong to which channels. A class without a rule is a barrier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from modelcut.graph.keras import (
    channel_attention,
    channel_kernels,
    channel_moves,
    channel_norms,
    channel_operations,
    channel_recurrent,
    functions,
)
from modelcut.graph.keras.channel_values import (
    ELEMENTWISE,
    Barrier,
    Channels,
    Rule,
    Value,
    activation,
)
from modelcut.graph.keras.classes import POOL
from modelcut.graph.node import Node


def joins(rule: Rule) -> bool:
    """Whether a rule is of layers that take several inputs."""
    return rule in _SEVERAL


def of(node: Node) -> Rule | None:
    """The rule of a layer's class; None where there is none."""
    name = node.class_name
    if _is_own(node):
        return None
    if node.is_operation or name in functions.TENSORFLOW:
        return channel_operations.operation
    if name in functions.CONVNEXT and not functions.is_of_convnext(node):
        return None
    if name in _RULES:
        return _RULES[name]
    return next((rule for pattern, rule in _PATTERNS if pattern.match(name)), None)


def _is_own(node: Node) -> bool:
    """Whether a class is its author's, even if it has the name of one of Keras'."""
    module, registered = node.entry.get("module"), node.entry.get("registered_name")
    other = isinstance(module, str) and module.partition(".")[0] not in _LIBRARIES
    return other or (isinstance(registered, str) and ">" in registered)


_LIBRARIES = ("keras", "tf_keras", "tensorflow")


def keeps_apart(node: Node) -> bool:
    """Whether a layer without a kernel makes each channel of the one at its place."""
    rule = of(node)
    if rule is channel_moves.activated:
        return activation(node.config) in ELEMENTWISE
    return rule in _APART


def _of_inner(channels: Channels, node: Node, values: Sequence[Value]) -> Value | list[Value]:
    """The rule of whatever layer or submodel another one holds."""
    if node.is_model:
        return channels.model(node, values)
    rule = of(node)
    if rule is None:
        raise Barrier(f"holds a layer ({node.class_name}) whose channels are not followed")
    return rule(channels, node, values)


_RULES: dict[str, Rule] = {
    "Dense": channel_kernels.dense,
    "EinsumDense": channel_kernels.einsum,
    "Embedding": channel_kernels.embedding,
    "GroupNormalization": channel_norms.group,
    "LayerScale": channel_norms.layer_scale,
    "PReLU": channel_norms.prelu,
    "Activation": channel_moves.activated,
    "Softmax": channel_moves.softmax,
    "Rescaling": channel_moves.rescaling,
    "Resizing": channel_moves.resized,
    "CenterCrop": channel_moves.resized,
    "Flatten": channel_moves.flatten,
    "Reshape": channel_moves.reshape,
    "Permute": channel_moves.permute,
    "RepeatVector": channel_moves.repeat,
    "RNN": channel_recurrent.of_cells,
    "TimeDistributed": (each := channel_recurrent.each_step(_of_inner)),
    "Bidirectional": (both := channel_recurrent.both_ways(_of_inner)),
    **dict.fromkeys(channel_recurrent.GATES, channel_recurrent.recurrent),
    **dict.fromkeys(
        "MultiHeadAttention GroupedQueryAttention GroupQueryAttention".split(),
        channel_attention.multi_head,
    ),
    **dict.fromkeys(
        """ActivityRegularization AlphaDropout Dropout ELU GaussianDropout GaussianNoise Identity
        LeakyReLU ReLU SpatialDropout1D SpatialDropout2D SpatialDropout3D StochasticDepth
        ThresholdedReLU""".split(),
        channel_moves.same,
    ),
    **dict.fromkeys(
        "Add Average Maximum Minimum Multiply Subtract Merge Concatenate".split(),
        channel_moves.merge,
    ),
}
_PATTERNS: tuple[tuple[re.Pattern[str], Rule], ...] = (
    (re.compile(r"^(Atrous)?(Conv|Convolution)[123]D(Transpose)?$"), channel_kernels.conv),
    (re.compile(r"^DepthwiseConv(olution)?[12]D$"), channel_kernels.depthwise),
    (re.compile(r"^SeparableConv(olution)?[12]D$"), channel_kernels.separable),
    (re.compile(r"^ConvLSTM[123]D$"), channel_recurrent.conv_lstm),
    (re.compile(r"^(BatchNormalization(V1|V2)?|SyncBatchNormalization)$"), channel_norms.batch),
    (re.compile(r"^(LayerNormalization|RMSNormalization)$"), channel_norms.layer),
    (POOL, channel_moves.spatial),
    (re.compile(r"^(ZeroPadding|Cropping|UpSampling)[123]D$"), channel_moves.spatial),
)
_SEVERAL = frozenset(
    (
        channel_moves.merge,
        channel_attention.multi_head,
        channel_operations.operation,
        channel_recurrent.recurrent,
    )
)
_APART = frozenset(
    (
        channel_moves.same,
        channel_moves.spatial,
        channel_moves.flatten,
        channel_norms.batch,
        channel_norms.prelu,
    )
)

"""Shapes and work of one layer, from its class and configuration alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from modelcut.graph.keras.classes import (
    MERGES,
    POOL,
    SAME,
    Config,
    Shape,
    WeightSpec,
    filters,
    get,
    has_weights,
    integer,
    integers,
    kernel_size,
    units,
    weights,
)


def macs(
    class_name: str,
    config: Config,
    shapes: Sequence[Sequence[int]],
    output: Shape | None,
    given: Shape | None = None,
    others: Sequence[Shape | None] = (),
) -> int | None:
    """Multiply-accumulates of one sample: of the products with weights, and those of an attention.

    Args:
        class_name: of the layer; wrappers are in `modelcut.shapes.macs`.
        config: configuration of the layer.
        shapes: shapes of its weights, in order.
        output: shape of its output without the batch axis, or None where unknown.
        given: shape of its first input without the batch axis, or None where unknown.
        others: of its other inputs: of an attention the value and, if another, the key; where there
            is none it attends to itself.

    Returns:
        The count; 0 for layers that multiply nothing with a matrix; None where it is unknown.
    """
    if class_name in MULTI_HEAD:
        return _multi_head(config, shapes, [given, *others])
    if class_name in PRODUCTS:
        return _product_of_inputs(class_name, config, [given, *others])
    if class_name == "Embedding" or not any(len(shape) > 1 for shape in shapes):
        return 0
    times = _positions(class_name, config, output, given)
    total = 0
    for spec, shape in zip(_named(class_name, config), shapes, strict=False):
        if spec.kind in ("kernel", "recurrent", "attention") and len(shape) > 1:
            if times is None:
                return None
            total += _product(shape) * times
    return total


MULTI_HEAD = ("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention")
PRODUCTS = ("Attention", "AdditiveAttention", "Dot", "Matmul")
"""Layers without a kernel, and an operation of Keras 3, that multiply their inputs."""


def _multi_head(
    config: Config, shapes: Sequence[Sequence[int]], inputs: Sequence[Shape | None]
) -> int | None:
    """Projections of query, key, value and output; scores, and their product with the values."""
    query = inputs[0]
    value = inputs[1] if len(inputs) > 1 else query
    key = inputs[2] if len(inputs) > 2 else value
    heads = integer(get(config, "num_heads", "num_query_heads"))
    key_dim = integer(get(config, "key_dim", "head_dim"))
    value_dim = integer(config.get("value_dim") or key_dim)
    if not query or not key or not value or heads is None or key_dim is None or value_dim is None:
        return None
    axes = _attended(config, len(query))
    asked, known = _whole(query[:-1]), _whole([value[a] for a in axes if a < len(value)])
    places = {"query": asked, "key": _whole(key[:-1]), "value": _whole(value[:-1])}
    kernels = zip(_named("MultiHeadAttention", config), shapes, strict=False)
    total = 0
    for spec, shape in kernels:
        times = places.get(spec.role.partition("/")[0], asked)
        if times is None:
            return None
        total += _product(shape) * times if spec.kind == "attention" else 0
    if asked is None or known is None:
        return None
    return total + asked * known * heads * (key_dim + value_dim)


def _attended(config: Config, rank: int) -> list[int]:
    """The axes, batch left out, along which an attention attends."""
    said = config.get("attention_axes")
    said = [said] if isinstance(said, int) else said
    if not isinstance(said, list) or not all(isinstance(axis, int) for axis in said):
        return list(range(rank - 1))
    return [axis % (rank + 1) - 1 for axis in said]


def _product_of_inputs(
    class_name: str, config: Config, inputs: Sequence[Shape | None]
) -> int | None:
    """Of an attention without heads, its scores and their product with the values; or a product."""
    known = [shape for shape in inputs if shape]
    if len(known) < len(inputs) or len(known) < 2:
        return None
    first, second = known[:2]
    sizes = _whole(first), _whole(second)
    if sizes[0] is None or sizes[1] is None:
        return None
    if class_name == "Dot":
        axes = config.get("axes")
        axis = axes[-1] if isinstance(axes, list) and axes else axes
        if not isinstance(axis, int) or not -len(second) <= axis <= len(second) or not axis:
            return None
        summed = second[axis - 1 if axis > 0 else axis]
        return sizes[0] * sizes[1] // summed if summed else 0
    if len(first) < 2 or len(second) < 2:
        return None
    if class_name == "Matmul":
        leading = tuple(_broadcast(pair) for pair in zip(first[:-2], second[:-2], strict=False))
        if len(first) != len(second) or first[-1] != second[-2]:
            return None
        return _product([n or 0 for n in (*leading, *first[-2:], second[-1])])
    # (…, queries, width) and (…, values, width of values)
    asked, values = _product([n or 0 for n in first[:-1]]), second[-2] or 0
    return sizes[0] * values + asked * values * (second[-1] or 0)


def _named(class_name: str, config: Config) -> list[WeightSpec]:
    try:
        return weights(class_name, config)
    except KeyError:
        return []


_RECURRENT = ("SimpleRNN", "LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU")


def _positions(
    class_name: str, config: Config, output: Shape | None, given: Shape | None
) -> int | None:
    """How often a kernel is applied for one sample; None where it is unknown."""
    if class_name.startswith("LocallyConnected") or class_name.endswith("Cell"):
        return 1
    if class_name in _RECURRENT:
        return given[0] if given else None
    if class_name == "EinsumDense":
        labels = None if given is None else _einsum_labels(config, given)
        if labels is None or output is None:
            return None
        pairs = zip(labels[2][1:], output, strict=False)
        return _whole([size for label, size in pairs if label not in labels[1]])
    # A transposed convolution applies its kernel once for each position of its input.
    back = "Transpose" in class_name or class_name.startswith("Deconvolution")
    shape = given if back else output
    if shape is None:
        return None
    steps = 1
    if class_name.startswith("ConvLSTM"):
        if not given or given[0] is None:
            return None
        steps, shape = given[0], shape[1:] if config.get("return_sequences") else shape
    first = "Conv" in class_name or back
    space = shape[1:] if first and _channels_first(config) else shape[:-1]
    count = _whole(space)
    return None if count is None else count * steps


def _channels_first(config: Config) -> bool:
    return config.get("data_format") == "channels_first" or config.get("dim_ordering") == "th"


def _whole(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return _product(known) if len(known) == len(sizes) else None


def _einsum_labels(config: Config, given: Shape) -> tuple[str, str, str] | None:
    """The axes of input, kernel and output: "ab,bc->ac"; dots become labels that are no letters."""
    equation = str(config.get("equation")).replace("...", "0")
    found = re.fullmatch(r"(0?[a-zA-Z]+0?),([a-zA-Z]+)->(0?[a-zA-Z]+0?)", equation)
    if not found:
        return None
    more = len(given) + 1 - (len(found[1]) - found[1].count("0"))
    if more < 0 or (more and "0" not in found[1]):
        return None
    dots = "".join(chr(0x2460 + n) for n in range(more))
    return found[1].replace("0", dots), found[2], found[3].replace("0", dots)


def _product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def output_shape(class_name: str, config: Config, inputs: Sequence[Shape | None]) -> Shape | None:
    """Shape of a layer's output without the batch axis, as far as the configuration tells.

    Args:
        class_name: class name of the layer.
        config: configuration of the layer.
        inputs: the shapes that go in, without the batch axis; None where unknown.

    Returns:
        The shape, None for an unknown axis; or None where nothing can be told.
    """
    if not inputs or any(shape is None for shape in inputs):
        return None
    known = [shape for shape in inputs if shape is not None]
    first = known[0]
    if class_name in SAME:
        return first
    if class_name in MERGES:
        return _merged(class_name, config, known)
    if class_name in ("Dense", "TimeDistributedDense"):
        return (*first[:-1], units(config))
    if class_name == "Embedding":
        return (*first, integer(config.get("output_dim")))
    if class_name == "EinsumDense":
        return _einsum_shape(config, first)
    if class_name in ("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"):
        return first if config.get("output_shape") is None else None
    if class_name in ("Attention", "AdditiveAttention"):
        return (*first[:-1], known[1][-1]) if len(known) > 1 and first and known[1] else None
    if class_name in _RECURRENT:
        own = (units(config),)
        return (first[0], *own) if config.get("return_sequences") and first else own
    if class_name == "Flatten":
        return (None if None in first else _product([n or 0 for n in first]),)
    if class_name == "Reshape":
        return _reshaped(config, first)
    if class_name == "RepeatVector":
        return (integer(get(config, "n")), *first)
    if class_name == "Permute":
        dims = get(config, "dims", default=[])
        return tuple(first[d - 1] for d in dims) if permutes(dims, len(first)) else None
    return _spatial(class_name, config, first)


def _einsum_shape(config: Config, shape: Shape) -> Shape | None:
    labels, said = _einsum_labels(config, shape), config.get("output_shape")
    said = [said] if isinstance(said, int) else said
    if labels is None or not isinstance(said, list) or len(labels[0]) != len(shape) + 1:
        return None
    sizes = dict(zip(labels[0][1:], shape, strict=True))
    # The configuration says neither the batch nor what the dots stand for.
    named = [label for label in labels[2][1:] if label.isalpha()]
    wanted = {label: integer(n) for label, n in zip(named, said, strict=False) if n is not None}
    return tuple(wanted.get(label, sizes.get(label)) for label in labels[2][1:])


def permutes(dims: Any, rank: int) -> bool:
    """Whether `dims` of a Permute names each of the axes from 1 to `rank` once."""
    return isinstance(dims, list) and sorted(map(str, dims)) == sorted(
        str(i + 1) for i in range(rank)
    )


def _merged(class_name: str, config: Config, shapes: Sequence[Shape]) -> Shape | None:
    if class_name == "Dot" or len({len(shape) for shape in shapes}) > 1:
        return None
    mode = config.get("mode") if class_name == "Merge" else class_name
    if mode not in ("Concatenate", "concat"):
        if class_name == "Merge" and mode not in ("sum", "mul", "ave", "max"):
            return None
        return tuple(_broadcast(sizes) for sizes in zip(*shapes, strict=True))
    axis = get(config, "axis", "concat_axis", default=-1)
    if not isinstance(axis, int) or axis == 0 or not -len(shapes[0]) <= axis <= len(shapes[0]):
        return None
    axis = axis - 1 if axis > 0 else axis % len(shapes[0])
    parts = [shape[axis] for shape in shapes]
    total = None if None in parts else sum(part or 0 for part in parts)
    return (*shapes[0][:axis], total, *shapes[0][axis + 1 :])


def _broadcast(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    widest = max(known, default=1)
    return None if widest == 1 and len(known) < len(sizes) else widest


def _reshaped(config: Config, shape: Shape) -> Shape | None:
    target = config.get("target_shape")
    if not isinstance(target, list) or not all(isinstance(n, int) for n in target):
        return None
    if -1 not in target:
        return tuple(target)
    rest = _product([n for n in target if n != -1])
    if None in shape or rest == 0:
        return tuple(None if n == -1 else n for n in target)
    whole = _product([n or 0 for n in shape]) // rest
    return tuple(whole if n == -1 else n for n in target)


_SPATIAL = re.compile(r"([123])D")


def _spatial(class_name: str, config: Config, shape: Shape) -> Shape | None:
    """Convolutions, pooling, padding, cropping, upsampling: per spatial axis."""
    found = _SPATIAL.search(class_name)
    if found and class_name.startswith("ConvLSTM") and len(shape) == int(found[1]) + 2:
        inner = _spatial(f"Conv{found[1]}D", config, shape[1:])
        keep = config.get("return_sequences")
        return (shape[0], *inner) if inner and keep else inner
    if not found or len(shape) != int(found[1]) + 1:
        return None
    rank = int(found[1])
    first = _channels_first(config)
    channels, space = (shape[0], shape[1:]) if first else (shape[-1], shape[:-1])
    if POOL.match(class_name) and class_name.startswith("Global"):
        keep = (1,) * rank if config.get("keepdims") else ()
        return ((channels, *keep) if first else (*keep, channels)) if keep else (channels,)
    sizes: list[int | None] = []
    for axis, length in enumerate(space):
        sizes.append(None if length is None else _length(class_name, config, rank, axis, length))
    if has_weights(class_name):
        if class_name.startswith("Depthwise"):
            m = integer(config.get("depth_multiplier", 1))
            channels = None if channels is None or m is None else channels * m
        else:
            channels = filters(config)
    return (channels, *sizes) if first else (*sizes, channels)


def _length(class_name: str, config: Config, rank: int, axis: int, length: int) -> int | None:
    if class_name.startswith(("ZeroPadding", "Cropping")):
        value = get(config, "padding", "cropping", default=0)
        value = (
            value[axis] if isinstance(value, list) and rank > 1 and len(value) == rank else value
        )
        pair = integers(value, 2)
        if None in pair:
            return None
        change = sum(n or 0 for n in pair)
        return length + change if class_name.startswith("Zero") else length - change
    if class_name.startswith("UpSampling"):
        factor = integers(get(config, "size", "length", default=2), rank)[axis]
        return None if factor is None else length * factor
    pool = bool(POOL.match(class_name))
    if class_name.startswith("Adaptive"):
        return integers(config.get("output_size"), rank)[axis]
    size = (
        integers(get(config, "pool_size", "pool_length", default=2), rank)
        if pool
        else kernel_size(config, rank)
    )[axis]
    default = size if pool else 1
    stride_value = get(config, "strides", "subsample", "stride", "subsample_length")
    stride = default if stride_value is None else integers(stride_value, rank)[axis]
    rate_value = get(config, "dilation_rate", "atrous_rate", default=1)
    rate = integers(rate_value, rank)[axis]
    if not size or not stride or not rate:
        return None
    padding = get(config, "padding", "border_mode", default="valid")
    reach = (size - 1) * rate + 1
    if "Transpose" in class_name or class_name.startswith("Deconvolution"):
        if config.get("output_padding") is not None:
            return None
        return length * stride if padding == "same" else length * stride + max(reach - stride, 0)
    if padding in ("same", "causal"):
        return -(-length // stride)
    return max(0, (length - reach) // stride + 1)

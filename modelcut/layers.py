"""What modelcut knows about Keras's layer classes: their weights, their work, their shapes.

One table, from a class name to its weights in the order in which Keras saves them (trainable
first, then the rest), each with a role, a kind and, where the configuration tells, a shape.
Names of Keras 1 (`Convolution2D`, `output_dim`) stand beside those of Keras 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
Shape = tuple["int | None", ...]


@dataclass(frozen=True)
class WeightSpec:
    """One weight that a layer class owns.

    Attributes:
        role: kernel, bias, gamma, recurrent_kernel …
        kind: kernel, recurrent, attention, bias, norm, embedding, state or other.
        shape: None for an unknown axis; None instead of a tuple where even the rank is unknown.
        out_axis: the axis of output channels, for kernels.
        in_axis: the axis of inputs, for kernels.
    """

    role: str
    kind: str
    shape: Shape | None = None
    out_axis: int | None = None
    in_axis: int | None = None


def get(config: Config, *names: str, default: Any = None) -> Any:
    """The first of these keys that the configuration has."""
    for name in names:
        if name in config:
            return config[name]
    return default


def integer(value: Any) -> int | None:
    """A non-negative whole number of a configuration, or None."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


def integers(value: Any, rank: int) -> tuple[int | None, ...]:
    """A size for each of `rank` axes, from a number or a list."""
    if isinstance(value, (list, tuple)):
        return tuple(integer(item) for item in value) if len(value) == rank else (None,) * rank
    return (integer(value),) * rank


def units(config: Config) -> int | None:
    """Width of a dense or recurrent layer."""
    return integer(get(config, "units", "output_dim"))


def filters(config: Config) -> int | None:
    """Output channels of a convolution."""
    return integer(get(config, "filters", "nb_filter"))


def kernel_size(config: Config, rank: int) -> tuple[int | None, ...]:
    """Kernel size of a convolution; Keras 1 has a key an axis."""
    if "kernel_size" in config:
        return integers(config["kernel_size"], rank)
    old = {1: ("filter_length",), 2: ("nb_row", "nb_col")}.get(
        rank, ("kernel_dim1", "kernel_dim2", "kernel_dim3")
    )
    return tuple(integer(config.get(name)) for name in old)


def _bias(config: Config, size: int | None, role: str = "bias") -> list[WeightSpec]:
    return (
        [WeightSpec(role, "bias", (size,))] if get(config, "use_bias", "bias", default=True) else []
    )


def _dense(config: Config) -> list[WeightSpec]:
    n = units(config)
    return [WeightSpec("kernel", "kernel", (None, n), 1, 0), *_bias(config, n)]


def _einsum_dense(config: Config) -> list[WeightSpec]:
    kernel = WeightSpec("kernel", "kernel", None, -1, 0)
    return [kernel, WeightSpec("bias", "bias")] if config.get("bias_axes") else [kernel]


def _conv(rank: int) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        n = filters(config)
        shape = (*kernel_size(config, rank), None, n)
        return [WeightSpec("kernel", "kernel", shape, rank + 1, rank), *_bias(config, n)]

    return weights


def _conv_transpose(rank: int) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        n = filters(config)
        shape = (*kernel_size(config, rank), n, None)
        return [WeightSpec("kernel", "kernel", shape, rank, rank + 1), *_bias(config, n)]

    return weights


def _depthwise(rank: int) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        m = integer(config.get("depth_multiplier", 1))
        shape = (*kernel_size(config, rank), None, m)
        role = "depthwise_kernel" if "depthwise_initializer" in config else "kernel"
        return [WeightSpec(role, "kernel", shape, rank), *_bias(config, None)]

    return weights


def _separable(rank: int) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        n, m = filters(config), integer(config.get("depth_multiplier", 1))
        deep = (*kernel_size(config, rank), None, m)
        wide = (*(1,) * rank, None, n)
        return [
            WeightSpec("depthwise_kernel", "kernel", deep, rank),
            WeightSpec("pointwise_kernel", "kernel", wide, rank + 1, rank),
            *_bias(config, n),
        ]

    return weights


def _local(config: Config) -> list[WeightSpec]:
    bias = [WeightSpec("bias", "bias")] if get(config, "use_bias", "bias", default=True) else []
    return [WeightSpec("kernel", "kernel", None, -1), *bias]


def _embedding(config: Config) -> list[WeightSpec]:
    shape = (integer(config.get("input_dim")), integer(config.get("output_dim")))
    return [WeightSpec("embeddings", "embedding", shape, 1)]


def _norm(*roles: str, states: tuple[str, ...] = ()) -> Callable[[Config], list[WeightSpec]]:
    flag = {"gamma": "scale", "beta": "center"}

    def weights(config: Config) -> list[WeightSpec]:
        own = [WeightSpec(r, "norm") for r in roles if config.get(flag.get(r, ""), True)]
        return [*own, *(WeightSpec(state, "state") for state in states)]

    return weights


def _batch_norm(config: Config) -> list[WeightSpec]:
    if config.get("renorm"):
        return [
            *_norm("gamma", "beta")(config),
            *(
                WeightSpec(role, "state")
                for role in (
                    "moving_mean",
                    "moving_variance",
                    "moving_stddev",
                    "renorm_mean",
                    "renorm_stddev",
                )
            ),
        ]
    return _norm("gamma", "beta", states=("moving_mean", "moving_variance"))(config)


def _recurrent(gates: int, *, cudnn: bool = False) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        n = units(config)
        wide = None if n is None else n * gates
        bias: Shape = (wide,)
        if gates == 3 and (cudnn or config.get("reset_after")):
            bias = (None if wide is None else 2 * wide,) if cudnn else (2, wide)
        if cudnn and gates == 4:
            bias = (None if wide is None else 2 * wide,)
        specs = [
            WeightSpec("kernel", "kernel", (None, wide), 1, 0),
            WeightSpec("recurrent_kernel", "recurrent", (n, wide), 1, 0),
        ]
        if cudnn or config.get("use_bias", True):
            specs.append(WeightSpec("bias", "bias", bias))
        return specs

    return weights


def _conv_lstm(rank: int) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        n = filters(config)
        wide = None if n is None else 4 * n
        size = kernel_size(config, rank)
        return [
            WeightSpec("kernel", "kernel", (*size, None, wide), rank + 1, rank),
            WeightSpec("recurrent_kernel", "recurrent", (*size, n, wide), rank + 1, rank),
            *_bias(config, wide),
        ]

    return weights


def _attention(config: Config) -> list[WeightSpec]:
    specs = []
    for part in ("query", "key", "value", "attention_output"):
        specs.append(WeightSpec(f"{part}/kernel", "attention", None, -1, 0))
        if config.get("use_bias", True):
            specs.append(WeightSpec(f"{part}/bias", "bias"))
    return specs


def _normalization(config: Config) -> list[WeightSpec]:
    if config.get("mean") is not None:
        return []
    return [WeightSpec(role, "state") for role in ("mean", "variance", "count")]


def _one(role: str, kind: str) -> Callable[[Config], list[WeightSpec]]:
    return lambda config: [WeightSpec(role, kind)]


def _scaled(role: str, flag: str) -> Callable[[Config], list[WeightSpec]]:
    return lambda config: [WeightSpec(role, "norm")] if config.get(flag) else []


_TABLE: dict[str, Callable[[Config], list[WeightSpec]]] = {
    "Dense": _dense,
    "TimeDistributedDense": _dense,
    "EinsumDense": _einsum_dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_norm,
    "BatchNormalizationV1": _batch_norm,
    "BatchNormalizationV2": _batch_norm,
    "SyncBatchNormalization": _batch_norm,
    "LayerNormalization": _norm("gamma", "beta"),
    "GroupNormalization": _norm("gamma", "beta"),
    "RMSNormalization": _one("scale", "norm"),
    "Normalization": _normalization,
    "PReLU": _one("alpha", "norm"),
    "ParametricSoftplus": _norm("alpha", "beta"),
    "Attention": _scaled("scale", "use_scale"),
    "AdditiveAttention": lambda c: (
        [WeightSpec("scale", "norm")] if c.get("use_scale", True) else []
    ),
    "MultiHeadAttention": _attention,
    "GroupedQueryAttention": _attention,
    "GroupQueryAttention": _attention,
    "SimpleRNN": _recurrent(1),
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "SpectralNormalization": _one("vector_u", "state"),
    "CuDNNLSTM": _recurrent(4, cudnn=True),
    "CuDNNGRU": _recurrent(3, cudnn=True),
}
for _name in ("SimpleRNN", "LSTM", "GRU"):
    _TABLE[f"{_name}Cell"] = _TABLE[_name]
for _rank in (1, 2, 3):
    for _name in (f"Conv{_rank}D", f"Convolution{_rank}D", f"AtrousConvolution{_rank}D"):
        _TABLE[_name] = _conv(_rank)
    for _name in (
        f"Conv{_rank}DTranspose",
        f"Convolution{_rank}DTranspose",
        f"Deconvolution{_rank}D",
    ):
        _TABLE[_name] = _conv_transpose(_rank)
    for _name in (f"DepthwiseConv{_rank}D", f"DepthwiseConvolution{_rank}D"):
        _TABLE[_name] = _depthwise(_rank)
    for _name in (f"SeparableConv{_rank}D", f"SeparableConvolution{_rank}D"):
        _TABLE[_name] = _separable(_rank)
    _TABLE[f"LocallyConnected{_rank}D"] = _local
    _TABLE[f"ConvLSTM{_rank}D"] = _conv_lstm(_rank)
    _TABLE[f"ConvLSTM{_rank}DCell"] = _conv_lstm(_rank)

_SAME = frozenset(
    """Activation ActivityRegularization AlphaDropout Dropout ELU Equalization GaussianDropout
    GaussianNoise LeakyReLU Masking Normalization ReLU Softmax SpatialDropout1D SpatialDropout2D
    SpatialDropout3D ThresholdedReLU UnitNormalization Rescaling
    RandomFlip RandomRotation RandomTranslation
    RandomZoom RandomContrast RandomBrightness RandomWidth RandomHeight RandomCrop Identity
    AutoContrast RandomShear RandomSharpness RandomHue RandomSaturation RandomGrayscale
    RandomInvert RandomPosterization RandomGaussianBlur RandomErasing Solarization
    RandomColorDegeneration RandomColorJitter RandomPerspective RandomElasticTransform
    MaxNumBoundingBoxes BatchNormalization BatchNormalizationV1 BatchNormalizationV2
    SyncBatchNormalization LayerNormalization GroupNormalization RMSNormalization PReLU
    ParametricSoftplus""".split()
)
_MERGES = frozenset(
    "Add Average Maximum Minimum Multiply Subtract Merge Concatenate Dot Maxout".split()
)
_OTHERS = frozenset(
    """InputLayer Flatten Reshape Permute RepeatVector Input CenterCrop Resizing CategoryEncoding
    HashedCrossing Hashing Discretization IntegerLookup Cropping1D Cropping2D Cropping3D
    ZeroPadding1D ZeroPadding2D ZeroPadding3D UpSampling1D UpSampling2D UpSampling3D
    MelSpectrogram STFTSpectrogram MixUp CutMix RandAugment AugMix Pipeline""".split()
)
_POOL = re.compile(r"^(Global|Adaptive)?(Max|Average)Pool(ing)?[123]D$")
WRAPPERS = frozenset(
    "TimeDistributed Bidirectional RNN ConvRNN2D Wrapper SpectralNormalization"
    " StackedRNNCells".split()
)
MODELS = frozenset("Sequential Functional Model".split())


def is_known(class_name: str) -> bool:
    """Whether this is a layer class that comes with some Keras."""
    return (
        class_name in _TABLE
        or class_name in _SAME
        or class_name in _MERGES
        or class_name in _OTHERS
        or class_name in WRAPPERS
        or bool(_POOL.match(class_name))
    )


def weights(class_name: str, config: Config) -> list[WeightSpec]:
    """The weights a layer owns itself, in the order in which Keras saves them.

    Args:
        class_name: as the file writes it.
        config: the layer's configuration; fields of a wrong type count as unknown.

    Returns:
        One spec a weight; [] for a class without weights.

    Raises:
        KeyError: the class is not known.
    """
    if class_name in _TABLE:
        return _TABLE[class_name](config)
    if is_known(class_name):
        return []
    raise KeyError(class_name)


def kind_of(role: str, rank: int) -> str:
    """The kind of a weight of which only the name is known, as in a file of bare weights."""
    name = re.sub(r"(:\d+)?$", "", role).rpartition("/")[2].lower()
    if re.search(r"(recurrent_kernel|_u(_[icfozrh])?$|^u$)", name) and rank >= 2:
        return "recurrent"
    if rank >= 2 and re.search(r"(kernel|_w(_[icfozrh])?$|^w$|^weights?$)", name):
        return "kernel"
    if "embedding" in name:
        return "embedding"
    if re.search(r"(bias|_b(_[icfozrh])?$|^b$)", name):
        return "bias"
    if re.search(r"(gamma|beta|alpha)", name):
        return "norm"
    if re.search(r"(moving|running|mean|variance|count|seed)", name):
        return "state"
    return "other"


def macs(
    class_name: str,
    config: Config,
    shapes: Sequence[Sequence[int]],
    output: Shape | None,
    given: Shape | None = None,
) -> int | None:
    """Multiply-accumulates of one sample, of the products with weights only.

    Args:
        class_name: of the layer; wrappers are in `modelcut.shapes.macs`.
        config: its configuration.
        shapes: of its weights, in order.
        output: of its output without the batch axis, or None where unknown.
        given: of its (first) input, likewise; an attention's other inputs count as equally long.

    Returns:
        The count; 0 for layers that multiply nothing with a matrix; None where it is unknown.
    """
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
        labels = _einsum_labels(config)
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


def _einsum_labels(config: Config) -> tuple[str, str, str] | None:
    """The axes of input, kernel and output: "ab,bc->ac"; None with an ellipsis."""
    found = re.fullmatch(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)", str(config.get("equation")))
    return (found[1], found[2], found[3]) if found else None


def _product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def output_shape(class_name: str, config: Config, inputs: Sequence[Shape | None]) -> Shape | None:
    """Shape of a layer's output without the batch axis, as far as the configuration tells.

    Args:
        class_name: of the layer.
        config: its configuration.
        inputs: the shapes that go in, without the batch axis; None where unknown.

    Returns:
        The shape, None for an unknown axis; or None where nothing can be told.
    """
    if not inputs or any(shape is None for shape in inputs):
        return None
    known = [shape for shape in inputs if shape is not None]
    first = known[0]
    if class_name in _SAME:
        return first
    if class_name in _MERGES:
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
        return tuple(first[d - 1] for d in dims) if _permutes(dims, len(first)) else None
    return _spatial(class_name, config, first)


def _einsum_shape(config: Config, shape: Shape) -> Shape | None:
    labels, said = _einsum_labels(config), config.get("output_shape")
    said = [said] if isinstance(said, int) else said
    if labels is None or not isinstance(said, list) or len(labels[0]) != len(shape) + 1:
        return None
    sizes = dict(zip(labels[0][1:], shape, strict=True))
    wanted = zip(labels[2][1:], said, strict=False)
    return tuple(integer(n) if n is not None else sizes.get(label) for label, n in wanted)


def _permutes(dims: Any, rank: int) -> bool:
    return isinstance(dims, list) and sorted(map(str, dims)) == sorted(
        str(i + 1) for i in range(rank)
    )


def _merged(class_name: str, config: Config, shapes: Sequence[Shape]) -> Shape | None:
    if class_name == "Dot" or len({len(shape) for shape in shapes}) > 1:
        return None
    joins = class_name == "Concatenate" or config.get("mode") == "concat"
    if not joins:
        return tuple(
            max((s[i] or 0 for s in shapes), default=0) or None for i in range(len(shapes[0]))
        )
    axis = get(config, "axis", "concat_axis", default=-1)
    if not isinstance(axis, int) or axis == 0 or not -len(shapes[0]) <= axis <= len(shapes[0]):
        return None
    axis = axis - 1 if axis > 0 else axis % len(shapes[0])
    parts = [shape[axis] for shape in shapes]
    total = None if None in parts else sum(part or 0 for part in parts)
    return (*shapes[0][:axis], total, *shapes[0][axis + 1 :])


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
    if _POOL.match(class_name) and class_name.startswith("Global"):
        keep = (1,) * rank if config.get("keepdims") else ()
        return ((channels, *keep) if first else (*keep, channels)) if keep else (channels,)
    sizes: list[int | None] = []
    for axis, length in enumerate(space):
        sizes.append(None if length is None else _length(class_name, config, rank, axis, length))
    if class_name in _TABLE:
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
    pool = bool(_POOL.match(class_name))
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

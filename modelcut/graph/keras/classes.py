"""What modelcut knows about Keras's layer classes and their weights.

One table, from a class name to its weights in the order in which Keras saves them (trainable
first, then the rest), each with a role, a kind and, where the configuration tells, a shape.
Names of Keras 1 (`Convolution2D`, `output_dim`) stand beside those of Keras 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
        held: how Keras itself holds the values, such as "int8"; "" for plain floats.
    """

    role: str
    kind: str
    shape: Shape | None = None
    out_axis: int | None = None
    in_axis: int | None = None
    held: str = ""


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
    """Of the kernel's axes the last that the output has, and the first that is summed over."""
    left, _, result = str(config.get("equation", "")).replace(" ", "").partition("->")
    own = left.partition(",")[2]
    makes = [axis for axis, letter in enumerate(own) if letter in result]
    reads = [axis for axis, letter in enumerate(own) if letter not in result]
    out_axis, in_axis = max(makes, default=None), min(reads, default=None)
    kernel = WeightSpec("kernel", "kernel", None, out_axis, in_axis)
    return [kernel, WeightSpec("bias", "bias")] if config.get("bias_axes") else [kernel]


def _keras1_conv(config: Config, rank: int) -> list[WeightSpec]:
    """Keras 1 stores kernels as its `dim_ordering` says; those of one axis as of two."""
    n, size = filters(config), kernel_size(config, rank)
    if rank == 1:  # (length, 1, in, out) from 1.2 on, (out, in, length, 1) before
        kernel = WeightSpec("kernel", "kernel", None, 3, 2)
    elif config.get("dim_ordering") == "th":
        kernel = WeightSpec("kernel", "kernel", (n, None, *size), 0, 1)
    else:
        kernel = WeightSpec("kernel", "kernel", (*size, None, n), rank + 1, rank)
    return [kernel, *_bias(config, n)]


def _conv(rank: int) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        if "nb_filter" in config:
            return _keras1_conv(config, rank)
        n = filters(config)
        shape = (*kernel_size(config, rank), None, n)
        return [WeightSpec("kernel", "kernel", shape, rank + 1, rank), *_bias(config, n)]

    return weights


def _conv_transpose(rank: int) -> Callable[[Config], list[WeightSpec]]:
    def weights(config: Config) -> list[WeightSpec]:
        if "nb_filter" in config:
            return _keras1_conv(config, rank)
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
        if "nb_filter" in config and config.get("dim_ordering") == "th":
            return [
                WeightSpec("depthwise_kernel", "kernel", None, 1),
                WeightSpec("pointwise_kernel", "kernel", None, 0, 1),
                *_bias(config, n),
            ]
        return [
            WeightSpec("depthwise_kernel", "kernel", deep, rank),
            WeightSpec("pointwise_kernel", "kernel", wide, rank + 1, rank),
            *_bias(config, n),
        ]

    return weights


def _local(rank: int) -> Callable[[Config], list[WeightSpec]]:
    """`implementation` 3 stores a flat list of weights, 2 the filters where `data_format` says."""

    def weights(config: Config) -> list[WeightSpec]:
        bias = [WeightSpec("bias", "bias")] if get(config, "use_bias", "bias", default=True) else []
        how, axis = config.get("implementation", 1), -1
        if how == 2 and config.get("data_format") == "channels_first":
            axis = rank + 1
        return [WeightSpec("kernel", "kernel", None, None if how == 3 else axis), *bias]

    return weights


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
    """Layers of cuDNN store the kernels in its layout.

    That is, for each gate, of the kernel the transposed matrix, written row by row into the shape
    of the matrix itself: no axis is one of units or inputs. The recurrent kernel of each gate is
    transposed: units are rows (`_convert_rnn_weights` of Keras 2).
    """

    def weights(config: Config) -> list[WeightSpec]:
        n = units(config)
        wide = None if n is None else n * gates
        bias: Shape = (wide,)
        if gates == 3 and (cudnn or config.get("reset_after")):
            bias = (None if wide is None else 2 * wide,) if cudnn else (2, wide)
        if cudnn and gates == 4:
            bias = (None if wide is None else 2 * wide,)
        specs = [
            WeightSpec("kernel", "kernel", (None, wide), *(() if cudnn else (1, 0))),
            WeightSpec("recurrent_kernel", "recurrent", (n, wide), *((0,) if cudnn else (1, 0))),
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


def _scores(config: Config) -> list[WeightSpec]:
    """Of `Attention`."""
    specs = [WeightSpec("scale", "norm")] if config.get("use_scale") else []
    if config.get("score_mode") == "concat":
        specs.append(WeightSpec("concat_score_weight", "norm"))
    return specs


_TABLE: dict[str, Callable[[Config], list[WeightSpec]]] = {
    "Dense": _dense,
    "TimeDistributedDense": _dense,
    "EinsumDense": _einsum_dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_norm,
    "BatchNormalizationV1": _batch_norm,
    "BatchNormalizationV2": _batch_norm,
    "SyncBatchNormalization": _batch_norm,
    "LayerNormalization": lambda c: _norm("gamma", *([] if c.get("rms_scaling") else ["beta"]))(c),
    "GroupNormalization": _norm("gamma", "beta"),
    "RMSNormalization": _one("scale", "norm"),
    "Normalization": _normalization,
    "PReLU": _one("alpha", "norm"),
    "ParametricSoftplus": _norm("alpha", "beta"),
    "Attention": _scores,
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
    _TABLE[f"LocallyConnected{_rank}D"] = _local(_rank)
    _TABLE[f"ConvLSTM{_rank}D"] = _conv_lstm(_rank)
    _TABLE[f"ConvLSTM{_rank}DCell"] = _conv_lstm(_rank)

SAME = frozenset(
    """Activation ActivityRegularization AlphaDropout Dropout ELU Equalization GaussianDropout
    GaussianNoise LeakyReLU Masking Normalization ReLU Softmax SpatialDropout1D SpatialDropout2D
    SpatialDropout3D ThresholdedReLU UnitNormalization Rescaling
    RandomFlip RandomRotation RandomTranslation
    RandomZoom RandomContrast RandomBrightness Identity
    AutoContrast RandomShear RandomSharpness RandomHue RandomSaturation RandomGrayscale
    RandomInvert RandomPosterization RandomGaussianBlur RandomErasing Solarization
    RandomColorDegeneration RandomColorJitter RandomPerspective RandomElasticTransform
    MaxNumBoundingBoxes BatchNormalization BatchNormalizationV1 BatchNormalizationV2
    SyncBatchNormalization LayerNormalization GroupNormalization RMSNormalization PReLU
    ParametricSoftplus""".split()
)
MERGES = frozenset(
    "Add Average Maximum Minimum Multiply Subtract Merge Concatenate Dot Maxout".split()
)
_OTHERS = frozenset(
    """InputLayer Flatten Reshape Permute RepeatVector Input CenterCrop Resizing CategoryEncoding
    RandomWidth RandomHeight RandomCrop
    HashedCrossing Hashing Discretization IntegerLookup Cropping1D Cropping2D Cropping3D
    ZeroPadding1D ZeroPadding2D ZeroPadding3D UpSampling1D UpSampling2D UpSampling3D
    MelSpectrogram STFTSpectrogram MixUp CutMix RandAugment AugMix Pipeline""".split()
)
POOL = re.compile(r"^(Global|Adaptive)?(Max|Average)Pool(ing)?[123]D$")
WRAPPERS = frozenset(
    "TimeDistributed Bidirectional RNN ConvRNN2D Wrapper SpectralNormalization"
    " StackedRNNCells".split()
)
MODELS = frozenset("Sequential Functional Model".split())


def has_weights(class_name: str) -> bool:
    """Whether layers of this class can own weights themselves."""
    return class_name in _TABLE


def is_known(class_name: str) -> bool:
    """Whether this is a layer class that comes with some Keras."""
    return (
        class_name in _TABLE
        or class_name in SAME
        or class_name in MERGES
        or class_name in _OTHERS
        or class_name in WRAPPERS
        or bool(POOL.match(class_name))
    )


def weights(class_name: str, config: Config) -> list[WeightSpec]:
    """The weights a layer owns itself, in the order in which Keras saves them.

    Args:
        class_name: class name, as written in the file.
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

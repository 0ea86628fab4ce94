"""Integer inference, simulated: what goes from layer to layer is rounded to levels of few bits.

As LiteRT does it in 8 bits (Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", sections 2.1 and 3.1): a scale and a zero point for
each tensor, its range from the least to the largest value that calibration samples gave, or a
moving average of that while the network is trained. Gradients pass where a value is in its range.

A tensor is rounded where it is read, so that what LiteRT computes in one operator is rounded once:
the sums of a convolution or a dense layer, the batch normalization that is folded into it, and a
ReLU. What a softmax, a sigmoid or a tanh gives has a range of its own, as there. Kernels are
rounded with one symmetric scale for each output channel, max|w| / 127: to fold a batch
normalization into them multiplies kernel and scale alike, and changes no code.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modelcut.engines.keras.network import KerasNetwork, leaves, padded
from modelcut.errors import InputError

WEIGHT_BITS = 8
"""Of kernels that no step has quantized."""
_BATCH = 64
"""Calibration samples that are run at once."""
_DECAY = 0.9
"""Of the moving averages of ranges, a training step: a short training must not outrun them."""

_SUMS = frozenset(
    "dense einsumdense conv1d conv2d conv3d depthwiseconv1d depthwiseconv2d conv1dtranspose "
    "conv2dtranspose conv3dtranspose".split()
)
"""Layers whose sums a batch normalization may be folded into."""
_PASSES = frozenset(
    "flatten reshape permute transpose squeeze expanddims expand_dims getitem maxpool maxpooling1d "
    "maxpooling2d maxpooling3d globalmaxpooling1d globalmaxpooling2d globalmaxpooling3d cropping1d "
    "cropping2d cropping3d zeropadding1d zeropadding2d zeropadding3d upsampling1d upsampling2d "
    "upsampling3d repeatvector repeat dropout spatialdropout1d spatialdropout2d spatialdropout3d "
    "alphadropout gaussiandropout gaussiannoise identity activityregularization masking".split()
)
"""Layers and operations that give levels of what they were given."""
_SIMPLE = frozenset(
    "add subtract multiply maximum minimum average averagepooling1d averagepooling2d "
    "averagepooling3d globalaveragepooling1d globalaveragepooling2d globalaveragepooling3d mean "
    "averagepool relu relu6 leakyrelu prelu elu softmax sigmoid tanh activation concatenate "
    "concat embedding batchnormalization rescaling".split()
)
"""Others that are one operator, or are rounded here as their operators are."""
_FUSED = frozenset({"linear", "relu", "relu6"})
_RANGES = {"softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}

State = Literal["sums", "raw", "level"] | tuple[float, float]
"""Of a tensor: sums that a batch normalization may be folded into; other values that are not
rounded yet; values on levels; or values not rounded yet whose range is known."""


@dataclass
class _Pass:
    """A forward pass under way. Tensors go by their identity, and are held so that it is theirs.

    Attributes:
        training: whether it is one of training.
        states: of the tensors that layers gave.
        rounded: what tensors became where they were read.
        calls: how often each layer was called.
        seen: least and largest value of what was rounded.
        key: call that is under way.
    """

    training: bool
    states: dict[int, tuple[Any, State]] = field(default_factory=dict)
    rounded: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seen: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    key: str = ""

    def state(self, tensor: Any) -> State:
        return self.states.get(id(tensor), (None, "raw"))[1]

    def mark(self, tensor: Any, state: State) -> None:
        self.states[id(tensor)] = (tensor, state)


class Integers:
    """Rounds what goes between the layers of a Keras model from now on.

    Attributes:
        bits: bits of each value.
        low, high: variables with the range of each tensor that is rounded; set by `calibrate`.
        inside: names of the layers of several operators, whose inputs and outputs are rounded, but
            not what is computed inside.
    """

    def __init__(self, model: Any, bits: int, *, outputs: bool = True) -> None:
        """Watches the layers; nothing is rounded before `calibrate`.

        Args:
            model: the Keras model.
            bits: bits of each value.
            outputs: whether probabilities that the network gives are rounded: not for a loss, which
                looks at the logarithm of those near 0.
        """
        import tensorflow as tf

        self._tf = tf
        self._model = model
        self.bits = bits
        self._outputs = outputs
        self.low: Any = None
        self.high: Any = None
        self.inside: dict[str, None] = {}
        self._places: dict[str, int] = {}
        self._now = threading.local()  # replicas are traced in threads
        known: set[int] = set()
        for name, layer in _layers(model):
            if id(layer) not in known:
                known.add(id(layer))
                self._watch(name, layer)

    def calibrate(self, batches: Iterable[Sequence[Any]]) -> None:
        """Takes the ranges from what some samples give, in inference mode.

        Args:
            batches: of each the network's inputs, as tensors.

        Raises:
            InputError: what a layer gives is not finite.
        """
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        self._places = {}
        for tensors in batches:
            self.run(tensors, training=False)
            for key, (least, most) in self._now.last.seen.items():
                ends = float(least), float(most)
                if not np.isfinite(ends).all():
                    raise InputError(f"what {key.partition(':')[0]} reads is not finite")
                low[key] = min(low.get(key, 0.0), ends[0])
                high[key] = max(high.get(key, 0.0), ends[1])
        self.low, self.high = (
            self._tf.Variable(np.array([*ends.values()], np.float32), trainable=False)
            for ends in (low, high)
        )
        self._places = {key: place for place, key in enumerate(low)}

    def run(self, tensors: Sequence[Any], *, training: bool) -> list[Any]:
        """The network's outputs for its inputs."""
        now = self._now.at = self._now.last = _Pass(training)
        try:
            given = list(tensors)
            found = self._model(given if len(given) > 1 else given[0], training=training)
            return [
                part
                if not self._outputs and isinstance(now.state(part), tuple)
                else self._rounded(now, part, f"output {number}")
                for number, part in enumerate(leaves(found))
            ]
        finally:
            self._now.at = None

    def seen(self) -> list[Any]:
        """Least and largest values in the last pass of training, two vectors."""
        seen = self._now.last.seen
        parts = [seen.get(key, (self.low[at], self.high[at])) for key, at in self._places.items()]
        return [self._tf.stack(ends) for ends in zip(*parts, strict=True)] if parts else []

    def follow(self, seen: Sequence[Any]) -> None:
        """Moves the ranges towards what `seen` gave to each replica, shape (replicas, tensors)."""
        if not seen:
            return
        least, most = seen
        for variable, ends in (
            (self.low, self._tf.reduce_min(least, axis=0)),
            (self.high, self._tf.reduce_max(most, axis=0)),
        ):
            variable.assign_add((1 - _DECAY) * (ends - variable))

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The range of each tensor, by the layer that reads it first."""
        low, high = self.low.numpy(), self.high.numpy()
        return {
            key: (float(min(0.0, low[at])), float(max(0.0, high[at])))
            for key, at in self._places.items()
        }

    def _rounded(self, now: _Pass, tensor: Any, key: str) -> Any:
        """A tensor on its levels; the same one for whoever reads it."""
        tf = self._tf
        state = now.state(tensor)
        if state == "level" or not tensor.dtype.is_floating:
            return tensor
        if id(tensor) in now.rounded:
            return now.rounded[id(tensor)][1]
        values = tf.cast(tensor, tf.float32)
        if isinstance(state, tuple):
            found = self._on_levels(values, *state)
        else:
            place = self._places.get(key)
            if place is None or now.training:
                now.seen[key] = tf.reduce_min(values), tf.reduce_max(values)
            if place is None:
                found = tf.identity(values)
            else:
                low, high = (tf.convert_to_tensor(v)[place] for v in (self.low, self.high))
                found = self._on_levels(values, tf.minimum(low, 0.0), tf.maximum(high, 0.0))
        found = tf.cast(found, tensor.dtype)
        now.rounded[id(tensor)] = tensor, found
        now.mark(found, "level")
        return found

    def _on_levels(self, values: Any, low: Any, high: Any) -> Any:
        return self._tf.quantization.fake_quant_with_min_max_vars(
            values, low, high, num_bits=self.bits
        )

    def _range_of(self, activation: str) -> State:
        """What a layer with this activation gives."""
        if activation not in _RANGES:
            return "raw"
        low, high = _RANGES[activation]
        return low, high - (high - low) / (1 << self.bits)

    def _watch(self, name: str, layer: Any) -> None:
        """Has a layer read what is rounded."""
        kind, activation = _kind(layer), _activation(layer)
        call = layer.call
        sums = kind in _SUMS
        if kind not in _SUMS | _PASSES | _SIMPLE:
            self.inside[name] = None
        if sums and activation not in _FUSED:
            object.__setattr__(layer, "activation", self._watched(layer.activation))

        @functools.wraps(call)
        def watching(*arguments: Any, **more: Any) -> Any:
            now: _Pass | None = getattr(self._now, "at", None)
            if now is None:
                return call(*arguments, **more)
            key = now.key = f"{name}:{now.calls[name]}"
            now.calls[name] += 1
            if not self._fuses(now, kind, activation, arguments):
                arguments, more = self._read(now, (arguments, more), key)
                if kind == "batchnormalization":  # a product and a sum, with constants of 8 bits
                    self.inside[name] = None
            found = call(*arguments, **more)
            state: State = self._range_of(activation)
            if kind in _PASSES:
                state = "level"
            elif sums and activation == "linear":
                state = "sums"
            for part in leaves(found):
                now.mark(part, state)
            return found

        object.__setattr__(layer, "call", watching)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """An activation that LiteRT has an operator for: it reads sums that are rounded."""

        @functools.wraps(function, assigned=("__name__", "__doc__"), updated=())
        def watching(sums: Any, *arguments: Any, **more: Any) -> Any:
            now: _Pass | None = getattr(self._now, "at", None)
            if now is not None:
                sums = self._rounded(now, sums, f"{now.key} activation")
            return function(sums, *arguments, **more)

        return watching

    def _fuses(self, now: _Pass, kind: str, activation: str, arguments: Sequence[Any]) -> bool:
        """Whether a layer is a part of the operator that makes what it is given."""
        given = leaves(arguments[0]) if arguments else []
        if kind in ("concatenate", "concat"):
            return True  # its inputs have the scale of its output
        if len(given) != 1 or id(given[0]) not in now.states:
            return False
        state = now.state(given[0])
        if kind == "batchnormalization":
            return state == "sums"
        alone = kind not in _SUMS and activation in ("relu", "relu6")
        return alone and state in ("sums", "raw")

    def _read(self, now: _Pass, arguments: Any, key: str) -> Any:
        """Arguments with their tensors rounded."""
        tf = self._tf
        numbers: list[None] = []

        def one(part: Any) -> Any:
            if not isinstance(part, tf.Tensor) or not part.dtype.is_floating:
                return part
            numbers.append(None)
            which = f"{key} {len(numbers)}" if len(numbers) > 1 else key
            return self._rounded(now, part, which)

        return tf.nest.map_structure(one, arguments)


def simulate(
    network: KerasNetwork,
    bits: int,
    batches: Iterable[Sequence[Any]],
    *,
    outputs: bool = True,
) -> Integers:
    """Has a network round what goes between its layers, from now on.

    Args:
        network: the network.
        bits: bits of each value.
        batches: of calibration samples, each the network's inputs as tensors.
        outputs: whether probabilities that the network gives are rounded too.

    Raises:
        InputError: it has no layers to look into, or what one gives is not finite.
    """
    if network.loaded is not network.model:
        raise InputError(
            "the model is subclassed: what is between its layers cannot be rounded",
            "build it with keras.Model(inputs, outputs)",
        )
    found = Integers(network.model, bits, outputs=outputs)
    found.calibrate(batches)
    network.take(found.run)
    return found


def simulate_on(network: KerasNetwork, bits: int, samples: Path) -> None:
    """As `simulate`, with the samples of an `.npz`, an array for each input; the network says so.

    Raises:
        InputError: as of `simulate`.
    """
    import tensorflow as tf

    with np.load(samples) as stored:
        arrays = [stored[name] for name in stored.files]
    size = network.fixed_batch or _BATCH
    starts = range(0, len(arrays[0]), size)
    batches = (
        [tf.convert_to_tensor(padded(a[n : n + size], size)) for a in arrays] for n in starts
    )
    found = simulate(network, bits, batches)
    network.engine += f", activations in {bits} bits (simulated)"
    network.inside = tuple(found.inside)


def kernel_on_levels(values: Any, axis: int | None) -> Any:
    """A kernel on 255 symmetric levels, one scale for each index of an axis.

    Args:
        values: the kernel, a tensor.
        axis: axis of output channels; None: one scale for all.
    """
    import tensorflow as tf

    axes = [n for n in range(values.shape.rank) if axis is None or n != axis % values.shape.rank]
    most = (1 << (WEIGHT_BITS - 1)) - 1
    peak = tf.reduce_max(tf.abs(values), axis=axes, keepdims=True)
    scale = tf.where(peak > 0, peak, tf.ones_like(peak)) / most
    return tf.round(values / scale) * scale


def _layers(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Layers and operations of a model, those of submodels in place of these."""
    for layer in getattr(model, "operations", None) or model.layers:
        name = f"{path}{layer.name}"
        if getattr(layer, "layers", None) and getattr(layer, "inputs", None):
            yield from _layers(layer, f"{name}/")
        elif type(layer).__name__ != "InputLayer":
            yield name, layer


def _kind(layer: Any) -> str:
    """Class of a layer, or name of the function of an operation, in lower case."""
    name = type(layer).__name__
    if name == "TFOpLambda":
        name = str(layer.get_config().get("function", "")).rpartition(".")[2]
    return name.lower()


def _activation(layer: Any) -> str:
    """Name of the function that a layer ends with; "linear" where it has none."""
    kind = _kind(layer)
    if kind in ("softmax", "sigmoid", "tanh", "relu6"):
        return kind
    if kind == "relu":
        plain = not getattr(layer, "negative_slope", 0) and not getattr(layer, "threshold", 0)
        most = getattr(layer, "max_value", None)
        return "relu" if plain and most in (None, 6) else "another"
    if kind not in _SUMS and kind != "activation":
        return "linear"
    function = getattr(layer, "activation", None)
    if function is None:
        return "linear"
    return str(getattr(function, "__name__", None) or type(function).__name__).lower()

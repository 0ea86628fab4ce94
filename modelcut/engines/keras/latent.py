"""Encodings as TensorFlow trains them: latent weights, and what the network sees of them.

The network runs on the projection of the latent weights; the gradient by the projection is taken
for the gradient by the latent weights (straight-through estimator: Bengio, Léonard and Courville
2013, section 4; Courbariaux et al. 2015). The parameters of a projection (centroids, scales) get
the exact gradient, summed over the weights that use them (Han et al. 2016, section 3.3).

Every projection gives the same bits as `Encoding.project` does. Parameters are stored in variables,
not constants: TensorFlow's optimizer would turn a division by a constant into a product.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from modelcut.model.encoding import Dense, Encoding, Sparse
from modelcut.model.encodings.affine import Affine
from modelcut.model.encodings.binary import Binary
from modelcut.model.encodings.codebook import Codebook

_LEAST_SCALE = 1e-12
_HALF_MAX = 65504.0


class Latent(Protocol):
    """One tensor in training.

    Attributes:
        variables: TensorFlow variables that the optimizer changes.
        weights: the one of them that has the tensor's shape; None where there is none.
    """

    variables: list[Any]
    weights: Any

    def value(self) -> Any:
        """What the network sees."""

    def gradients(self, gradient: Any) -> list[Any]:
        """The gradient by each variable, from that by `value`."""

    def settle(self) -> None:
        """Brings the variables back into their range after an update."""

    def encoding(self) -> Encoding:
        """The encoding with its parameters as they are now."""

    def finish(self) -> tuple[np.ndarray, Encoding]:
        """The values, computed by NumPy, and the encoding that they satisfy exactly."""


def latent(
    encoding: Encoding,
    values: np.ndarray,
    *,
    follow: bool,
    regrow: bool = False,
    entropy_weight: float = 0.0,
) -> Latent:
    """The latent form of a tensor.

    Args:
        encoding: the encoding that the values satisfy.
        values: the tensor's values.
        follow: whether masks and cluster indices follow the latent weights.
        regrow: with `follow`, whether pruned weights are still trained, so that they may come back.
        entropy_weight: with `follow`, the squared error that one bit of a cluster index is traded
            for, as a fraction of the tensor's mean square.
    """
    if isinstance(encoding, Sparse):
        inner = latent(encoding.inner, values, follow=follow, entropy_weight=entropy_weight)
        return Masked(encoding, inner, values, regrow=follow and regrow)
    if follow and type(encoding) in _FOLLOWING:
        return _FOLLOWING[type(encoding)](encoding, values, entropy_weight)
    return _LATENT.get(type(encoding), Projected)(encoding, values)


def _variable(values: np.ndarray, dtype: Any = None) -> Any:
    import tensorflow as tf

    return tf.Variable(tf.convert_to_tensor(np.array(values), dtype=dtype), trainable=False)


class Plain:
    """No restriction but the precision of a float type."""

    def __init__(self, encoding: Dense, values: np.ndarray) -> None:
        self._encoding = encoding
        self.weights = _variable(values)
        self.variables = [self.weights]

    def value(self) -> Any:
        import tensorflow as tf

        weights = self.weights.read_value()
        if not self._encoding.precision:
            return weights
        return tf.cast(tf.cast(weights, self._encoding.precision), weights.dtype)

    def gradients(self, gradient: Any) -> list[Any]:
        return [gradient]

    def settle(self) -> None:
        import tensorflow as tf

        if self._encoding.precision == "float16":
            self.weights.assign(tf.clip_by_value(self.weights, -_HALF_MAX, _HALF_MAX))

    def encoding(self) -> Encoding:
        return self._encoding

    def finish(self) -> tuple[np.ndarray, Encoding]:
        return self._encoding.project(self.weights.numpy()), self._encoding


class Projected:
    """Any encoding, as it projects: what trains one that has no form of its own here.

    The projection runs in NumPy, outside of TensorFlow's graph, so it is slower than the others.
    """

    def __init__(self, encoding: Encoding, values: np.ndarray) -> None:
        self._encoding = encoding
        self.weights = _variable(values)
        self.variables = [self.weights]

    def value(self) -> Any:
        import tensorflow as tf

        weights = self.weights.read_value()
        found = tf.numpy_function(self._encoding.project, [weights], weights.dtype)
        return tf.ensure_shape(found, weights.shape)

    def gradients(self, gradient: Any) -> list[Any]:
        return [gradient]

    def settle(self) -> None:
        pass

    def encoding(self) -> Encoding:
        return self._encoding

    def finish(self) -> tuple[np.ndarray, Encoding]:
        return self._encoding.project(self.weights.numpy()), self._encoding


class Uniform:
    """Fixed scale and zero point (quantization-aware training: Jacob et al. 2018, section 3)."""

    def __init__(self, encoding: Affine, values: np.ndarray) -> None:
        self._encoding = encoding
        self.weights = _variable(values)
        self.variables = [self.weights]
        shape, dtype = values.shape, values.dtype
        scale = encoding._spread(encoding.scale, shape, slice(None)).astype(dtype)
        self._scale = _variable(scale)
        zero: Any = np.asarray(encoding._half, dtype)
        if encoding.zero_point is not None:
            zero = encoding._spread(encoding.zero_point, shape, slice(None)).astype(dtype)
        self._zero = _variable(zero)

    def _bounds(self) -> tuple[Any, Any]:
        last = self._encoding.symbols - 1
        return -self._zero * self._scale, (last - self._zero) * self._scale

    def value(self) -> Any:
        import tensorflow as tf

        steps = tf.round(self.weights / self._scale) + self._zero
        steps = tf.clip_by_value(steps, 0.0, float(self._encoding.symbols - 1)) - self._zero
        return steps * self._scale + 0.0

    def gradients(self, gradient: Any) -> list[Any]:
        return [gradient]

    def settle(self) -> None:
        import tensorflow as tf

        # A latent weight far outside the range would take long to come back.
        low, high = self._bounds()
        self.weights.assign(tf.clip_by_value(self.weights, low, high))

    def encoding(self) -> Encoding:
        return self._encoding

    def finish(self) -> tuple[np.ndarray, Encoding]:
        return self._encoding.project(self.weights.numpy()), self._encoding


class Signs:
    """Signs of latent weights times scales that learn (Rastegari et al. 2016, section 3.1)."""

    def __init__(self, encoding: Binary, values: np.ndarray) -> None:
        import tensorflow as tf

        self._encoding = encoding
        self.weights = _variable(values)
        self._scale = _variable(encoding.scale.astype(np.float32))
        self.variables = [self.weights, self._scale]
        bases = encoding.scale.shape[0]
        codes = np.arange(encoding.symbols)[:, None] >> np.arange(bases) & 1
        self._signs = tf.constant(2.0 * codes - 1.0, tf.float64)

    def _levels(self) -> list[Any]:
        """The value of each code, in float64, broadcasting against the tensor."""
        import tensorflow as tf

        scale = tf.cast(self._scale, tf.float64)
        levels = []
        for code in range(self._encoding.symbols):
            level = tf.zeros((), tf.float64)
            for base in range(self._encoding.scale.shape[0]):
                level = level + self._signs[code, base] * scale[base]
            levels.append(level)
        return levels

    def _codes(self, levels: list[Any]) -> Any:
        import tensorflow as tf

        if len(levels) == 2:
            return tf.cast(self.weights >= 0, tf.int64)
        wide = tf.cast(self.weights, tf.float64)
        return tf.argmin(tf.stack([tf.abs(wide - level) for level in levels]), axis=0)

    def value(self) -> Any:
        import tensorflow as tf

        levels = self._levels()
        codes = self._codes(levels)
        value = tf.zeros_like(self.weights)
        for code, level in enumerate(levels):
            value = tf.where(codes == code, tf.cast(level, value.dtype), value)
        return value

    def gradients(self, gradient: Any) -> list[Any]:
        import tensorflow as tf

        codes = self._codes(self._levels())
        signs = tf.cast(self._signs, gradient.dtype)
        own = []
        for base in range(self._encoding.scale.shape[0]):
            part = gradient * tf.gather(signs[:, base], codes)
            shape = self._encoding.scale.shape[1:]
            shape = (1,) * (part.shape.rank - len(shape)) + tuple(shape)
            axes = [axis for axis, n in enumerate(shape) if n == 1]
            part = tf.reduce_sum(part, axis=axes, keepdims=True)
            own.append(tf.cast(tf.reshape(part, self._encoding.scale.shape[1:]), tf.float32))
        return [gradient, tf.stack(own)]

    def settle(self) -> None:
        import tensorflow as tf

        self._scale.assign(tf.maximum(self._scale, _LEAST_SCALE))
        reach = tf.cast(tf.reduce_sum(self._scale, axis=0), self.weights.dtype)
        # Beyond twice the largest value the sign would hardly change any more.
        self.weights.assign(tf.clip_by_value(self.weights, -2 * reach, 2 * reach))

    def encoding(self) -> Encoding:
        return replace(self._encoding, scale=self._scale.numpy())

    def finish(self) -> tuple[np.ndarray, Encoding]:
        encoding = self.encoding()
        return encoding.project(self.weights.numpy()), encoding


class Shared:
    """Weight clustering with trainable centroids and fixed assignments."""

    weights: Any = None

    def __init__(self, encoding: Codebook, values: np.ndarray) -> None:
        import tensorflow as tf

        self._centroids = _variable(encoding.centres.astype(values.dtype))
        self.variables = [self._centroids]
        self._codes = tf.constant(encoding.codes(values), tf.int32)

    def value(self) -> Any:
        import tensorflow as tf

        return tf.gather(self._centroids, self._codes)

    def gradients(self, gradient: Any) -> list[Any]:
        return [_summed(gradient, self._codes, self._centroids.shape[0])]

    def settle(self) -> None:
        pass

    def encoding(self) -> Encoding:
        return Codebook(np.unique(self._centroids.numpy()))

    def finish(self) -> tuple[np.ndarray, Encoding]:
        return _exact(self._centroids.numpy()[self._codes.numpy()])


class Following:
    """Weight clustering with trainable centroids; each weight takes the one of least cost.

    That is the nearest one, or, where bits have a price, the one of least squared error + price ·
    bits (Chou et al. 1989), a code's bits following from how often it was used of late.
    """

    def __init__(self, encoding: Codebook, values: np.ndarray, entropy_weight: float = 0.0) -> None:
        self._centroids = _variable(encoding.centres.astype(values.dtype))
        self.weights = _variable(values)
        self.variables = [self.weights, self._centroids]
        self._entropy_weight = entropy_weight
        # With equal prices, the power diagram is the Voronoi diagram.
        self._prices = _variable(np.zeros(encoding.symbols, values.dtype))
        self.recount()

    def _codes(self) -> Any:
        import tensorflow as tf

        order = tf.argsort(self._centroids, stable=True)
        centroids = tf.gather(self._centroids, order)
        if self._entropy_weight:
            edges = _edges(centroids, tf.gather(self._prices, order))
        else:
            edges = (centroids[1:] + centroids[:-1]) / 2
        flat = tf.searchsorted(edges, tf.reshape(self.weights, (-1,)))
        return tf.reshape(tf.gather(order, flat), self.weights.shape)

    def value(self) -> Any:
        import tensorflow as tf

        return tf.gather(self._centroids, self._codes())

    def gradients(self, gradient: Any) -> list[Any]:
        return [gradient, _summed(gradient, self._codes(), self._centroids.shape[0])]

    def recount(self, kept: np.ndarray | None = None) -> None:
        """Takes a code's bits from how often it is used now.

        Args:
            kept: which weights count, of the tensor's shape; None: all.
        """
        if not self._entropy_weight:
            return
        codes = self._codes().numpy()
        codes = codes.reshape(-1) if kept is None else codes[kept]
        centroids = self._centroids.numpy()
        counts = np.bincount(codes, minlength=centroids.size).astype(np.float64)
        if not counts.any():
            return
        # An unused centroid costs as much as one of a single weight, so that it may be used again.
        bits = -np.log2(np.maximum(counts, 1) / counts.sum())
        square = float(counts @ np.square(centroids.astype(np.float64)) / counts.sum())
        self._prices.assign((self._entropy_weight * square * bits).astype(centroids.dtype))

    def settle(self) -> None:
        pass

    def encoding(self) -> Encoding:
        return Codebook(np.unique(self._centroids.numpy()))

    def finish(self) -> tuple[np.ndarray, Encoding]:
        return _exact(self.value().numpy())


class Masked:
    """Zeros under a fixed mask, or under one that is updated during training.

    Where removed weights learn on, nothing holds them back while they are removed: together they
    would come back at the next mask and undo the training. So each is restored, or removed, at the
    step at which it passes the limit that the last mask drew.
    """

    def __init__(
        self, encoding: Sparse, inner: Latent, values: np.ndarray, *, regrow: bool
    ) -> None:
        import tensorflow as tf

        self._pattern = encoding.pattern
        self.inner = inner
        self.weights = self.inner.weights
        self.variables = self.inner.variables
        self.mask = _variable(values != 0, tf.bool)
        self._regrow = regrow and self.weights is not None
        self._limit = _variable(_least(values, values != 0))
        self.recount()

    def value(self) -> Any:
        import tensorflow as tf

        value = self.inner.value()
        return tf.where(self.mask, value, tf.zeros_like(value))

    def gradients(self, gradient: Any) -> list[Any]:
        import tensorflow as tf

        masked = tf.where(self.mask, gradient, tf.zeros_like(gradient))
        found = self.inner.gradients(masked)
        if self._regrow:
            # Removed weights learn on, so that they may come back (Guo et al. 2016, eq. 3).
            found[0] = gradient
        return found

    def keep(self, kept: np.ndarray) -> None:
        """Sets the mask, of the tensor's shape."""
        self.mask.assign(kept)
        if self._regrow:
            self._limit.assign(_least(self.weights.numpy(), kept))

    def settle(self) -> None:
        import tensorflow as tf

        self.inner.settle()
        if self._regrow:
            self.mask.assign(tf.abs(self.weights) >= self._limit)

    def recount(self) -> None:
        """Updates the bits of the centroids from how many kept weights use them."""
        if isinstance(self.inner, Following):
            self.inner.recount(self.mask.numpy())

    def encoding(self) -> Encoding:
        return Sparse(self.inner.encoding(), self._pattern)

    def finish(self) -> tuple[np.ndarray, Encoding]:
        values, encoding = self.inner.finish()
        kept = self.mask.numpy()
        values = np.where(kept, values, np.zeros((), values.dtype))
        if isinstance(encoding, Codebook):
            values, encoding = _exact(values, masked=True)
        return values, Sparse(encoding, self._pattern)


_LATENT: dict[type[Encoding], Any] = {
    Dense: Plain,
    Affine: Uniform,
    Binary: Signs,
    Codebook: Shared,
}
"""The latent form of each encoding; `Projected` serves the others."""

_FOLLOWING: dict[type[Encoding], Any] = {Codebook: Following}
"""Those in which a weight may move from one code to another while the parameters learn."""


def _least(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The smallest magnitude that is kept; infinite where none is. A scalar, of their dtype."""
    limit: np.ndarray = np.min(np.abs(values), initial=np.inf, where=kept).astype(values.dtype)
    return limit


def _summed(gradient: Any, codes: Any, count: int) -> Any:
    """Sums of the gradient over the weights of each code."""
    import tensorflow as tf

    flat = tf.reshape(gradient, (-1,))
    return tf.math.unsorted_segment_sum(flat, tf.reshape(codes, (-1,)), count)


def _edges(centroids: Any, prices: Any) -> Any:
    """Boundaries between the centroids of least squared distance + price.

    Args:
        centroids: ascending, shape (k,).
        prices: cost of each centroid's index, shape (k,).

    Returns:
        Shape (k - 1,), ascending; a centroid without an interval has equal edges.
    """
    import tensorflow as tf

    gaps = centroids[None, :] - centroids[:, None]
    apart = gaps > 0
    halves = (prices[None, :] - prices[:, None]) / tf.where(apart, 2 * gaps, tf.ones_like(gaps))
    meet = (centroids[None, :] + centroids[:, None]) / 2 + halves
    # From where on value j beats all values up to i: a maximum down the rows, then the least j > i.
    best, rows = tf.fill(tf.shape(centroids), centroids.dtype.min), []
    size = centroids.shape[0]
    for i in range(size - 1):
        best = tf.where(apart[i], tf.maximum(best, meet[i]), best)
        rows.append(tf.reduce_min(best[i + 1 :]))
    return tf.stack(rows) if rows else centroids[:0]


def _exact(values: np.ndarray, *, masked: bool = False) -> tuple[np.ndarray, Codebook]:
    """Values and their codebook; centroids that training has made equal are merged."""
    used = np.unique(values[values != 0] if masked else values)
    if not used.size:
        used = np.zeros(1, values.dtype)
    limit = 8 * np.finfo(values.dtype).eps * np.abs(used[1:])
    last = used[np.concatenate([np.diff(used) > limit, [True]])]
    book = Codebook(last)
    found = book.project(values)
    if masked:
        found = np.where(values != 0, found, np.zeros((), values.dtype))
    return found, book

"""Every encoding in training: TensorFlow sees what NumPy's projection gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.model.encoding import Dense, Sparse
from modelcut.model.encodings.affine import Affine
from modelcut.model.encodings.binary import Binary
from modelcut.model.encodings.codebook import Codebook

RNG = np.random.default_rng(0)
ENCODINGS = {
    "dense": Dense(),
    "float16": Dense("float16"),
    "bfloat16": Dense("bfloat16"),
    "int4": Affine(4, np.full((1, 20), 0.3, "float32")),
    "uint4": Affine(4, np.full((1, 20), 0.31, "float32"), np.full((1, 20), 5, "int32")),
    "groups": Affine(3, np.full((3, 20), 0.37, "float32"), None, 10, 0),
    "binary": Binary(np.full((1, 1, 20), 0.7, "float32")),
    "two bases": Binary(np.array([0.7, 0.31], "float32").reshape(2, 1, 1)),
    "7 values": Codebook(np.sort(RNG.normal(size=7)).astype("float32")),
    "60 values": Codebook(np.sort(RNG.normal(size=60)).astype("float32")),
}
CASES = ENCODINGS | {f"sparse {name}": Sparse(encoding) for name, encoding in ENCODINGS.items()}


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_projections_agree_and_the_result_is_exact(name, follow):
    import tensorflow as tf

    from modelcut.engines.keras.latent import latent

    encoding = CASES[name]
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 20)).astype("float32")
    if isinstance(encoding, Sparse):
        values *= np.abs(values) > 0.5
    values = encoding.project(values)
    one = latent(encoding, values, follow=follow)
    seen = tf.function(one.value)
    np.testing.assert_array_equal(seen().numpy(), values)
    for _ in range(5):
        slope = tf.constant(rng.normal(size=values.shape).astype("float32"))
        for variable, part in zip(one.variables, one.gradients(slope), strict=True):
            assert variable.shape == part.shape
            variable.assign_sub(0.05 * part)
        one.settle()
    found, after = one.finish()
    np.testing.assert_array_equal(found, seen().numpy())
    np.testing.assert_array_equal(after.project(found), found)
    assert after.kinds == encoding.kinds
    assert not np.array_equal(found, values), "nothing was learned"
    if isinstance(encoding, Sparse):
        assert not found[values == 0].any()
        assert not np.signbit(found[values == 0]).any()
    if isinstance(encoding, Codebook):
        assert np.unique(found).size <= encoding.symbols


def test_shared_values_get_the_sum_of_the_gradients():
    import tensorflow as tf

    from modelcut.engines.keras.latent import latent

    book = Codebook(np.array([-1, 2], "float32"))
    one = latent(book, np.array([[-1, 2, 2]], "float32"), follow=False)
    (found,) = one.gradients(tf.constant([[1.0, 10.0, 100.0]]))
    np.testing.assert_array_equal(found.numpy(), [1, 110])


def test_a_rare_value_gives_way_where_bits_have_a_price():
    import tensorflow as tf

    from modelcut.engines.keras.latent import latent

    book = Codebook(np.array([-1, 0.5, 0.7, 2], "float32"))
    values = np.array([0.5] * 90 + [-1] * 5 + [2] * 4 + [0.7], "float32").reshape(10, 10)
    sparse = Sparse(book)
    for encoding, one in (
        (book, latent(book, values, follow=True, entropy_weight=0.05)),
        (sparse, latent(sparse, values, follow=True, entropy_weight=0.05)),
    ):
        one.recount()
        found = tf.function(one.value)().numpy()
        # Against the definition: squared error + weight · mean square · bits.
        counts = np.array([5, 90, 1, 4])
        square = float(np.square(values.astype("float64")).mean())
        price = 0.05 * square * -np.log2(counts / 100)
        cost = np.square(values.reshape(-1, 1) - book.centres) + price
        np.testing.assert_array_equal(found, book.centres[cost.argmin(axis=1)].reshape(10, 10))
        assert (found == 0.7).sum() == 0
        assert (found == -1).sum() == 5
        kept, after = one.finish()
        np.testing.assert_array_equal(after.project(kept), kept)
        assert after.kinds == encoding.kinds


def test_the_edges_of_priced_values_are_those_of_the_least_cost():
    import tensorflow as tf

    from modelcut.engines.keras.latent import _edges

    rng = np.random.default_rng(3)
    for size in (1, 2, 5, 12):
        centres = np.sort(rng.normal(size=size))
        prices = rng.exponential(0.3, size)
        edges = _edges(tf.constant(centres), tf.constant(prices)).numpy()
        assert edges.shape == (size - 1,)
        points = rng.normal(size=2000) * 2
        cost = np.square(points[:, None] - centres) + prices
        np.testing.assert_array_equal(np.searchsorted(edges, points), cost.argmin(axis=1))


def test_removed_weights_rest_or_come_back_one_by_one():
    import tensorflow as tf

    from modelcut.engines.keras.latent import latent

    values = np.array([[0.0, 1.0, -2.0, 0.0]], "float32")
    slope = tf.constant([[-0.6, 0.0, 0.0, 0.1]])
    resting = latent(Sparse(), values, follow=True)
    growing = latent(Sparse(), values, follow=True, regrow=True)
    for one in (resting, growing):
        for _ in range(2):
            one.weights.assign_sub(one.gradients(slope)[0])
            one.settle()
    np.testing.assert_array_equal(resting.value().numpy(), values)
    np.testing.assert_allclose(growing.value().numpy(), [[1.2, 1, -2, 0]], rtol=1e-6)
    growing.keep(np.array([[True, False, True, False]]))
    np.testing.assert_allclose(growing.value().numpy(), [[1.2, 0, -2, 0]], rtol=1e-6)
    growing.settle()
    np.testing.assert_allclose(growing.value().numpy(), [[1.2, 0, -2, 0]], rtol=1e-6)

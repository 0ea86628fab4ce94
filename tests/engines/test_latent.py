"""Every encoding in training: TensorFlow sees what NumPy's projection gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.encoding import Affine, Binary, Codebook, Dense, Sparse

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

    from modelcut.engines._latent import latent

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

    from modelcut.engines._latent import latent

    book = Codebook(np.array([-1, 2], "float32"))
    one = latent(book, np.array([[-1, 2, 2]], "float32"), follow=False)
    (found,) = one.gradients(tf.constant([[1.0, 10.0, 100.0]]))
    np.testing.assert_array_equal(found.numpy(), [1, 110])

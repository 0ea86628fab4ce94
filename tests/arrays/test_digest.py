"""One hash for files, texts and tensors."""

import ml_dtypes
import numpy as np
import pytest

from modelcut.arrays import digest


def test_it_is_blake3():
    """The vectors that its authors published."""
    assert digest.of_text("") == (
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )
    counted = bytes(i % 251 for i in range(2048))
    assert digest.of_bytes(counted) == (
        "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16, "int8", "bool"])
def test_the_values_are_hashed_in_c_order(dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    expected = digest.of_bytes(values.tobytes())
    assert digest.of_values(values) == expected
    assert digest.of_values(np.asfortranarray(values)) == expected
    assert digest.of_values(values[::-1]) != expected


def test_the_order_of_bytes_in_memory_does_not_matter():
    values = np.arange(5, dtype="<f4")
    assert digest.of_values(values.astype(">f4")) == digest.of_values(values)
    assert digest.of_values(np.array(1.5, "float32")) == digest.of_values(
        np.array([1.5], "float32")
    )
    assert digest.of_values(np.zeros((0, 3), "float32")) == digest.of_text("")

"""Memory is taken again only where nobody can tell."""

import numpy as np
import pytest

from modelcut.arrays import buffers

SHAPE = (600, 1000)


def where(array):
    return array.__array_interface__["data"][0]


@pytest.fixture
def kept():
    with buffers.kept():
        yield


@pytest.mark.usefixtures("kept")
def test_memory_is_taken_again_once_the_array_is_gone():
    first = buffers.empty(SHAPE, np.float32)
    place = where(first)
    del first
    assert where(buffers.empty((1000, 300), np.float64)) == place


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    "look",
    [
        lambda array: array[5:7],
        lambda array: array.T,
        lambda array: array.reshape(-1).view(np.uint32)[::3],
        lambda array: memoryview(array),
        lambda array: lambda: array,
    ],
)
def test_what_anyone_still_looks_at_is_left_alone(look):
    """Views of views, buffers and closures all count."""
    first = buffers.empty(SHAPE, np.float32)
    first[...] = 1
    seen = look(first)
    del first
    for _ in range(3):
        buffers.empty(SHAPE, np.float32)[...] = 2
    seen = seen() if callable(seen) else np.asarray(seen)
    assert (seen.view(np.float32) == 1).all()


@pytest.mark.usefixtures("kept")
def test_what_is_too_small_is_given_back_first():
    small = buffers.empty(SHAPE, np.float32)
    del small
    large = buffers.empty((2000, 1000), np.float32)
    assert [piece.nbytes for piece in buffers._kept] == [large.nbytes]


def test_nothing_is_kept_outside_a_job():
    with buffers.kept():
        buffers.empty(SHAPE, np.float32)
        assert buffers._kept
    assert not buffers._kept
    alone = buffers.empty(SHAPE, np.float32)
    assert not buffers._kept
    assert alone.flags.owndata


@pytest.mark.usefixtures("kept")
def test_it_is_an_array_as_any_other():
    for shape in [(), (0, 3), (3,), SHAPE, (2, 3, 400, 500)]:
        made = buffers.empty(shape, "float32")
        assert made.shape == shape
        assert made.flags.c_contiguous
        assert made.flags.writeable

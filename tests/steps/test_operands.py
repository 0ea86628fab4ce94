"""Kernels as matrices: what Keras' own layers give is their inputs times these."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.graph.keras import classes
from modelcut.model.model import Layer, Source, Tensor
from modelcut.steps import recurrence
from modelcut.steps.operands import operand

ALL = 1 << 62


def as_layer(layer):
    """A Keras layer with its weights as modelcut has them, and their values."""
    inner = getattr(layer, "layer", layer)
    specs = classes.weights(type(inner).__name__, inner.get_config())
    values = {spec.role: np.asarray(w) for spec, w in zip(specs, layer.weights, strict=True)}
    tensors = tuple(
        Tensor(
            name=f"l/{spec.role}",
            role=spec.role,
            kind=spec.kind,
            shape=values[spec.role].shape,
            dtype=values[spec.role].dtype,
            source=Source(values[spec.role].copy),
            out_axis=None if spec.out_axis is None else spec.out_axis % values[spec.role].ndim,
            in_axis=None if spec.in_axis is None else spec.in_axis % values[spec.role].ndim,
        )
        for spec in specs
    )
    return Layer(("l",), type(layer).__name__, layer.get_config(), tensors), values


def product(layer, given):
    """What the last kernel of a layer makes of its inputs, (places, outputs)."""
    made, values = as_layer(layer)
    kernel = next(t for t in reversed(made.tensors) if t.kind in ("kernel", "recurrent"))
    view = operand(made, kernel)
    assert not isinstance(view, str), view
    matrices = view.split(values[kernel.role])
    np.testing.assert_array_equal(view.join(matrices), values[kernel.role])
    rows = np.concatenate(list(view.rows(given, values.__getitem__, ALL)), axis=1)
    some = np.concatenate(list(view.rows(given, values.__getitem__, 5)), axis=1)
    assert some.shape == (rows.shape[0], min(5, rows.shape[1]), rows.shape[2])
    return np.moveaxis(np.matmul(rows, matrices), 0, 1)


def cases():
    from keras import layers as k

    yield k.Dense(5), (4, 7)
    yield k.TimeDistributed(k.Dense(5)), (4, 7)
    yield k.TimeDistributed(k.Conv2D(5, 3)), (2, 9, 8, 4)
    yield k.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3)), (4, 7)
    yield k.EinsumDense("abcd,cde->abe", output_shape=(None, 5)), (4, 2, 3)
    yield k.EinsumDense("...x,xy->...y", output_shape=(6,)), (4, 7)
    yield k.EinsumDense("abc,bcd->abd", output_shape=(4, 5)), (4, 7)
    yield k.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 4)
    yield k.Conv2D(5, 3, padding="same", dilation_rate=2), (9, 8, 4)
    for padding in ("valid", "same"):
        for strides in (1, 2):
            how = {"padding": padding, "strides": strides}
            yield k.Conv1D(5, 3, **how), (9, 4)
            yield k.Conv2D(5, (3, 2), **how), (9, 8, 4)
            yield k.Conv2D(6, 3, groups=2, **how), (9, 8, 4)
            yield k.Conv3D(5, 2, **how), (5, 6, 4, 3)
            yield k.DepthwiseConv1D(3, **how), (9, 4)
            yield k.DepthwiseConv2D(3, depth_multiplier=2, **how), (9, 8, 4)
            yield k.SeparableConv1D(5, 3, **how), (9, 4)
            yield k.SeparableConv2D(5, 3, depth_multiplier=2, **how), (9, 8, 4)
            yield k.Conv1DTranspose(5, 3, **how), (5, 4)
            for size in (1, 2, 3, 4):
                yield k.Conv2DTranspose(5, (size, 3), **how), (5, 6, 4)
            yield k.Conv3DTranspose(3, 3, **how), (3, 4, 5, 2)


@pytest.mark.slow
def test_inputs_times_kernel_is_what_keras_gives():
    rng = np.random.default_rng(0)
    for layer, shape in cases():
        given = rng.normal(size=(3, *shape)).astype("float32")
        truth = np.asarray(layer(given))  # biases start as zeros
        found = product(layer, given).reshape(truth.shape)
        np.testing.assert_allclose(found, truth, atol=2e-6, err_msg=str(layer.get_config()))


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"use_bias": False}, {"go_backwards": True}])
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU", "GRU before"])
def test_states_are_what_keras_gives(name, more):
    from keras import layers

    rng = np.random.default_rng(1)
    before = {"reset_after": False} if name.endswith("before") else {}
    cls = getattr(layers, name.partition(" ")[0])
    layer = cls(5, return_sequences=True, bias_initializer="normal", **before, **more)
    given = rng.normal(size=(3, 6, 4)).astype("float32")
    truth = np.asarray(layer(given))
    names = ("kernel", "recurrent_kernel", "bias")
    weights = {n: np.asarray(w) for n, w in zip(names, layer.weights, strict=False)}
    found = recurrence.states(cls.__name__, layer.get_config(), weights, given)
    np.testing.assert_allclose(found[:, 1:], truth[:, :-1], atol=1e-6)
    assert not found[:, 0].any()


def test_a_kernel_whose_inputs_are_not_known_says_so():
    tensor = Tensor("l/kernel", "kernel", "kernel", (3, 4), np.dtype("float32"), Source(list), 1, 0)
    gates = {"activation": "softsign", "recurrent_activation": "sigmoid", "units": 4}
    for name, config in (("Mystery", {}), ("LSTM", gates), ("EinsumDense", {"equation": "a,b"})):
        assert "inputs are known" in operand(Layer(("l",), name, config, (tensor,)), tensor)

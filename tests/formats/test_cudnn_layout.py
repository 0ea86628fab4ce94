"""Layers of cuDNN: which axes of their kernels are units, and what steps make of the rest."""

from __future__ import annotations

import numpy as np
import pytest
from toys import legacy

from modelcut import steps
from modelcut.formats import registry
from modelcut.graph.architecture import Architecture
from modelcut.steps.base import Context

UNITS, INPUTS = 3, 5


def stored(gates, rng):
    """Kernels and bias as Keras 2 stores those of a plain layer for cuDNN; the plain recurrent one.

    `_convert_rnn_weights` of Keras 2 (keras/engine/saving.py), from a plain layer to one of cuDNN.
    """
    plain = [rng.normal(size=(rows, gates * UNITS)).astype("float32") for rows in (INPUTS, UNITS)]

    def each(kernel, change):
        return np.hstack([change(part) for part in np.hsplit(kernel, gates)])

    return {
        "kernel:0": each(plain[0], lambda part: part.T.reshape(part.shape)),
        "recurrent_kernel:0": each(plain[1], lambda part: part.T),
        "bias:0": np.ones(2 * gates * UNITS, "float32"),
    }, plain[1]


def opened(tmp_path, name, *, gates=4, weights_only=False, both=False):
    ways = ("forward/", "backward/") if both else ("",)
    values, plain = stored(gates, np.random.default_rng(gates))
    arrays = {"r": {f"r/{way}{role}": one for way in ways for role, one in values.items()}}
    layer = {"class_name": name, "config": {"name": "r", "units": UNITS}}
    if both:
        layer = {"class_name": "Bidirectional", "config": {"name": "r", "layer": layer}}
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": [layer]}}
    legacy(tmp_path / "m.h5", arrays, None if weights_only else config)
    return registry.open_model(tmp_path / "m.h5"), plain


@pytest.mark.parametrize(("name", "gates"), [("CuDNNLSTM", 4), ("CuDNNGRU", 3)])
@pytest.mark.parametrize("form", ["plain", "weights_only", "both"])
def test_a_norm_prunes_whole_units_or_nothing(name, gates, form, tmp_path):
    more = {} if form == "plain" else {form: True}
    model, plain = opened(tmp_path, name, gates=gates, **more)
    # A unit of the recurrent kernel is a column of each plain gate.
    norms = np.square(plain).reshape(UNITS, gates, UNITS).sum((0, 1))
    outcome = steps.find("prune", "l2")(sparsity=0.34, include=["r"]).apply(model, Context())
    for tensor in outcome.model.tensors:
        if tensor.kind == "kernel":
            assert outcome.skipped[tensor.name] == "has no axis of filters"
            assert (tensor.out_axis, tensor.in_axis) == (None, None)
        elif tensor.kind == "recurrent":
            zero = (tensor.pull()[0] == 0).all(axis=1)
            assert list(np.flatnonzero(zero)) == [norms.argmin()]


def test_a_kernel_that_reads_no_rows_is_not_factorized(tmp_path):
    model, _ = opened(tmp_path, "CuDNNGRU", gates=3)
    outcome = steps.find("factorize", "svd")(rank=1).apply(model, Context())
    assert "layout of cuDNN" in outcome.skipped["r/kernel"]
    assert isinstance(outcome.model.architecture, Architecture)
    assert outcome.model.layers[0].class_name == "CuDNNGRU"


def test_a_gru_of_two_biases_keeps_its_axes(tmp_path):
    arrays = {"r": {"r/kernel:0": np.ones((5, 9), "float32"),
                    "r/recurrent_kernel:0": np.ones((3, 9), "float32"),
                    "r/bias:0": np.ones((2, 9), "float32")}}  # fmt: skip
    legacy(tmp_path / "m.h5", arrays)
    (layer,) = registry.open_model(tmp_path / "m.h5").layers
    assert [(t.out_axis, t.in_axis) for t in layer.tensors[:2]] == [(1, 0), (1, 0)]

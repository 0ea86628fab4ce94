"""What is known of layer classes: weights, shapes and work, by hand-checked examples."""

from __future__ import annotations

import pytest

from modelcut.graph.keras import classes
from modelcut.graph.keras.layer_shapes import macs, output_shape
from modelcut.graph.keras.saved_order import slots
from modelcut.graph.node import node_of
from modelcut.graph.shapes import macs as macs_of_node


def shapes_of(class_name, **config):
    return [(spec.role, spec.shape) for spec in classes.weights(class_name, config)]


@pytest.mark.parametrize(
    ("class_name", "config", "expected"),
    [
        ("Dense", {"units": 3}, [("kernel", (None, 3)), ("bias", (3,))]),
        ("Dense", {"units": 3, "use_bias": False}, [("kernel", (None, 3))]),
        ("Dense", {"output_dim": 3, "bias": False}, [("kernel", (None, 3))]),
        ("Embedding", {"input_dim": 9, "output_dim": 4}, [("embeddings", (9, 4))]),
        (
            "Conv2D",
            {"filters": 5, "kernel_size": [3, 2]},
            [("kernel", (3, 2, None, 5)), ("bias", (5,))],
        ),
        (
            "Convolution2D",
            {"nb_filter": 5, "nb_row": 3, "nb_col": 2, "dim_ordering": "tf"},
            [("kernel", (3, 2, None, 5)), ("bias", (5,))],
        ),
        (
            "Convolution2D",
            {"nb_filter": 5, "nb_row": 3, "nb_col": 2, "dim_ordering": "th"},
            [("kernel", (5, None, 3, 2)), ("bias", (5,))],
        ),
        (
            "Conv2DTranspose",
            {"filters": 5, "kernel_size": 3, "use_bias": False},
            [("kernel", (3, 3, 5, None))],
        ),
        (
            "SeparableConv1D",
            {"filters": 5, "kernel_size": [3], "depth_multiplier": 2},
            [
                ("depthwise_kernel", (3, None, 2)),
                ("pointwise_kernel", (1, None, 5)),
                ("bias", (5,)),
            ],
        ),
        (
            "LSTM",
            {"units": 2},
            [("kernel", (None, 8)), ("recurrent_kernel", (2, 8)), ("bias", (8,))],
        ),
        (
            "GRU",
            {"units": 2, "reset_after": True},
            [("kernel", (None, 6)), ("recurrent_kernel", (2, 6)), ("bias", (2, 6))],
        ),
        (
            "GRU",
            {"units": 2},
            [("kernel", (None, 6)), ("recurrent_kernel", (2, 6)), ("bias", (6,))],
        ),
        (
            "CuDNNLSTM",
            {"units": 2},
            [("kernel", (None, 8)), ("recurrent_kernel", (2, 8)), ("bias", (16,))],
        ),
        (
            "CuDNNGRU",
            {"units": 2},
            [("kernel", (None, 6)), ("recurrent_kernel", (2, 6)), ("bias", (12,))],
        ),
    ],
)
def test_weights_have_the_shapes_that_the_configuration_declares(class_name, config, expected):
    assert shapes_of(class_name, **config) == expected


@pytest.mark.parametrize(
    ("class_name", "config", "roles"),
    [
        ("BatchNormalization", {}, "gamma beta moving_mean moving_variance"),
        ("BatchNormalizationV1", {"scale": False}, "beta moving_mean moving_variance"),
        ("LayerNormalization", {"center": False}, "gamma"),
        ("LayerNormalization", {"rms_scaling": True}, "gamma"),
        ("Attention", {"use_scale": True, "score_mode": "concat"}, "scale concat_score_weight"),
        ("Attention", {}, ""),
        ("Normalization", {}, "mean variance count"),
        ("Normalization", {"mean": 1.0}, ""),
        ("SpectralNormalization", {}, "vector_u"),
        ("Dropout", {}, ""),
    ],
)
def test_roles_follow_the_configuration(class_name, config, roles):
    assert [spec.role for spec in classes.weights(class_name, config)] == roles.split()


def test_kinds_tell_kernels_from_the_rest():
    def kinds(class_name, **config):
        return [spec.kind for spec in classes.weights(class_name, config)]

    assert kinds("LSTM", units=2) == ["kernel", "recurrent", "bias"]
    assert kinds("BatchNormalization") == ["norm", "norm", "state", "state"]
    assert kinds("Embedding") == ["embedding"]
    assert set(kinds("MultiHeadAttention")) == {"attention", "bias"}


def test_axes_of_outputs_and_inputs():
    def axes(class_name, **config):
        spec = classes.weights(class_name, config)[0]
        return spec.out_axis, spec.in_axis

    assert axes("Dense") == (1, 0)
    assert axes("Conv2D") == (3, 2)
    assert axes("Conv2DTranspose") == (2, 3)
    assert axes("Deconvolution2D", nb_filter=3) == (3, 2)
    assert axes("Convolution2D", nb_filter=3, dim_ordering="th") == (0, 1)
    assert axes("DepthwiseConv2D") == (2, None)
    assert axes("EinsumDense", equation="...x,xy->...y") == (1, 0)
    assert axes("EinsumDense", equation="abc,dc->abd") == (0, 1)
    assert axes("EinsumDense", equation="abc,bcd->abd") == (2, 1)
    assert axes("EinsumDense", equation=8) == (None, None)
    first = {"data_format": "channels_first"}
    assert axes("LocallyConnected2D", **first) == (-1, None)
    assert axes("LocallyConnected2D", implementation=2) == (-1, None)
    assert axes("LocallyConnected2D", implementation=2, **first) == (3, None)
    assert axes("LocallyConnected1D", implementation=2, **first) == (2, None)
    assert axes("LocallyConnected1D", implementation=3) == (None, None)


def test_unknown_classes_are_told_apart_from_weightless_ones():
    assert classes.is_known("Flatten")
    assert classes.is_known("StackedRNNCells")
    assert not classes.is_known("MyLayer")
    with pytest.raises(KeyError):
        classes.weights("MyLayer", {})


def test_a_configuration_of_wrong_types_makes_sizes_unknown():
    assert shapes_of("Dense", units=8.5) == [("kernel", (None, None)), ("bias", (None,))]
    assert shapes_of("Dense", units=True)[1] == ("bias", (None,))
    assert shapes_of("Conv2D", filters="x", kernel_size=[3])[0] == ("kernel", (None,) * 4)


@pytest.mark.parametrize(
    ("class_name", "config", "inputs", "expected"),
    [
        ("Dense", {"units": 3}, [(7, 5)], (7, 3)),
        ("Flatten", {}, [(4, 5)], (20,)),
        ("Flatten", {}, [(None, 5)], (None,)),
        ("Reshape", {"target_shape": [-1, 2]}, [(4, 5)], (10, 2)),
        ("Permute", {"dims": [2, 1]}, [(4, 5)], (5, 4)),
        ("RepeatVector", {"n": 3}, [(4,)], (3, 4)),
        ("Concatenate", {"axis": -1}, [(4, 5), (4, 2)], (4, 7)),
        ("Concatenate", {"axis": 1}, [(4, 5), (3, 5)], (7, 5)),
        ("Add", {}, [(4, 5), (1, 5)], (4, 5)),
        ("Add", {}, [(None, 5), (1, 5)], (None, 5)),
        ("Merge", {"mode": "concat", "concat_axis": 1}, [(2, 3), (4, 3)], (6, 3)),
        ("Merge", {"mode": "dot"}, [(3,), (3,)], None),
        ("Conv2D", {"filters": 6, "kernel_size": 3}, [(8, 9, 1)], (6, 7, 6)),
        (
            "Conv2D",
            {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2},
            [(9, 8, 1)],
            (5, 4, 6),
        ),
        (
            "Conv2D",
            {"filters": 6, "kernel_size": 3, "data_format": "channels_first"},
            [(1, 8, 9)],
            (6, 6, 7),
        ),
        ("Conv1D", {"filters": 6, "kernel_size": 3, "dilation_rate": 2}, [(9, 1)], (5, 6)),
        ("Conv2DTranspose", {"filters": 6, "kernel_size": 3, "strides": 2}, [(4, 4, 1)], (9, 9, 6)),
        ("MaxPooling2D", {"pool_size": [2, 2]}, [(9, 8, 3)], (4, 4, 3)),
        ("MaxPooling1D", {"pool_length": 2, "stride": 2}, [(9, 3)], (4, 3)),
        ("AdaptiveMaxPooling2D", {"output_size": [2, 3]}, [(9, 8, 3)], (2, 3, 3)),
        ("GlobalAveragePooling2D", {}, [(9, 8, 3)], (3,)),
        ("GlobalAveragePooling2D", {"keepdims": True}, [(9, 8, 3)], (1, 1, 3)),
        ("ZeroPadding2D", {"padding": [[1, 2], [3, 4]]}, [(5, 5, 3)], (8, 12, 3)),
        ("Cropping1D", {"cropping": [1, 2]}, [(9, 3)], (6, 3)),
        ("UpSampling2D", {"size": [2, 3]}, [(4, 4, 3)], (8, 12, 3)),
        ("LSTM", {"units": 3}, [(7, 5)], (3,)),
        ("LSTM", {"units": 3, "return_sequences": True}, [(7, 5)], (7, 3)),
        ("ConvLSTM2D", {"filters": 3, "kernel_size": 3}, [(7, 8, 8, 2)], (6, 6, 3)),
        ("Embedding", {"output_dim": 4}, [(7,)], (7, 4)),
        ("EinsumDense", {"equation": "abc,cd->abd", "output_shape": [None, 4]}, [(7, 5)], (7, 4)),
        ("Attention", {}, [(7, 5), (6, 4)], (7, 4)),
        ("MyLayer", {}, [(7,)], None),
        ("Dense", {"units": 3}, [None], None),
    ],
)
def test_output_shapes(class_name, config, inputs, expected):
    assert output_shape(class_name, config, inputs) == expected


@pytest.mark.parametrize(
    ("class_name", "config", "weights", "given", "expected"),
    [
        ("Dense", {"units": 3}, [(5, 3), (3,)], (5,), 15),
        ("Dense", {"units": 3}, [(5, 3), (3,)], (7, 5), 105),
        ("Embedding", {"output_dim": 4}, [(9, 4)], (7,), 0),
        ("Conv2D", {"filters": 6, "kernel_size": 3}, [(3, 3, 2, 6)], (8, 8, 2), 108 * 36),
        # Grouped: the kernel sees a group's channels only.
        (
            "Conv2D",
            {"filters": 6, "kernel_size": 3, "groups": 2},
            [(3, 3, 1, 6)],
            (8, 8, 2),
            54 * 36,
        ),
        # Each position of the input meets the kernel once.
        (
            "Conv2DTranspose",
            {"filters": 6, "kernel_size": 3, "strides": 2},
            [(3, 3, 6, 2)],
            (4, 4, 2),
            108 * 16,
        ),
        ("LSTM", {"units": 3}, [(5, 12), (3, 12), (12,)], (7, 5), 96 * 7),
        ("LSTM", {"units": 3}, [(5, 12), (3, 12), (12,)], (None, 5), None),
        (
            "EinsumDense",
            {"equation": "abc,cde->abde", "output_shape": [None, 2, 4]},
            [(5, 2, 4)],
            (7, 5),
            40 * 7,
        ),
        ("BatchNormalization", {}, [(5,)] * 4, (7, 5), 0),
    ],
)
def test_work(class_name, config, weights, given, expected):
    output = output_shape(class_name, config, [given])
    assert macs(class_name, config, weights, output, given) == expected


def test_work_of_wrapped_layers():
    def node(class_name, **config):
        return node_of({"class_name": class_name, "config": config}, ("x",))

    dense = {"class_name": "Dense", "config": {"units": 3}}
    lstm = {"class_name": "LSTM", "config": {"units": 3}}
    cells = {"cells": [{"class_name": "LSTMCell", "config": {"units": 3}}] * 2}
    stack = {"class_name": "StackedRNNCells", "config": cells}
    own = [(5, 12), (3, 12), (12,)]
    assert macs_of_node(node("TimeDistributed", layer=dense), [(5, 3), (3,)], (7, 5)) == 105
    assert macs_of_node(node("Bidirectional", layer=lstm), own * 2, (7, 5)) == 2 * 96 * 7
    second = [(3, 12), (3, 12), (12,)]
    assert macs_of_node(node("RNN", cell=stack), own + second, (7, 5)) == (96 + 72) * 7
    assert macs_of_node(node("TimeDistributed", layer=dense), [(5, 3), (3,)], None) is None


def test_places_of_weights_in_a_keras_file():
    def places(class_name, **config):
        node = node_of({"class_name": class_name, "config": config}, ("x",))
        return [slot.places[0] for slot in slots(node)]

    dense = {"class_name": "Dense", "config": {"units": 3}}
    assert places("GRU", units=2) == [f"cell/vars/{i}" for i in range(3)]
    assert places("MultiHeadAttention", use_bias=False) == [
        f"{part}_dense/vars/0" for part in ("query", "key", "value", "output")
    ]
    # Keras 3 files the kernel twice: as the wrapper's vars/0, too.
    assert places("SpectralNormalization", layer=dense) == [
        "layer/vars/0",
        "layer/vars/1",
        "vars/1",
    ]


@pytest.mark.parametrize(
    ("name", "rank", "kind"),
    [
        ("dense/kernel:0", 2, "kernel"),
        ("lstm/recurrent_kernel:0", 2, "recurrent"),
        ("lstm_1_U_i", 2, "recurrent"),
        ("dense_1_W", 2, "kernel"),
        ("dense_1_b", 1, "bias"),
        ("emb/embeddings:0", 2, "embedding"),
        ("bn/gamma:0", 1, "norm"),
        ("bn/moving_variance:0", 1, "state"),
        ("strange", 1, "other"),
    ],
)
def test_kind_of_a_weight_of_which_only_the_name_is_known(name, rank, kind):
    assert classes.kind_of(name, rank) == kind

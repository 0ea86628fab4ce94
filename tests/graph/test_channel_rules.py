"""What single layers do with channels, in architectures written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_groups import functional, groups_of, ids, layer

from modelcut.graph import edit
from modelcut.graph.architecture import Architecture
from modelcut.graph.groups import dependencies

SEQUENCE = {"batch_input_shape": [None, 5, 8]}


def network(*between, given=SEQUENCE, last=("d",), **weights):
    """The groups of an input, some layers and a dense layer of 2 units after the last of them."""
    end = between[-1]["name"]
    layers = [layer("InputLayer", "x", **given), *between, layer("Dense", "d", [end], units=2)]
    architecture = functional(layers, list(last))
    shapes = {
        (name,): {"kernel": shape} if isinstance(shape, tuple) else shape
        for name, shape in weights.items()
    }
    return architecture, dependencies(architecture, shapes)


def shrunk(architecture, told, group, count=1):
    gone = told.groups[group].ids[:count]
    small = edit.without_channels(architecture, told, edit.keeping(gone))
    return {e["name"]: e for e in json.loads(small.text)["config"]["layers"]}


ATTENTION = {
    "query/kernel": (8, 2, 3), "query/bias": (2, 3), "key/kernel": (8, 2, 3), "key/bias": (2, 3),
    "value/kernel": (8, 2, 4), "value/bias": (2, 4), "attention_output/kernel": (2, 4, 8),
    "attention_output/bias": (8,),
}  # fmt: skip


def attention(call=None, **config):
    config = {"num_heads": 2, "key_dim": 3, "value_dim": 4, "query_shape": [None, 5, 8], **config}
    found = layer("MultiHeadAttention", "mha", ["a"], **config)
    found["inbound_nodes"] = [[["a", 0, 0, {"value": ["a", 0, 0], **(call or {})}]]]
    return layer("Dense", "a", ["x"], units=8), found


def test_heads_keys_and_values_of_an_attention_go_by_themselves():
    architecture, told = network(*attention(), a=(8, 8), mha=ATTENTION, d=(8, 2))
    assert groups_of(told) == [(8, ["a", "mha"]), (2, ["mha"]), (3, ["mha"]), (4, ["mha"])]
    assert ids(told, "mha", 2, "query/kernel") == ids(told, "mha", 2, "key/kernel")
    changes = {1: "num_heads", 2: "key_dim", 3: "value_dim"}
    for group, key in changes.items():
        config = shrunk(architecture, told, group)["mha"]["config"]
        before = {"num_heads": 2, "key_dim": 3, "value_dim": 4}
        assert {k: config[k] for k in before} == {**before, key: before[key] - 1}
    assert shrunk(architecture, told, 0)["mha"]["config"]["query_shape"] == [None, 5, 7]


def test_queries_grow_as_the_width_of_keys_shrinks_unless_they_are_quantized():
    layers = attention()
    _, told = network(*layers, a=(8, 8), mha=ATTENTION, d=(8, 2))
    roles = {scaled.role: scaled.ids.tolist() for scaled in told.scaled}
    assert roles == dict.fromkeys(("query/kernel", "query/bias"), told.groups[2].ids.tolist())
    shapes = {("a",): {"kernel": (8, 8)}, ("mha",): ATTENTION, ("d",): {"kernel": (8, 2)}}
    full = [layer("InputLayer", "x", **SEQUENCE), *layers, layer("Dense", "d", ["mha"], units=2)]
    told = dependencies(functional(full, ["d"]), shapes, [(("mha",), "query/kernel")])
    assert [count for count, _ in groups_of(told)] == [8, 2, 4]


@pytest.mark.parametrize(
    ("call", "config", "counts"),
    [
        ({"return_attention_scores": True}, {}, [8, 3, 4]),
        ({}, {"output_shape": 8}, [8, 2, 3, 4, 8]),
        ({}, {"output_shape": [2, 4]}, []),
        ({"attention_mask": ["m", 0, 0]}, {}, [8, 2, 3, 4]),
        ({"attention_mask": ["h", 0, 0]}, {}, []),
        ({"somebodys": ["m", 0, 0]}, {}, []),
    ],
)
def test_what_else_an_attention_is_given_or_gives(call, config, counts):
    masks = (
        layer("InputLayer", "m", batch_input_shape=[None, 5, 5]),
        layer("InputLayer", "h", batch_input_shape=[None, 2, 5, 5]),
    )
    _, told = network(*masks, *attention(call, **config), a=(8, 8), mha=ATTENTION, d=(8, 2))
    assert [count for count, _ in groups_of(told)] == counts


def test_heads_that_share_keys_go_with_them():
    weights = {
        "query/kernel": (8, 6, 3), "key/kernel": (8, 2, 3), "value/kernel": (8, 2, 3),
        "attention_output/kernel": (6, 3, 8),
    }  # fmt: skip
    config = {"num_query_heads": 6, "num_key_value_heads": 2, "head_dim": 3}
    given, mha = attention(**config)
    mha["class_name"] = "GroupedQueryAttention"
    architecture, told = network(given, mha, a=(8, 8), mha=weights, d=(8, 2))
    assert [count for count, _ in groups_of(told)] == [8, 2, 3]
    found = shrunk(architecture, told, 1)["mha"]["config"]
    assert [found[key] for key in config] == [3, 1, 3]


LSTM = {"kernel": (8, 12), "recurrent_kernel": (3, 12), "bias": (12,)}


def both(**config):
    inner = {"class_name": "LSTM", "config": {"name": "l", "units": 3, "return_sequences": True}}
    return layer("Bidirectional", "b", ["x"], layer=inner, **config)


def test_both_directions_lose_the_same_units():
    weights = {f"{way}/{role}": s for way in ("forward", "backward") for role, s in LSTM.items()}
    for mode, width in (("concat", 6), ("sum", 3)):
        architecture, told = network(both(merge_mode=mode), b=weights, d=(width, 2))
        assert groups_of(told) == [(3, ["b"])]
        found = shrunk(architecture, told, 0)["b"]["config"]["layer"]["config"]
        assert found["units"] == 2
    _, told = network(both(merge_mode="odd"), b=weights, d=(6, 2))
    assert told.kept["b",] == "it merges both directions in an unknown way"


def test_layers_of_cudnn_have_another_layout():
    cudnn = layer("CuDNNGRU", "g", ["x"], units=3)
    _, told = network(cudnn, g={"kernel": (8, 9), "recurrent_kernel": (3, 9)}, d=(3, 2))
    assert told.groups == ()
    assert "not followed" in told.kept["g",]


def test_a_submodel_at_each_step():
    stack = {"class_name": "Sequential", "config": {"name": "s", "layers": [
        {"class_name": "Dense", "config": {"name": "p", "units": 6}},
        {"class_name": "Odd", "config": {"name": "q"}},
        {"class_name": "Dense", "config": {"name": "r", "units": 4}},
    ]}}  # fmt: skip
    inner = {"p/kernel": (8, 6), "r/kernel": (6, 4)}
    wrapped = layer("TimeDistributed", "t", ["x"], layer=stack)
    _, told = network(wrapped, t=inner, d=(4, 2))
    assert groups_of(told) == [(4, ["t"])]
    assert told.kept["t",] == (
        "it holds t/layer/q (Odd), which is of a class whose channels are not followed"
    )
    del stack["config"]["layers"][1]
    architecture, told = network(wrapped, t=inner, d=(4, 2))
    assert groups_of(told) == [(6, ["t"]), (4, ["t"])]
    found = shrunk(architecture, told, 0)["t"]["config"]["layer"]["config"]["layers"]
    assert [each["config"]["units"] for each in found] == [5, 4]


IMAGES = {"batch_input_shape": [None, 4, 4, 12]}


def grouped(groups, each, filters):
    pool = layer("GlobalAveragePooling2D", "p", ["g"])
    first = layer("Conv2D", "a", ["x"], filters=groups * each, kernel_size=[1, 1])
    config = {"filters": filters, "kernel_size": [1, 1], "groups": groups}
    return network(
        first, layer("Conv2D", "g", ["a"], **config), pool, given=IMAGES,
        a=(1, 1, 12, groups * each), g=(1, 1, each, filters), d=(filters, 2),
    )  # fmt: skip


def test_convolutions_in_groups_lose_whole_groups_or_the_same_of_each():
    architecture, told = grouped(4, 2, 12)
    assert groups_of(told) == [(4, ["a"])]
    assert ids(told, "a", 3) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert ids(told, "g", 3) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    found = shrunk(architecture, told, 0)
    assert found["a"]["config"]["filters"] == 6
    assert [found["g"]["config"][key] for key in ("groups", "filters")] == [3, 9]
    architecture, told = grouped(2, 5, 6)
    assert groups_of(told) == [(5, ["a"]), (3, ["g"])]
    assert ids(told, "g", 2) == [0, 1, 2, 3, 4]
    assert ids(told, "g", 3) == [5, 6, 7, 5, 6, 7]
    found = shrunk(architecture, told, 1)["g"]["config"]
    assert [found[key] for key in ("groups", "filters")] == [2, 4]


@pytest.mark.parametrize(("groups", "size"), [(3, 3), (-1, 12), (1, 12), (5, None)])
def test_whole_groups_of_a_normalization_are_removed(groups, size):
    norm = layer("GroupNormalization", "n", ["a"], groups=groups, axis=-1)
    architecture, told = network(
        layer("Dense", "a", ["x"], units=12), norm, a=(8, 12), n={"gamma": (12,), "beta": (12,)},
        d=(12, 2),
    )  # fmt: skip
    assert [count for count, _ in groups_of(told)] == ([size] if size else [])
    assert bool(told.mixed) == (groups == 1)
    if groups == 3:
        found = shrunk(architecture, told, 0)
        assert found["n"]["config"]["groups"] == 2
        assert found["a"]["config"]["units"] == 8


@pytest.mark.parametrize(
    ("equation", "said", "kernel", "made", "width"),
    [
        ("abc,cd->abd", [None, 6], (8, 6), 6, 6),
        ("...x,xy->...y", [6], (8, 6), 6, 6),
        ("...x,xy->...y", 6, (8, 6), 6, 6),
        ("abc,bcd->abd", [5, 6], (5, 8, 6), 6, 6),
        ("abc,c->abc", [None, 8], (8,), None, 8),  # a factor for each channel
        ("abc,cd->ad", [6], (8, 6), None, 6),  # sums over b
        ("abc,acd->abd", [None, 6], (1, 8, 6), None, 6),  # a kernel for each sample
        ("aac,cd->abd", [None, 6], (8, 6), None, 6),
        ("odd", [6], (8, 6), None, 6),
    ],
)
def test_equations(equation, said, kernel, made, width):
    first = layer("Dense", "a", ["x"], units=8)
    dense = layer("EinsumDense", "e", ["a"], equation=equation, output_shape=said)
    architecture, told = network(first, dense, a=(8, 8), e=kernel, d=(width, 2))
    counts = [count for count, _ in groups_of(told)]
    assert counts == ([8, made] if made else [8] if equation == "abc,c->abc" else [])
    for number in range(len(counts)):
        config = shrunk(architecture, told, number)["e"]["config"]
        sizes = said if isinstance(said, list) else [said]
        after = config["output_shape"]
        after = after if isinstance(after, list) else [after]
        lost = number == 1 or equation == "abc,c->abc"
        assert sum(a != b for a, b in zip(sizes, after, strict=True)) == int(lost)


def test_a_class_of_the_name_of_one_of_convnext_is_not_it():
    first = layer("Dense", "a", ["x"], units=8)
    config = {"init_values": 1e-6, "projection_dim": 8}
    for module, count in (("keras.src.applications.convnext", 1), (None, 1), ("mine", 0)):
        scale = layer("LayerScale", "s", ["a"], **config)
        scale |= {"module": module} if module else {}
        architecture, told = network(first, scale, a=(8, 8), s={"gamma": (8,)}, d=(8, 2))
        assert len(told.groups) == count, module
        if count:
            assert shrunk(architecture, told, 0)["s"]["config"]["projection_dim"] == 7


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({}, 1),
        ({"module": "keras.layers", "registered_name": None}, 1),
        ({"module": "mine.layers", "registered_name": "ReLU"}, 0),
        ({"module": None, "registered_name": "Custom>ReLU"}, 0),
    ],
)
def test_a_class_of_the_name_of_one_of_keras_is_not_it(more, count):
    first = layer("Dense", "a", ["x"], units=8)
    _, told = network(first, {**layer("ReLU", "r", ["a"]), **more}, a=(8, 8), d=(8, 2))
    assert len(told.groups) == count


@pytest.mark.parametrize(
    ("said", "count"),
    [
        (6.0, 1),
        ({"class_name": "__numpy__", "config": {"value": 6.0}}, 1),
        ([6.0] * 8, 0),
        ({"class_name": "__numpy__", "config": {"value": [6.0] * 8}}, 0),
        ({}, 0),
    ],
)
def test_a_number_for_each_channel_in_a_configuration_is_a_barrier(said, count):
    first = layer("Dense", "a", ["x"], units=8)
    _, told = network(first, layer("ReLU", "r", ["a"], max_value=said), a=(8, 8), d=(8, 2))
    assert len(told.groups) == count


def test_shapes_of_functions():
    first = layer("Dense", "a", ["x"], units=8)
    op = tensorflow("reshape", shape=[-1, 5, 2, 4])
    architecture, _ = network(first, op, a=(8, 8), d=(4, 2))
    assert architecture.shapes()["op",] == (5, 2, 4)
    assert architecture.shapes()["d",] == (5, 2, 2)


def test_states_that_are_passed_on_make_units_the_same():
    config = {"units": 3, "return_sequences": True}
    one = layer("LSTM", "one", ["x"], return_state=True, **config)
    two = layer("LSTM", "two", **config)
    two["inbound_nodes"] = [[["one", 0, 0, {}], ["one", 0, 1, {}], ["one", 0, 2, {}]]]
    weights = {"two": {**LSTM, "kernel": (3, 12)}, "d": (3, 2)}
    _, told = network(one, two, one=LSTM, **weights)
    assert groups_of(told) == [(3, ["one", "two"])]
    two["config"]["stateful"] = True
    assert network(one, two, one=LSTM, **weights)[1].groups == ()


def modern(kind, *args, module="numpy", kwargs=None, **config):
    """An operation of Keras 3 as `.keras` files have it; "a" among the arguments is the tensor."""

    def given(item):
        if isinstance(item, list):
            return [given(each) for each in item]
        if item not in ("a", "x"):
            return item
        config = {"shape": [None, 5, 8], "dtype": "float32", "keras_history": [item, 0, 0]}
        return {"class_name": "__keras_tensor__", "config": config}

    call = {"args": [given(item) for item in args], "kwargs": kwargs or {}}
    return {
        "module": f"keras.src.ops.{module}", "class_name": kind, "name": "op",
        "config": {"name": "op", **config}, "inbound_nodes": [call],
    }  # fmt: skip


WHOLE = {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": None}}
SOME = {"class_name": "__slice__", "config": {"start": 1, "stop": None, "step": None}}


@pytest.mark.parametrize(
    ("operation", "width", "followed"),
    [
        (modern("Add", "a", 1.5), 8, True),
        (modern("Multiply", 2, "a"), 8, True),
        (modern("Add", "a", [1.0] * 8), 8, False),
        (modern("Add", "a", {"class_name": "__numpy__", "config": {"value": [1.0] * 8}}), 8, False),
        (modern("Multiply", "a", "a"), 8, True),
        (modern("Add", "a", "x"), 8, False),
        (modern("Gelu", "a", module="nn", approximate=False), 8, True),
        (modern("Softmax", "a", module="nn", axis=-1), 8, False),
        (modern("Softmax", "a", module="nn", axis=1), 8, True),
        (modern("Mean", "a", axis=1), 8, True),
        (modern("Mean", "a", axis=[1], keepdims=True), 8, True),
        (modern("Mean", "a", axis=-1, keepdims=True), 1, False),
        (modern("Mean", "a", axis=None), 1, False),
        (modern("Mean", "a", axis=0), 8, False),
        (modern("Reshape", "a", newshape=[-1, 40]), 40, True),
        (modern("Reshape", "a", newshape=[-1, 5, 2, 4]), 4, False),
        (modern("Reshape", "a", newshape=[-1, 8]), 8, False),  # mixes samples
        (modern("Reshape", "a", newshape=[8, -1]), 8, False),
        (modern("Transpose", "a", axes=[0, 2, 1]), 5, False),
        (modern("Transpose", "a", axes=[1, 0, 2]), 8, False),
        (modern("Concatenate", ["a", "a"], axis=-1), 16, True),
        (modern("Concatenate", ["a", "a"], axis=1), 8, True),
        (modern("Concatenate", ["a", [1.0]], axis=1), 8, False),
        (modern("Split", "a", indices_or_sections=2, axis=-1), 4, True),
        (modern("Split", "a", indices_or_sections=[2], axis=-1), 2, False),
        (modern("GetItem", "a", [WHOLE, SOME]), 8, True),
        (modern("GetItem", "a", [WHOLE, 2]), 8, True),
        (modern("GetItem", "a", [WHOLE, WHOLE, SOME]), 7, False),
        (modern("GetItem", "a", [SOME]), 8, False),
        (modern("ExpandDims", "a", axis=1), 8, True),
        (modern("Pad", "a", pad_width=[[0, 0], [1, 1], [0, 0]]), 8, True),
        (modern("Pad", "a", pad_width=[[0, 0], [0, 0], [0, 1]]), 9, False),
        (modern("Matmul", "a", "x"), 8, False),
        (modern("Cumsum", "a", axis=-1), 8, False),
    ],
    ids=lambda each: each["class_name"] if isinstance(each, dict) else None,
)
def test_functions_of_keras_3(operation, width, followed):
    first = {
        "module": "keras.layers", "class_name": "Dense", "name": "a",
        "config": {"name": "a", "units": 8},
        "inbound_nodes": modern("", "x")["inbound_nodes"],
    }  # fmt: skip
    history = {"class_name": "__keras_tensor__", "config": {"keras_history": ["op", 0, 0]}}
    end = {
        "module": "keras.layers", "class_name": "Dense", "name": "d",
        "config": {"name": "d", "units": 2}, "inbound_nodes": [{"args": [history], "kwargs": {}}],
    }  # fmt: skip
    start = {
        "module": "keras.layers", "class_name": "InputLayer", "name": "x",
        "config": {"name": "x", "batch_shape": [None, 5, 8]}, "inbound_nodes": [],
    }  # fmt: skip
    config = {
        "name": "m", "layers": [start, first, operation, end],
        "input_layers": [["x", 0, 0]], "output_layers": [["d", 0, 0]],
    }  # fmt: skip
    root = {"module": "keras", "class_name": "Functional", "config": config}
    architecture = Architecture.parse(json.dumps(root), "3.15.1", "test")
    shapes = {("a",): {"kernel": (8, 8)}, ("d",): {"kernel": (width, 2)}}
    told = dependencies(architecture, shapes)
    assert bool(told.groups) == followed
    if not followed:
        assert "op (" in told.kept["a",] or "d (Dense)" in told.kept["a",]
    if followed and operation["class_name"] == "Reshape":
        assert shrunk(architecture, told, 0)["op"]["config"]["newshape"] == [-1, 40 - 5]


def tensorflow(function, first="a", kind="TFOpLambda", **kwargs):
    found = layer(kind, "op", function=function)
    found["inbound_nodes"] = [
        [[one, 0, 0, kwargs] for one in first] if isinstance(first, list) else [first, 0, 0, kwargs]
    ]
    return found


def test_functions_of_tensorflow_whose_arguments_follow():
    first = layer("Dense", "a", ["x"], units=8)
    op = tensorflow("reshape", shape=[-1, 5, 1, 8])
    architecture, told = network(first, op, a=(8, 8), d=(8, 2))
    assert [count for count, _ in groups_of(told)] == [8]
    (call,) = shrunk(architecture, told, 0, 3)["op"]["inbound_nodes"]
    assert call == ["a", 0, 0, {"shape": [-1, 5, 1, 5]}]


@pytest.mark.parametrize(
    ("op", "width", "followed"),
    [
        (tensorflow("math.multiply", y=["a", 0, 0]), 8, True),
        (tensorflow("math.multiply", y=["_CONSTANT_VALUE", -1, 2.0]), 8, True),
        (tensorflow("math.multiply", y=[0.5] * 8), 8, False),
        (tensorflow("math.reduce_mean", axis=1, keepdims=False), 8, True),
        (tensorflow("math.reduce_mean", axis=-1), 5, False),
        (tensorflow("concat", ["a", "a"], axis=-1), 16, True),
        (tensorflow("nn.swish"), 8, True),
        (tensorflow("nn.local_response_normalization"), 8, False),
        (tensorflow("pad", paddings=[[0, 0], [1, 0], [0, 0]]), 8, True),
        (
            tensorflow("__operators__.getitem", kind="SlicingOpLambda", slice_spec=[
                {"start": None, "stop": None, "step": None}, 0]), 8, True,
        ),
    ],
    ids=lambda each: each["config"]["function"] if isinstance(each, dict) else None,
)  # fmt: skip
def test_functions_of_tensorflow(op, width, followed):
    first = layer("Dense", "a", ["x"], units=8)
    _, told = network(first, op, a=(8, 8), d=(width, 2))
    assert bool(told.groups) == followed
    if not followed:
        assert f"op ({op['class_name']})" in told.kept["a",]


def test_a_layer_without_a_known_shape_still_has_an_axis_of_channels():
    odd = layer("Odd", "o", ["x"])
    layers = (
        odd, layer("Conv2D", "a", ["o"], filters=4, kernel_size=[3, 3]),
        layer("MaxPooling2D", "m", ["a"]), layer("BatchNormalization", "n", ["m"], axis=-1),
        layer("Conv2D", "b", ["n"], filters=3, kernel_size=[3, 3]),
        layer("GlobalMaxPooling2D", "p", ["b"]),
    )  # fmt: skip
    norm = dict.fromkeys(("gamma", "beta"), (4,))
    shapes = {"a": (3, 3, 5, 4), "n": norm, "b": (3, 3, 4, 3), "d": (3, 2)}
    _, told = network(*layers, **shapes)
    assert groups_of(told) == [(4, ["a"]), (3, ["b"])]
    assert np.array_equal(told.groups[0].ids, np.arange(1, 5))

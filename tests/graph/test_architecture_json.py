"""The architecture reader, held against what real Keras makes of the same configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelcut.errors import InputError
from modelcut.graph.architecture import Architecture, Dialect, Refusal, specs
from modelcut.graph.chains import Link, removed, replaced
from modelcut.graph.keras import classes
from modelcut.graph.keras.saved_order import slots

CONFIGS = sorted((Path(__file__).parents[1] / "data" / "configs").glob("*.json"))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def golden(request):
    return json.loads(request.param.read_text())


def read(golden):
    return Architecture.parse(golden["config"], golden["keras_version"], "golden")


def by_name(stem):
    golden = json.loads(next(p for p in CONFIGS if p.stem == stem).read_text())
    return read(golden)


def fits(shape, real):
    return shape is None or (
        len(shape) == len(real) and all(a in (None, b) for a, b in zip(shape, real, strict=True))
    )


def operations(architecture):
    return {node.path[-1] for node in architecture.nodes if node.is_operation}


def test_there_are_configurations_of_both_engines():
    assert len(CONFIGS) == 10


def test_order_is_that_of_keras(golden):
    architecture = read(golden)
    bare = operations(architecture)
    for path, names in golden["orders"]:
        assert [n for n in architecture.order(tuple(path)) if n not in bare] == names


def test_legacy_weights_are_those_of_keras(golden):
    architecture = read(golden)
    for name, stored in golden["legacy"].items():
        leaves = architecture.leaves((name,))
        found = sorted((s for n in leaves for s in slots(n)), key=lambda s: s.frozen)
        assert len(found) == len(stored)
        for slot, (key, shape) in zip(found, stored, strict=True):
            last = key.rpartition("/")[2].partition(":")[0]
            role = slot.spec.role.rpartition("/")[2]
            assert role == last or {role, last} == {"kernel", "depthwise_kernel"}
            assert fits(slot.spec.shape, shape)


def test_store_places_are_those_of_keras(golden):
    architecture = read(golden)
    places, left = architecture.store_paths(), dict(golden["store"])
    for node in architecture.nodes:
        if node.class_name in ("TFOpLambda", "SlicingOpLambda") or node.is_operation:
            continue
        for slot in slots(node):
            keys = [f"{places[node.path]}/{place}" for place in slot.places]
            shape = next(left.pop(key) for key in keys if key in left)
            assert fits(slot.spec.shape, shape)
    assert left == {}


def test_shapes_are_those_of_keras(golden):
    shapes = read(golden).shapes()
    past_tensorflow = "TFOpLambda" in golden["config"]  # whose operations tell no shapes
    for name, real in golden["shapes"].items():
        shape = shapes[(name,)]
        assert past_tensorflow or shape is not None, name
        assert shape is None or fits(real, shape), name


def test_text_is_kept_byte_for_byte(golden):
    text = golden["config"].replace(", ", " ,  ")
    assert Architecture.parse(text, golden["keras_version"], "f").text == text


def test_inputs():
    assert by_name("keras3_graph").inputs() == [("a", (8,), "float32"), ("b", (8,), "float32")]
    assert by_name("tf_keras_convolutions").inputs()[0][1] == (12, 12, 4)


def dense(name, units=4, **more):
    return {"class_name": "Dense", "config": {"name": name, "units": units, **more}}


def model(entries, outputs):
    start = {
        "class_name": "InputLayer",
        "name": "in",
        "config": {"name": "in", "batch_input_shape": [None, 4]},
        "inbound_nodes": [],
    }
    config = {
        "name": "m",
        "layers": [start, *entries],
        "input_layers": [["in", 0, 0]],
        "output_layers": outputs,
    }
    return json.dumps({"class_name": "Model", "config": config})


def fed(name, *sources):
    calls = [[[source, index, 0, {}]] for source, index in sources]
    return {**dense(name), "name": name, "inbound_nodes": calls}


def parse(text, version="2.2.4"):
    return Architecture.parse(text, version, "f.h5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("null", "not that of a layered model"),
        ("[" * 200_000 + "]" * 200_000, "nested"),
        ('{"a":' * 200_000 + "1" + "}" * 200_000, "nested"),
        ("[" + "{}," * 2_000_000 + "{}]", "more objects"),
        ('{"class_name": {}}', "not that of a layered model"),
        ('{"class_name": "Sequential", "config": {"layers": []}}', "no layers"),
        ('{"class_name": "Sequential", "config": {"layers": [3]}}', "class name"),
        (
            '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}}',
            "no configuration",
        ),
        (model([fed("a", ("b", 0)), fed("b", ("a", 0))], [["b", 0, 0]]), "cycle"),
        (model([fed("a", ("b", 0)), fed("b", ("a", 0))], [["in", 0, 0]]), "cycle"),
        (model([fed("a", ("a", 0))], [["a", 0, 0]]), "cycle"),
        (model([fed("a", ("in", 5))], [["a", 0, 0]]), "call 5"),
        (model([fed("a", ("in", -1))], [["a", 0, 0]]), "call -1"),
        (model([fed("a", ("zz", 0))], [["a", 0, 0]]), "'zz', which is not there"),
        (model([fed("a", ("in", 0))], [["zz", 0, 0]]), "'zz', which is not there"),
        (model([fed("a", ("in", 0))], []), "no outputs"),
        (model([fed("a", ("in", 0)), fed("a", ("in", 0))], [["a", 0, 0]]), "two layers"),
    ],
)
def test_what_does_not_hang_together_is_refused_in_one_line(text, words):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert words in caught.value.message
    assert "\n" not in str(caught.value)


def test_names_that_would_be_mixed_up_are_refused():
    inner = {"class_name": "Sequential", "config": {"name": "a", "layers": [dense("b")]}}
    text = json.dumps({"class_name": "Sequential", "config": [inner, dense("a/b")]})
    with pytest.raises(InputError, match="two layers are called 'a/b'"):
        parse(text)


def test_a_long_name_full_of_escapes_is_shortened():
    name = "\x1b[31m" * 10_000
    with pytest.raises(InputError) as caught:
        parse(model([fed("a", (name, 0))], [["a", 0, 0]]))
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)


def test_a_chain_of_ten_thousand_layers():
    entries = [fed("d0", ("in", 0))]
    entries += [fed(f"d{i}", (f"d{i - 1}", 0)) for i in range(1, 10_000)]
    architecture = parse(model(entries, [["d9999", 0, 0]]))
    assert architecture.order()[-1] == "d9999"
    assert len(architecture.leaves(())) == 10_001


@pytest.mark.parametrize(
    ("version", "config", "dialect"),
    [
        ("1.2.2", {"output_dim": 3}, Dialect.KERAS1),
        (None, {"output_dim": 3}, Dialect.KERAS1),
        (None, {"units": 3, "kernel_initializer": {}}, Dialect.KERAS2),
        (None, {"units": 3, "batch_shape": [None, 2]}, Dialect.KERAS3),
        ("2.0.5", {"units": 3}, Dialect.KERAS2),
        ("2.2.4-tf", {"units": 3}, Dialect.KERAS2),
        ("2.21.0", {"units": 3}, Dialect.KERAS2),
        ("3.15.1", {"units": 3}, Dialect.KERAS3),
    ],
)
def test_dialects(version, config, dialect):
    entry = {"class_name": "Dense", "config": {"name": "d", **config}}
    text = json.dumps({"class_name": "Sequential", "config": [entry]})
    assert parse(text, version).dialect is dialect


def test_keras1_names_and_three_part_calls():
    entries = [
        {
            "class_name": "Convolution2D",
            "name": "c",
            "inbound_nodes": [[["in", 0, 0]]],
            "config": {
                "name": "c",
                "nb_filter": 6,
                "nb_row": 3,
                "nb_col": 2,
                "border_mode": "valid",
                "dim_ordering": "th",
                "subsample": [1, 1],
            },
        },
        {
            "class_name": "Merge",
            "name": "m",
            "inbound_nodes": [[["c", 0, 0], ["c", 0, 0]]],
            "config": {"name": "m", "mode": "concat", "concat_axis": 1},
        },
    ]
    text = model(entries, [["m", 0, 0]]).replace("[null, 4]", "[null, 3, 8, 8]")
    architecture = parse(text, "1.2.2")
    assert architecture.shapes()[("c",)] == (6, 6, 7)
    assert architecture.shapes()[("m",)] == (12, 6, 7)


def test_a_submodel_whose_inputs_come_in_another_order_than_its_layers():
    def start(name, width):
        config = {"name": name, "batch_input_shape": [None, None]}
        return {"class_name": "InputLayer", "name": name, "config": config, "inbound_nodes": []}

    inner = {
        "class_name": "Model",
        "name": "inner",
        "inbound_nodes": [[["in", 0, 0, {}], ["wide", 0, 0, {}]]],
        "config": {
            "name": "inner",
            "layers": [start("y", 9), start("x", 4)],
            "input_layers": [["x", 0, 0], ["y", 0, 0]],
            "output_layers": [["y", 0, 0], ["x", 0, 0]],
        },
    }
    wide = fed("wide", ("in", 0))
    wide["config"]["units"] = 9
    text = model([wide, inner, fed("d", ("inner", 1))], [["d", 0, 0]])
    shapes = parse(text).shapes()
    assert shapes[("inner", "x")] == (4,)
    assert shapes[("inner", "y")] == (9,)


def widths(architecture, *path):
    return [
        (node.path[-1], node.config.get("units"))
        for node in architecture.nodes
        if node.path[:-1] == path
    ]


def split(architecture, path, rank=2):
    old = next(node for node in architecture.nodes if node.path == path)
    first = {**old.config, "name": "new", "units": rank, "use_bias": False}
    links = Link("new", "Dense", first), Link(path[-1], "Dense", dict(old.config))
    return replaced(architecture, path, links)


@pytest.mark.parametrize("engine", ["keras3", "tf_keras"])
def test_split_takes_over_the_calls_of_a_shared_layer(engine):
    before = by_name(f"{engine}_graph")
    after = split(before, ("shared",))
    new = next(node for node in after.nodes if node.path == ("new",))
    old = next(node for node in after.nodes if node.path == ("shared",))
    assert new.inbound == (("a",), ("b",), ("shared",))
    assert old.inbound == (("new",),) * 3
    assert new.entry["build_config"]["input_shape"] == [None, 8]
    assert old.entry["build_config"]["input_shape"] == [None, 2]
    again = Architecture.parse(after.text, before.keras_version, "f")
    assert again.order() == after.order()
    untouched = {"a", "b", "late", "join", "mid", "body", "stack", "side", "sum"}
    kept = {e["name"]: e for e in before.root["config"]["layers"]}
    assert all(
        kept[e["name"]] == e for e in after.root["config"]["layers"] if e["name"] in untouched
    )


def test_split_leaves_the_original_as_it_was():
    before = by_name("keras3_graph")
    text = json.dumps(before.root)
    split(before, ("shared",))
    assert json.dumps(before.root) == text


def test_split_inside_a_submodel():
    after = split(by_name("keras3_graph"), ("body", "in"), 3)
    assert widths(after, "body")[1:] == [("new", 3), ("in", 5), ("out", 8)]
    assert after.store_paths()[("body", "in")] == "layers/functional/layers/dense_1"


def test_split_of_a_first_layer_moves_what_it_says_of_the_input():
    first = dense("d", batch_input_shape=[None, 7])
    architecture = parse(json.dumps({"class_name": "Sequential", "config": [first, dense("e")]}))
    after = split(architecture, ("d",))
    new, old, _ = (node.config for node in after.nodes)
    assert new["batch_input_shape"] == [None, 7]
    assert "batch_input_shape" not in old
    assert after.shapes() == {("new",): (2,), ("d",): (4,), ("e",): (4,)}


def test_split_of_a_repeated_layer():
    architecture = by_name("keras3_wrapped")
    node = next(node for node in architecture.nodes if node.path == ("each",))
    second = dict(node.config)
    first = json.loads(json.dumps({**second, "name": "new"}))
    first["layer"]["config"]["units"] = 2
    links = Link("new", "TimeDistributed", first), Link("each", "TimeDistributed", second)
    after = replaced(architecture, ("each",), links)
    old = next(node for node in after.nodes if node.path == ("each",))
    assert old.entry["build_config"]["input_shape"] == [None, 6, 2]
    assert old.config["layer"]["build_config"]["input_shape"] == [None, 2]


def test_specs_of_every_layer_of_the_goldens_are_known(golden):
    for node in read(golden).nodes:
        if classes.is_known(node.class_name) and not node.is_operation:
            assert isinstance(specs(node), list)


def test_a_removed_layer_leaves_its_consumers_what_it_was_given():
    entries = [fed("a", ("in", 0)), fed("b", ("a", 0)), fed("b2", ("b", 0)), fed("c", ("b", 0))]
    architecture = parse(model(entries, [["b2", 0, 0], ["c", 0, 0]]))
    after = removed(architecture, ("b",))
    inbound = {node.path[-1]: node.inbound for node in after.nodes}
    assert inbound == {"in": (), "a": (("in",),), "b2": (("a",),), "c": (("a",),)}
    for path in (("b2",), ("c",)):
        with pytest.raises(Refusal, match="name is that of an output"):
            removed(architecture, path)
    again = Architecture.parse(after.text, "2.4.0", "f")
    assert again.order() == ["in", "a", "b2", "c"]


@pytest.mark.parametrize("engine", ["keras3", "tf_keras"])
def test_a_removed_layer_of_several_calls_and_of_a_submodel(engine):
    before = by_name(f"{engine}_graph")
    after = removed(before, ("late",))  # it was given what the shared layer gives the second time
    join = next(node for node in after.nodes if node.path == ("join",))
    assert join.inbound == (("shared", "shared"),)
    inner = removed(before, ("body", "in"))
    out = next(node for node in inner.nodes if node.path == ("body", "out"))
    assert out.inbound == ((next(n for n in before.nodes if n.path == ("body", "in")).inbound[0]),)
    last = removed(before, ("body", "out"))
    assert (
        last.model_at(("body",))["config"]["output_layers"]
        != (before.model_at(("body",))["config"]["output_layers"])
    )
    Architecture.parse(last.text, before.keras_version, "f").order(("body",))
    with pytest.raises(Refusal, match="not called on one tensor"):
        removed(before, ("join",))


def test_a_removed_layer_of_a_sequential_model():
    first = dense("d", batch_input_shape=[None, 7])
    config = [first, dense("e"), dense("f")]
    architecture = parse(json.dumps({"class_name": "Sequential", "config": config}))
    after = removed(architecture, ("d",))
    assert after.nodes[0].config["batch_input_shape"] == [None, 7]
    assert widths(after) == [("e", 4), ("f", 4)]
    with pytest.raises(Refusal, match="name is that of an output"):
        removed(architecture, ("f",))
    with pytest.raises(Refusal, match="only layer"):
        removed(removed(removed(architecture, ("d",)), ("e",)), ("f",))

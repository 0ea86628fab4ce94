"""HDF5 files that want to run code, read other files, fill the memory, or are just broken."""

from __future__ import annotations

import base64
import json
import marshal
import shutil
import zlib

import h5py
import numpy as np
import pytest
from toys import MODELS, dense

RNG = np.random.default_rng(0)


def config(*layers, name="m"):
    layers = layers or (dense("d1", 8, activation="relu"), dense("d2", 3, activation="softmax"))
    first = {**layers[0], "config": {**layers[0]["config"], "batch_input_shape": [None, 4]}}
    return {
        "class_name": "Sequential",
        "config": {"name": name, "layers": [first, *layers[1:]]},
    }


WEIGHTS = {
    "d1": {"d1/kernel:0": (4, 8), "d1/bias:0": (8,)},
    "d2": {"d2/kernel:0": (8, 3), "d2/bias:0": (3,)},
}


def model(path, cfg=None, weights=WEIGHTS, training=None):
    """The 4-8-3 classifier of the collection, as Keras 2 writes it."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(cfg or config())
        file.attrs["keras_version"] = "2.4.0"
        file.attrs["backend"] = "tensorflow"
        if training:
            file.attrs["training_config"] = json.dumps(training)
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in weights]
        for name, shapes in weights.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight in shapes]
            for weight, shape in shapes.items():
                group[weight] = RNG.normal(size=shape).astype("float32")
    return path


def payload(tmp_path):
    """Code that leaves a marker: what a Lambda would carry."""
    code = compile(f"lambda x: open({str(tmp_path / 'ran.marker')!r}, 'w') and x", "x", "eval")
    inner = next(c for c in code.co_consts if hasattr(c, "co_code"))
    return base64.b64encode(marshal.dumps(inner)).decode()


def k2_lambda(tmp_path, name="evil"):
    function = [payload(tmp_path), None, None]
    return {
        "class_name": "Lambda",
        "config": {"name": name, "function": function, "function_type": "lambda"},
    }


def k3_lambda(tmp_path):
    value = {"code": payload(tmp_path), "defaults": None, "closure": None}
    return {"class_name": "__lambda__", "config": {"value": value}}


def nested(layer, levels):
    for level in range(levels):
        layer = {"class_name": "Sequential", "config": {"name": f"in{level}", "layers": [layer]}}
    return layer


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


EXECUTES = {
    "lambda of Keras 2": lambda t: config(dense("d1", 8), k2_lambda(t), dense("d2", 3)),
    "lambda of Keras 3": lambda t: config(
        dense("d1", 8),
        {"class_name": "Lambda", "config": {"name": "l", "function": k3_lambda(t)}},
        dense("d2", 3),
    ),
    "nested": lambda t: config(dense("d1", 8), nested(k2_lambda(t), 1), dense("d2", 3)),
    "three deep": lambda t: config(dense("d1", 8), nested(k2_lambda(t), 3), dense("d2", 3)),
    "output shape": lambda t: config(
        dense("d1", 8),
        {
            "class_name": "Lambda",
            "config": {
                "name": "l",
                "function": function("keras.ops", "relu"),
                "output_shape": k3_lambda(t),
            },
        },
        dense("d2", 3),
    ),
    "initializer": lambda t: config(
        dense("d1", 8, kernel_initializer=k2_lambda(t)), dense("d2", 3)
    ),
    "shared object": lambda t: config(
        dense(
            "d1",
            8,
            activation={
                "class_name": "__passive_serialization__",
                "config": k2_lambda(t),
                "shared_object_id": 7,
            },
        ),
        dense("d2", 3),
    ),
    "function of a module beside": lambda t: config(
        dense("d1", 8, activation=function("mc_sidecar", "run")), dense("d2", 3)
    ),
    "TFOpLambda writes": lambda t: config(
        dense("d1", 8),
        {
            "class_name": "TFOpLambda",
            "config": {"name": "io.write_file", "function": "io.write_file"},
        },
        dense("d2", 3),
    ),
    "set_floatx": lambda t: config(
        dense("d1", 8),
        {
            "class_name": "Lambda",
            "config": {"name": "l", "function": function("keras.config", "set_floatx")},
        },
        dense("d2", 3),
    ),
    "enable unsafe": lambda t: config(
        dense("d1", 8, activation=function("keras.config", "enable_unsafe_deserialization")),
        dense("d2", 3),
    ),
    "vocabulary of a path": lambda t: config(
        {
            "class_name": "TextVectorization",
            "config": {"name": "d1", "vocabulary": str(t / "secret.txt")},
        },
        dense("d2", 3),
    ),
}


@pytest.mark.parametrize("case", EXECUTES)
def test_code_in_the_architecture_is_refused(case, tmp_path, refused):
    refused(model(tmp_path / "m.h5", EXECUTES[case](tmp_path)), 3)


def test_code_in_the_training_configuration_is_refused(tmp_path, refused):
    training = {"loss": k3_lambda(tmp_path), "optimizer_config": {"class_name": "Adam"}}
    refused(model(tmp_path / "m.h5", training=training), 3)


def test_a_weight_only_step_carries_code_through_and_says_so(tmp_path, modelcut):
    path = model(tmp_path / "m.h5", config(dense("d1", 8), k2_lambda(tmp_path), dense("d2", 3)))
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5")
    assert said.code == 0, said
    assert "carried through unexecuted" in said.out
    assert not list(tmp_path.glob("*.marker"))
    with h5py.File(path) as old, h5py.File(tmp_path / "o.h5") as new:
        assert old.attrs["model_config"] == new.attrs["model_config"]


def _units(**changes):
    return lambda t: config(dense("d1", 8), dense("d2", **{"units": 3, **changes}))


BROKEN_CONFIGS = {
    "unknown class": (
        lambda t: config(dense("d1", 8), {**dense("d2", 3), "class_name": "MyCustomLayer"}),
        "MyCustomLayer",
    ),
    "unknown activation": (_units(activation="myswish"), "myswish"),
    "class name no text": (
        lambda t: config(dense("d1", 8), {**dense("d2", 3), "class_name": {"a": 1}}),
        "",
    ),
    "units no integer": (
        _units(units=8.5),
        "",
    ),
    "other units": (_units(units=7), "declares"),
    "ten to the ninth": (_units(units=10**9), "declares"),
    "ten to the thirtieth": (_units(units=10**30), ""),
    "no layers": (
        lambda t: {"class_name": "Sequential", "config": {"name": "m", "layers": []}},
        "",
    ),
    "a list": (lambda t: [1, 2], ""),
    "an embedding of 25 GB": (
        lambda t: config(
            {
                "class_name": "Embedding",
                "config": {"name": "d1", "input_dim": 10**8, "output_dim": 64},
            },
            dense("d2", 3),
        ),
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_CONFIGS)
def test_architectures_that_do_not_go_with_the_weights(case, tmp_path, refused):
    make, words = BROKEN_CONFIGS[case]
    refused(model(tmp_path / "m.h5", make(tmp_path)), words=words)


def functional(layers, outputs):
    return {
        "class_name": "Functional",
        "config": {
            "name": "m",
            "layers": [
                {
                    "class_name": "InputLayer",
                    "name": "x",
                    "config": {"name": "x", "batch_input_shape": [None, 8]},
                    "inbound_nodes": [],
                },
                *(
                    {**dense(n, 8), "name": n, "inbound_nodes": [[[b, 0, 0, {}]]]}
                    for n, b in layers
                ),
            ],
            "input_layers": [["x", 0, 0]],
            "output_layers": [[outputs, 0, 0]],
        },
    }


@pytest.mark.parametrize(
    ("layers", "output"),
    [([("d1", "d2"), ("d2", "d1")], "d2"), ([("d1", "x"), ("d2", "d1")], "gone")],
)
def test_graphs_that_are_none(layers, output, tmp_path, refused):
    weights = {n: {f"{n}/kernel:0": (8, 8), f"{n}/bias:0": (8,)} for n in ("d1", "d2")}
    refused(model(tmp_path / "m.h5", functional(layers, output), weights), 2)


def test_weights_missing_or_too_many(tmp_path, refused):
    refused(model(tmp_path / "a.h5", weights={"d1": WEIGHTS["d1"]}))
    refused(model(tmp_path / "b.h5", weights={**WEIGHTS, "d2": {"d2/kernel:0": (8, 3)}}))
    refused(model(tmp_path / "c.h5", weights={**WEIGHTS, "d9": {"d9/kernel:0": (8, 3)}}))


def _value(values):
    def change(file, root):
        del root["d1/d1/kernel:0"]
        root["d1/d1/kernel:0"] = values

    return change


def _hollow(shape, **more):
    def change(file, root):
        del root["d1/d1/kernel:0"]
        root.create_dataset("d1/d1/kernel:0", shape, "float32", **more)

    return change


def _bomb(file, root):
    del root["d1/d1/kernel:0"]
    root.create_dataset(
        "d1/d1/kernel:0", (1 << 9, 1 << 20), "f4", chunks=(1 << 4, 1 << 20), compression="gzip"
    )
    chunk = zlib.compress(bytes(1 << 26))
    for start in range(0, 1 << 9, 1 << 4):
        root["d1/d1/kernel:0"].id.write_direct_chunk((start, 0), chunk)


CHANGES = {
    "all NaN": _value(np.full((4, 8), np.nan, "f4")),
    "complex": _value(np.ones((4, 8), "c8")),
    "text": _value(np.full((4, 8), b"abc")),
    "compound": _value(np.zeros((4, 8), [("a", "f4"), ("b", "i4")])),
    "opaque": _value(np.zeros((4, 8), "V2")),
    "64 GiB of nothing": _hollow((1 << 17, 1 << 17)),
    "2^60 bytes": _hollow((1 << 29, 1 << 29)),
    "2 GiB of zeros": _bomb,
    "soft link to itself": _value(h5py.SoftLink("/model_weights/d1/d1/kernel:0")),
    "no config": lambda f, r: f.attrs.__delitem__("model_config"),
    "config broken": lambda f, r: f.attrs.__setitem__("model_config", '{"class_name": '),
    "config an integer": lambda f, r: f.attrs.__setitem__("model_config", 7),
    "layer names integers": lambda f, r: r.attrs.__setitem__("layer_names", np.arange(2)),
    "no weight names": lambda f, r: r["d1"].attrs.__delitem__("weight_names"),
    "weight name to nowhere": lambda f, r: r["d1"].attrs.__setitem__("weight_names", [b"x"]),
    "weight name a group": lambda f, r: r["d1"].attrs.__setitem__("weight_names", [b"d1"]),
    "weight name upwards": lambda f, r: r["d1"].attrs.__setitem__(
        "weight_names", [b"../d2/d2/kernel:0", b"d1/bias:0"]
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_contents_that_are_no_weights(case, tmp_path, refused):
    path = model(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        CHANGES[case](file, file["model_weights"])
    refused(path)


@pytest.mark.parametrize("case", ["all NaN"])
def test_a_diverged_network_is_not_compressed_either(case, tmp_path, modelcut):
    path = model(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        CHANGES[case](file, file["model_weights"])
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert "d1/kernel" in said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.h5"]


def test_other_files_are_not_read_through_the_model(tmp_path, refused):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"s" * 128)
    for name in (str(secret), "secret.bin", "../secret.bin"):
        path = model(tmp_path / "m.h5")
        with h5py.File(path, "a") as file:
            del file["model_weights/d1/d1/kernel:0"]
            file["model_weights/d1/d1"].create_dataset(
                "kernel:0", (4, 8), "float32", external=[(name, 0, 128)]
            )
        refused(path, 3)
    for place in ("model_weights/d1/d1/kernel:0", "model_weights/d1/d1"):
        path = model(tmp_path / "m.h5")
        with h5py.File(path, "a") as file:
            del file[place]
            file[place] = h5py.ExternalLink(str(secret), "/x")
        refused(path, 3)
    virtual = h5py.VirtualLayout((4, 8), "f4")
    virtual[:] = h5py.VirtualSource(str(secret), "x", (4, 8))
    path = model(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        del file["model_weights/d1/d1/kernel:0"]
        file["model_weights/d1/d1"].create_virtual_dataset("kernel:0", virtual)
    refused(path, 3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.9])
def test_files_cut_short(share, tmp_path, refused):
    path = model(tmp_path / "m.h5")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    refused(path, 2)


@pytest.mark.parametrize(
    "raw", [b"not a model\n" * 50, b"\x89HDF\r\n\x1a\n" + RNG.bytes(65536), b""]
)
def test_what_is_no_hdf5_at_all(raw, tmp_path, refused):
    path = tmp_path / "m.h5"
    path.write_bytes(raw)
    refused(path, 2)


def test_a_group_inside_itself_ends(tmp_path, modelcut):
    path = model(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        file["model_weights/d1/again"] = file["model_weights/d1"]
        file["other/loop"] = file["model_weights"]
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5")
    assert said.code in (0, 2), said
    assert said.err.count("\n") == (said.code != 0), said
    assert (tmp_path / "o.h5").exists() == (said.code == 0)


@pytest.mark.parametrize("position", range(24))
def test_flipped_bits_end_in_a_result_or_one_line(position, tmp_path, modelcut):
    path = model(tmp_path / "m.h5")
    raw = bytearray(path.read_bytes())
    for bit in range(3):
        where = int((position + 0.5) * len(raw) / 24) + 7 * bit
        raw[where % len(raw)] ^= 1 << ((position + bit) % 8)
    path.write_bytes(raw)
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5", "-q")
    assert said.code in (0, 2, 3), said
    assert said.err.count("\n") == (said.code != 0), said
    assert (tmp_path / "o.h5").exists() == (said.code == 0)


@pytest.mark.parametrize(
    "name",
    [
        "../../up",
        "/etc/passwd",
        "\x1b[31mred\x1b[0m\x1b]0;title\x07",
        "a\nERROR: fake\n::error::fake",
        "<script>alert(1)</script>",
        "abc‮gpj.exe",
        "%s%n%x",
        "::set-output name=x::y",
        "[red]rich[/red]",
        "a|b`c",
    ],
)
def test_names_are_shown_harmless(name, tmp_path, modelcut):
    cfg = config(dense(name, 8), dense("d2", 3))
    weights = {name: {"w/kernel:0": (4, 8), "w/bias:0": (8,)}, "d2": WEIGHTS["d2"]}
    try:
        path = model(tmp_path / "m.h5", cfg, weights)
    except ValueError:
        pytest.fail("h5py cannot write this name: choose another for the test")
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5")
    assert said.code in (0, 2), said
    assert not set("\x1b\x07‮") & set(said.out + said.err)
    assert "\nERROR" not in said.out + said.err
    assert "\n::" not in said.out + said.err
    if said.code == 0:
        page = (tmp_path / "o.report.md").read_text()
        assert "<script>" not in page
        assert "\n::" not in page
    assert not (tmp_path.parent / "up").exists()


def test_deeply_nested_models_end_in_one_line(tmp_path, refused):
    path = model(tmp_path / "m.h5")
    level = '{"class_name": "Sequential", "config": {"name": "n", "layers": ['
    for depth in (1_000, 200_000):
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = level * depth + "]}}" * depth
        refused(path, 2)


def test_a_network_without_weights_is_nothing_to_compress(tmp_path, modelcut):
    cfg = config({"class_name": "Activation", "config": {"name": "a", "activation": "relu"}})
    path = model(tmp_path / "m.h5", cfg, {"a": {}})
    said = modelcut("prune", path, "--sparsity", "0.5", "-o", tmp_path / "o.h5")
    assert said.code == 0
    assert "nothing that this step aims at" in said.out


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([np.inf, -np.inf] + [1] * 30, "f4"), "infinite"),
        (np.full(32, 3e38, "f4"), "overflow"),
        (np.array([1e300] + [1] * 31, "f8"), "overflow"),
    ],
)
def test_odd_values_are_warned_of(values, words, tmp_path, modelcut):
    path = model(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        _value(values.reshape(4, 8))(file, file["model_weights"])
    said = modelcut("prune", path, "--sparsity", "0.25", "-o", tmp_path / "o.h5")
    assert said.code == 0, said
    assert words in said.out


def test_layouts_of_other_writers_are_read(tmp_path, rows, modelcut):
    """Attributes as variable-length text, gzip'd weights, a user block, bytes at the end."""
    path = model(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        root = file["model_weights"]
        root.attrs["layer_names"] = np.array(["d1", "d2"], object)
        values = root["d1/d1/kernel:0"][()]
        del root["d1/d1/kernel:0"]
        root.create_dataset("d1/d1/kernel:0", data=values, compression="gzip", shuffle=True)
    plain = path.read_bytes()
    for raw in (plain, plain + RNG.bytes(1 << 16)):
        path.write_bytes(raw)
        said = modelcut("eval", path, "--test", rows)
        assert said.code == 0, said


def test_a_layer_without_units(tmp_path, refused):
    """TensorFlow ends the process on it."""
    path = tmp_path / "m.h5"
    shutil.copyfile(MODELS / "keras3_sequential.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        dense = next(e["config"] for e in config["config"]["layers"] if "units" in e["config"])
        width, dense["units"] = dense["units"], 0
        file.attrs["model_config"] = json.dumps(config)
        shapes = {}
        file["model_weights"].visititems(
            lambda name, item: shapes.update({name: item.shape} if hasattr(item, "shape") else {})
        )
        for name, shape in shapes.items():
            del file["model_weights"][name]
            empty = tuple(0 if n == width else n for n in shape)
            file["model_weights"].create_dataset(name, empty, "f4")
    refused(path, 2, words="has an output of size 0")

"""Makes the golden architectures of `configs/`, each with what real Keras makes of it.

Run once for each engine, in a process of its own:

    python tests/data/make_configs.py keras3
    python tests/data/make_configs.py tf_keras

Each file holds the configuration (without initializers and the like, which say nothing here) and,
from the model that Keras rebuilds from it: the order of `model.layers` in every (sub)model, the
weights by layer as legacy HDF5 lists them, those of a `.keras` file by place, and output shapes.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = Path(__file__).parent / "configs"


def graph(k):
    """Shared layers, submodels that are called twice, several inputs and outputs."""
    layers, a, b = k.layers, k.Input((8,), name="a"), k.Input((8,), name="b")
    stack = k.Sequential([k.Input((8,)), layers.Dense(8, name="one")], name="stack")
    inner = k.Input((8,))
    body = k.Model(
        inner, layers.Dense(8, name="out")(layers.Dense(5, name="in")(inner)), name="body"
    )
    shared, late = layers.Dense(8, name="shared"), layers.Dense(8, name="late")
    x = layers.Concatenate(name="join")([shared(a), late(shared(shared(b)))])
    x = body(stack(body(stack(layers.Dense(8, name="mid")(x)))))
    return k.Model([a, b], [x, layers.Dense(2, name="side")(b), layers.Add(name="sum")([x, a])])


def wrapped(k):
    """Wrappers, cells and models inside wrappers."""
    layers, x = k.layers, k.Input((6, 4))
    start = x
    part = k.Sequential(
        [
            k.Input((3,)),
            layers.Dense(3, name="p"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="q", trainable=False),
            layers.Dense(2, name="r"),
        ],
        name="part",
    )
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
    x = layers.TimeDistributed(layers.Dense(3), name="each")(x)
    x = layers.TimeDistributed(part, name="steps")(x)
    cells = [layers.LSTMCell(3), layers.GRUCell(2)]
    x = layers.RNN(cells, return_sequences=True, name="cells")(x)
    x = layers.GRU(4, name="last")(x)
    return k.Model(start, layers.Dense(2, name="head")(x))


def keywords(k):
    """Tensors among keyword arguments, in an order that is not that of the alphabet."""
    layers = k.layers
    ins = [k.Input((4, 6), name=name) for name in "abc"]
    q, v, key = (layers.Dense(6, name=n)(t) for n, t in zip(("zq", "yv", "xk"), ins, strict=True))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    return k.Model(ins, attention(value=v, query=q, key=key))


def operations(k):
    """Bare operations, a constant as first argument, inputs and outputs by name."""
    layers, a = k.layers, k.Input((4,), name="a")
    x = layers.Dense(4, name="p")(a)
    y = layers.Dense(4, name="q")(1.0 - x)
    return k.Model({"a": a}, {"z": x * y, "b": layers.Dense(1, name="r")(x + 1.0)})


def convolutions(k):
    """A chain with a nested chain, every kind of convolution and normalization."""
    layers = k.layers
    tail = [layers.Dense(4, name="t"), layers.BatchNormalization(scale=False), layers.PReLU()]
    return k.Sequential(
        [
            k.Input((12, 12, 4)),
            layers.Conv2D(6, (3, 2), groups=2, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(5, 3, strides=2, use_bias=False),
            layers.SeparableConv2D(7, 3, depth_multiplier=2),
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            layers.ZeroPadding2D(((1, 2), (3, 4))),
            layers.MaxPooling2D(),
            layers.Reshape((-1, 14)),
            layers.Conv1D(3, 2, dilation_rate=2, padding="causal"),
            layers.LayerNormalization(),
            layers.GlobalAveragePooling1D(),
            k.Sequential([k.Input((3,)), *tail], name="tail"),
        ]
    )


MODELS = (graph, wrapped, keywords, operations, convolutions)
_NOISE = ("initializer", "regularizer", "constraint", "compile_config", "shared_object_id")


def stripped(value):
    if isinstance(value, dict):
        return {k: stripped(v) for k, v in value.items() if not k.endswith(_NOISE)}
    return [stripped(v) for v in value] if isinstance(value, list) else value


def orders(k, model, path=()):
    yield [list(path), [layer.name for layer in model.layers]]
    for layer in model.layers:
        if isinstance(layer, k.Model):
            yield from orders(k, layer, (*path, layer.name))


def datasets(group):
    found = {}
    group.visititems(
        lambda name, item: (
            found.update({name: list(item.shape)}) if isinstance(item, h5py.Dataset) else None
        )
    )
    return found


def facts(k, config, folder):
    model = k.saving.deserialize_keras_object(config)
    model.save(folder / "m.keras")
    model.save(folder / "m.h5")
    with zipfile.ZipFile(folder / "m.keras") as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
        store = {key: s for key, s in datasets(weights).items() if "seed_generator" not in key}
    legacy = {}
    with h5py.File(folder / "m.h5") as file:
        groups = file["model_weights"]
        for name in groups.attrs["layer_names"]:
            name = name.decode() if isinstance(name, bytes) else name
            names = [n.decode() if isinstance(n, bytes) else n
                     for n in groups[name].attrs["weight_names"]]  # fmt: skip
            if names:
                legacy[name] = [[n, list(groups[name][n].shape)] for n in names]
    single = [layer for layer in model.layers if len(layer._inbound_nodes) == 1]
    shapes = {
        layer.name: list(layer.output.shape)[1:]
        for layer in single
        if not isinstance(layer.output, (list, tuple))
    }
    return {
        "orders": list(orders(k, model)),
        "legacy": legacy,
        "store": store,
        "shapes": shapes,
    }


def main(engine):
    if engine == "keras3":
        import keras as k
    else:
        import tf_keras as k
    HERE.mkdir(exist_ok=True)
    for make in MODELS:
        k.backend.clear_session()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(k).save(folder / "m.keras")
            with zipfile.ZipFile(folder / "m.keras") as archive:
                config = stripped(json.loads(archive.read("config.json")))
            text = json.dumps(config)  # before Keras takes it apart
            golden = {"keras_version": k.__version__, "config": text, **facts(k, config, folder)}
        (HERE / f"{engine}_{make.__name__}.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

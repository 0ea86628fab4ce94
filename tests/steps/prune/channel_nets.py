"""Networks of every kind in the Keras that is named: built, or loaded again and compared.

`build ENGINE FOLDER [NAME …]` saves them; `compare ENGINE FOLDER` loads each pair of files
`NAME.pruned.SUFFIX` and `NAME.masked.SUFFIX` and prints as JSON how far their outputs are apart,
over the largest output, and which sizes in the pruned file Keras would write otherwise.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def nets(k):
    """Name -> a model; `k` is keras or tf_keras."""
    L, I = k.layers, k.Input  # noqa: E741, N806
    made = {}
    made["sequential"] = k.Sequential([
        I((9, 9, 3)), L.Conv2D(8, 3, activation="relu"), L.BatchNormalization(), L.ReLU(),
        L.MaxPooling2D(), L.Conv2D(6, 2, strides=2, use_bias=False), L.LeakyReLU(), L.Flatten(),
        L.Dense(10, activation="tanh"), L.Dropout(0.5), L.Dense(4, activation="softmax"),
    ])  # fmt: skip

    x = I((8, 8, 3))
    a = L.Conv2D(8, 3, padding="same")(x)
    b = L.Activation("relu")(L.BatchNormalization()(a))
    b = L.Conv2D(8, 3, padding="same", dilation_rate=2)(b)
    c = L.Add()([a, b])
    d = L.Average()([c, L.Conv2D(8, 1)(x)])
    d = L.Maximum()([d, L.Conv2D(8, 1)(x), c])
    d = L.Subtract()([d, L.Multiply()([c, L.Conv2D(8, 1, activation="sigmoid")(x)])])
    e = L.GlobalMaxPooling2D(keepdims=True)(d)
    made["residual"] = k.Model(x, L.Dense(3)(L.Flatten()(e)))

    x = I((8, 8, 2))
    a = L.Conv2D(6, 3, padding="same", activation="elu")(x)
    b = L.Conv2D(5, 3, padding="same", strides=2, activation="relu")(a)
    c = L.Conv2D(7, 3, padding="same", activation="relu")(L.AveragePooling2D(2)(b))
    c = L.Concatenate()([b, L.UpSampling2D()(c)])
    c = L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(c)
    c = L.Concatenate(axis=3)([x, c, a])
    c = L.Cropping2D(1)(L.ZeroPadding2D(2)(c))
    made["unet"] = k.Model(x, [L.Conv2D(2, 1)(c), L.GlobalAveragePooling2D()(b)])

    x = I((8, 8, 3))
    a = L.PReLU(shared_axes=[1, 2])(L.Conv2D(6, 3)(x))
    a = L.DepthwiseConv2D(3, depth_multiplier=2)(a)
    a = L.PReLU()(a)
    a = L.SeparableConv2D(5, 2, depth_multiplier=3, activation="relu")(a)
    a = L.SpatialDropout2D(0.2)(a)
    made["depthwise"] = k.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(a)))

    x = I((6, 6, 3))
    a = L.Conv2D(8, 3, activation="relu")(x)
    s = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(a))
    s = L.Conv2D(4, 1, activation="relu")(s)
    s = L.Conv2D(8, 1, activation="sigmoid")(s)
    a = L.Conv2D(5, 1)(L.Multiply()([a, s]))
    made["squeeze"] = k.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(a)))

    x, y = I((7, 4)), I((7, 6))
    shared = L.Conv1D(6, 3, padding="causal", activation="relu")
    a, b = shared(L.Conv1D(5, 1)(x)), shared(L.Conv1D(5, 1)(y))
    c = L.Concatenate(axis=1)([a, b])
    d = L.Dense(4)(L.GlobalAveragePooling1D()(c))
    made["shared"] = k.Model([x, y], [d, L.Dense(2)(L.Flatten()(b))])

    p = I((6,))
    q = L.Dense(7, activation="relu")(p)
    inner = k.Model(p, [L.Dense(6)(q), q], name="inner")
    stack = k.Sequential([I((6,)), L.Dense(9, activation="relu"), L.Dense(6)], name="stack")
    x = I((5,))
    a = L.Dense(6, activation="relu")(x)
    b, c = inner(a)
    d, e = inner(stack(b))
    made["nested"] = k.Model(x, L.Dense(3)(L.Concatenate()([d, e, c])))

    x = I((4, 4, 3))
    a = L.Conv2D(6, 3, padding="same", activation="relu")(x)
    a = L.Reshape((16, 6))(a)
    a = L.Conv1D(5, 3, activation="relu")(a)
    a = L.Permute((2, 1))(a)
    a = L.Reshape((-1, 2))(L.Flatten()(a))
    b = L.RepeatVector(3)(L.Dense(6)(L.GlobalAveragePooling1D()(a)))
    made["reshape"] = k.Model(x, L.Dense(2)(b))

    x = I((9,), dtype="int32")
    a = L.Embedding(20, 8)(x)
    a = L.LSTM(7, return_sequences=True)(a)
    a = L.GRU(6, return_sequences=True)(a)
    a = L.GRU(5, reset_after=False, return_sequences=True, use_bias=False)(a)
    made["recurrent"] = k.Model(x, L.Dense(3)(L.SimpleRNN(6)(a)))

    x = I((5, 5, 5, 2))
    a = L.Conv3D(6, 2, activation="relu")(x)
    a = L.Conv3DTranspose(5, 2)(L.UpSampling3D(2)(L.MaxPooling3D(2)(a)))
    made["volumes"] = k.Model(x, L.Dense(2)(L.GlobalAveragePooling3D()(a)))

    x = I((6, 8))
    a = L.Dense(8)(x)
    a = L.Add()([a, L.MultiHeadAttention(2, 3)(a, a)])
    b = L.TimeDistributed(L.Dense(6))(a)
    b = L.Bidirectional(L.LSTM(4, return_sequences=True))(b)
    b = L.Dense(6, activation="softmax")(L.Dense(7, activation="relu")(b))
    c = L.Conv1D(6, 1, groups=2)(L.Conv1D(6, 1)(b))
    c = L.Dense(4)(L.Dense(5)(c))
    made["barriers"] = k.Model(x, c)
    return made


def randomize(model, seed=0):
    """Weights of which none is like another; variances are positive."""
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        name, shape = getattr(weight, "path", weight.name), tuple(weight.shape)
        fan = max(1, int(np.prod(shape[:-1])))
        new = rng.normal(0, 1 / np.sqrt(fan) if len(shape) > 1 else 0.3, shape)
        positive = "variance" in name or "gamma" in name
        values.append((rng.uniform(0.5, 1.5, shape) if positive else new).astype("float32"))
    model.set_weights(values)


def application(k, name):
    return getattr(k.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)


SIZES = (
    "shape batch_shape batch_input_shape input_shape build_input_shape units filters output_dim "
    "target_shape"
).split()


def sizes(value, name=""):
    """(layer, key, size) of every size in an architecture, in order."""
    if isinstance(value, dict):
        name = value.get("name", name) if isinstance(value.get("name", name), str) else name
        for key in sorted(value):
            if key in SIZES:
                yield name, key, value[key]
            else:
                yield from sizes(value[key], name)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from sizes(item, name)


def architecture(path):
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path) as file:
        return json.loads(file.attrs["model_config"])


def main(what, engine, folder, *names):
    if engine == "keras":
        import keras as k
    else:
        import tf_keras as k
    folder, suffix = Path(folder), {"keras": ".keras", "tf_keras": ".h5"}[engine]
    if what == "build":
        made = {n: application(k, n) for n in names} if names else nets(k)
        for name, model in made.items():
            randomize(model)
            model.save(folder / f"{name}{suffix}")
        return
    found = {}
    for path in sorted(folder.glob(f"*.pruned{suffix}")):
        name = path.name.partition(".")[0]
        models = [
            k.models.load_model(folder / f"{name}.{kind}{suffix}", compile=False)
            for kind in ("masked", "pruned")
        ]
        rng, given = np.random.default_rng(1), []
        for tensor in models[0].inputs:
            shape = (3, *tensor.shape[1:])
            whole = "int" in str(tensor.dtype)
            given.append(
                rng.integers(0, 20, shape).astype("int32") if whole
                else rng.normal(size=shape).astype("float32")
            )  # fmt: skip
        given = given if len(given) > 1 else given[0]
        one, other = (model.predict(given, verbose=0) for model in models)
        pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
        far = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
        meant = list(sizes(json.loads(models[1].to_json())))
        stale = [each for each in sizes(architecture(path)) if each not in meant]
        found[name] = {"far": far, "stale": stale}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

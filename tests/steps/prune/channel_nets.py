"""Networks of every kind in the Keras that is named: built, or loaded again and compared.

`build ENGINE FOLDER [NAME …]` saves them; `compare ENGINE FOLDER` loads each pair of files
`NAME.pruned.SUFFIX` and `NAME.masked.SUFFIX` and prints as JSON how far their outputs are apart,
over the largest output, and which sizes in the pruned file Keras would write otherwise. A number
after the folder is the length of whatever axis the model leaves open.
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
    a = L.TimeDistributed(L.Dense(6, activation="relu"))(x)
    a = L.Bidirectional(L.LSTM(4, return_sequences=True))(a)
    a = L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode="sum")(a)
    a = L.RNN([L.LSTMCell(4), L.GRUCell(6)], return_sequences=True)(a)
    a, h, c = L.LSTM(5, return_sequences=True, return_state=True)(a)
    a, g = L.GRU(5, return_state=True)(a)
    b = L.LSTM(5)(L.RepeatVector(3)(a), initial_state=[h, c])
    b = L.Concatenate()([b, g])
    made["wrapped"] = k.Model(x, L.Dense(2)(b))

    x = I((3, 6, 6, 2))
    inner = k.Sequential([
        I((6, 6, 2)), L.Conv2D(5, 3, activation="relu"), L.BatchNormalization(),
        L.GlobalAveragePooling2D(), L.Dense(6, activation="relu"),
    ])  # fmt: skip
    a = L.TimeDistributed(inner)(x)
    b = L.ConvLSTM2D(4, 3, return_sequences=True)(x)
    b = L.TimeDistributed(L.Flatten())(L.ConvLSTM2D(3, 2, padding="same", return_sequences=True)(b))
    made["frames"] = k.Model(x, L.Dense(3)(L.SimpleRNN(7)(L.Concatenate()([a, b]))))

    x, y = I((5, 8)), I((7, 6))
    a = L.Dense(8)(x)
    a = L.Add()([a, L.MultiHeadAttention(3, 4)(a, a)])
    b = L.Dense(6, activation="relu")(y)
    a = L.Add()([a, L.MultiHeadAttention(4, 5, value_dim=3)(a, key=b, value=b)])
    a = L.MultiHeadAttention(2, 3, output_shape=7, use_bias=False)(a, b)
    a = L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 6), bias_axes="de")(a)
    a = L.EinsumDense("abde,def->abf", output_shape=(None, 5), activation="relu")(a)
    a = L.EinsumDense("...x,xy->...y", output_shape=(6,), bias_axes="y")(a)
    made["attention"] = k.Model([x, y], L.Dense(2)(L.GlobalAveragePooling1D()(a)))

    x = I((9,), dtype="int32")
    a = L.Embedding(20, 12)(x)
    b = L.LayerNormalization()(a)
    a = L.Add()([a, L.MultiHeadAttention(2, 6)(b, b)])
    b = L.Dense(16, activation="gelu")(L.LayerNormalization()(a))
    a = L.Add()([a, L.Dense(12)(L.Dropout(0.1)(b))])
    a = L.GlobalAveragePooling1D()(L.LayerNormalization()(a))
    made["transformer"] = k.Model(x, L.Dense(3, activation="softmax")(a))

    x = I((8, 8, 3))
    a = L.Conv2D(12, 3, activation="relu")(x)
    a = L.Conv2D(18, 3, groups=2, activation="relu")(a)
    a = L.GroupNormalization(6)(a)
    a = L.Conv2D(16, 1)(a)
    a = L.BatchNormalization()(L.Conv2D(16, 3, groups=8, padding="same")(a))
    a = L.GroupNormalization(-1)(L.Conv2D(6, 1)(a))
    made["grouped"] = k.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(a)))
    made["operations"] = operations(k)

    x = I((6, 8))
    a = L.Dense(8)(x)
    a = L.Add()([a, L.Attention()([a, a])])
    b = L.Dense(6)(L.UnitNormalization()(L.Dense(7)(a)))
    b = L.Dense(6, activation="softmax")(L.Dense(7, activation="relu")(b))
    c = L.Dense(4)(L.Dense(5)(b))
    made["barriers"] = k.Model(x, c)
    return made


def operations(k):
    """Functions called as layers: those of Keras 3, or TensorFlow's in tf_keras."""
    L = k.layers  # noqa: N806
    x = k.Input((4, 4, 6))
    a = L.Conv2D(8, 3, padding="same")(x)
    if hasattr(k, "ops"):
        o = k.ops
        b = o.relu(2 * (a + 3.0) - 1) * a
        b = a * o.mean(b, axis=[1, 2], keepdims=True) / 2
        b = o.reshape(o.sigmoid(b), (-1, 16, 8))
        b = o.concatenate([b, o.tanh(b)], axis=-1)
        b = o.transpose(o.transpose(b, (0, 2, 1)), (0, 2, 1))[:, 1:]
        b = o.squeeze(o.expand_dims(b, 1), 1)
        b, c = o.split(L.Dense(12)(b), 2, axis=-1)
        return k.Model(x, L.Dense(2)(o.max(o.gelu(b) * c, axis=1)))
    import tensorflow as tf

    b = tf.nn.relu(2 * (a + 3.0) - 1) * a
    b = a * tf.reduce_mean(b, axis=[1, 2], keepdims=True) / 2
    b = tf.reshape(tf.nn.sigmoid(b), (-1, 16, 8))
    b = tf.concat([b, tf.tanh(b)], axis=-1)
    b = tf.transpose(tf.transpose(b, (0, 2, 1)), (0, 2, 1))[:, 1:]
    b = tf.squeeze(tf.expand_dims(b, 1), 1)
    b, c = tf.split(L.Dense(12)(b), 2, axis=-1)
    return k.Model(x, L.Dense(2)(tf.reduce_max(tf.nn.gelu(b) * c, axis=1)))


def normalize_over(model, masks):
    """Makes each normalization over channels see those alone that are named."""
    import tensorflow as tf

    def patched(layer, kept):
        def call(x, **_):
            seen = tf.gather(x, kept, axis=-1)
            mean = tf.reduce_mean(seen, -1, keepdims=True)
            spread = tf.sqrt(tf.math.reduce_variance(seen, -1, keepdims=True) + layer.epsilon)
            return (x - mean) / spread * layer.gamma + layer.beta

        return call

    for path, kept in masks.items():
        layer = model
        for name in path.split("/"):
            layer = layer.get_layer(name)
        layer.call = patched(layer, kept)


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
    side = 64 if name in ("ResNet50V2", "MobileNetV2", "DenseNet121", "EfficientNetB0") else 96
    return getattr(k.applications, name)(weights=None, input_shape=(side, side, 3), classes=10)


SIZES = (
    "shape batch_shape batch_input_shape input_shape build_input_shape units filters output_dim "
    "target_shape num_heads key_dim value_dim groups newshape query_shape key_shape value_shape "
    "projection_dim output_shape"
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
    found, own = {}, {}
    if (
        engine == "tf_keras"
    ):  # whose .h5 of its own ConvNeXt opens with the name of this class alone
        from tf_keras.src.applications.convnext import LayerScale

        own["LayerScale"] = LayerScale
    for path in sorted(folder.glob(f"*.pruned{suffix}")):
        name = path.name.partition(".")[0]
        models = [
            k.models.load_model(folder / f"{name}.{kind}{suffix}", own, compile=False)
            for kind in ("masked", "pruned")
        ]
        normalize_over(models[0], json.loads((folder / f"{name}.mixed.json").read_text()))
        rng, given = np.random.default_rng(1), []
        for tensor in models[0].inputs:
            shape = (3, *(n or int(names[0]) for n in tensor.shape[1:]))
            whole = "int" in str(tensor.dtype)
            given.append(
                rng.integers(0, 20, shape).astype("int32") if whole
                else rng.normal(size=shape).astype("float32")
            )  # fmt: skip
        given = given if len(given) > 1 else given[0]
        one, other = (model(given, training=False) for model in models)
        pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in pairs]
        far = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
        meant = list(sizes(json.loads(models[1].to_json())))
        told = {each[:2] for each in meant}  # an older Keras tells more
        stale = [e for e in sizes(architecture(path)) if e[:2] in told and e not in meant]
        found[name] = {"far": far, "stale": stale}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

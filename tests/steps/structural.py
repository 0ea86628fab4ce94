"""Networks that steps take layers out of, or replace by chains, in the Keras that is named.

    python structural.py ENGINE FOLDER

Builds them, has modelcut edit the files, and prints as JSON, for each, how far the outputs of the
edited network are from those of the original, over the largest, and the classes of its layers.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.steps import find
from modelcut.steps.base import Context


def folded(k):
    """Name -> a model with batch normalizations to fold."""
    L, I = k.layers, k.Input  # noqa: E741, N806
    B = L.BatchNormalization  # noqa: N806
    made = {}
    made["sequential"] = k.Sequential([
        I((9, 9, 3)), B(), L.Conv2D(8, 3), B(), L.ReLU(), L.Conv2D(6, 2, use_bias=False), B(),
        L.DepthwiseConv2D(3, depth_multiplier=2), B(scale=False), L.Activation("tanh"),
        L.Conv2DTranspose(5, 3, strides=2), B(center=False), L.SeparableConv2D(4, 3), B(),
        L.ReLU(), B(), L.Flatten(), L.Dense(7), B(), L.Activation("relu"), B(), L.Dropout(0.3),
        L.Dense(4),
    ])  # fmt: skip
    x = I((8, 8, 4))
    a = L.Conv2D(6, 3, padding="same")(x)
    b = L.ReLU()(B()(a))  # a is used twice: stays
    b = B()(L.Conv2D(6, 3, padding="same", activation="relu")(b))  # padded ahead: stays
    c = L.Conv2D(5, 3, padding="same")(b)
    c = L.Add()([B()(c), B()(L.Conv2D(5, 1)(a))])
    c = B()(L.Activation("relu")(c))  # two readers, without padding
    d = [L.Conv2D(3, 2, use_bias=False)(c), L.Conv2D(3, 2)(c)]
    d = L.Concatenate()([L.GlobalAveragePooling2D()(one) for one in d])
    made["branches"] = k.Model(x, [B()(L.Dense(3)(d)), L.Dense(2)(d)])  # an output: stays
    return made


def simplified(k, engine):
    """Name -> a model with layers that compute nothing."""
    L, I = k.layers, k.Input  # noqa: E741, N806
    made = {}
    made["plain"] = k.Sequential([
        I((8, 8, 3)), L.Dropout(0.2), L.Conv2D(4, 3, activation="relu"), L.ReLU(),
        L.Activation("linear"), L.SpatialDropout2D(0.5), L.ZeroPadding2D(0), L.MaxPooling2D(1),
        L.Flatten(), L.Flatten(), L.GaussianNoise(0.3), L.Reshape((144,)), L.Dense(3),
        L.Activation("softmax"),
    ])  # fmt: skip
    x = I((6,))
    a = L.Dropout(0.5)(x)
    b = L.Dense(5)(a)
    inner = k.Sequential([I((5,)), L.Dropout(0.1), L.Dense(5), L.Activation("linear")])
    c = L.Add()([L.Activation("linear")(b), inner(L.Dropout(0.1)(b))])
    made["graph"] = k.Model(x, [L.Dense(2)(c), L.Activation("linear")(c)])
    if engine == "keras":
        made["graph3"] = k.Model(x, L.Dense(2)(L.Identity()(c)))
    return made


def lowrank(k):
    """Name -> a model whose kernels have low ranks."""
    L, I = k.layers, k.Input  # noqa: E741, N806
    x = I((8, 7, 6))
    a = L.Conv2D(10, 3, strides=2, padding="same", activation="relu", name="low_2")(x)
    a = L.Conv2D(12, (2, 3), name="low_3")(a)
    a = L.Conv2D(12, 1, name="low_4")(a)
    a = L.Reshape((-1, 12))(a)
    a = L.LSTM(4, name="low_1")(a)
    made = {"low": k.Model(x, L.Dense(5)(a))}
    rng = np.random.default_rng(3)
    for layer in made["low"].layers:
        if layer.name.startswith("low"):
            kernel, *rest = layer.get_weights()
            shape, r = kernel.shape, int(layer.name[-1])
            parts = [rng.normal(size=(n, r)) for n in (int(np.prod(shape[:-2])), *shape[-2:])]
            new = 0.3 * np.einsum("kr,sr,tr->kst", *parts).reshape(shape)
            layer.set_weights([new, *rest])
    return made


def random_norms(model):
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if "BatchNormalization" in type(layer).__name__:
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])


def main(engine, folder):
    k = import_module(engine)
    suffix = ".keras" if engine == "keras" else ".h5"
    k.utils.set_random_seed(5)
    plain = simplified(k, engine)
    cases = [
        *((name, model, "fold", "batchnorm", {}) for name, model in folded(k).items()),
        *((name, model, "simplify", "identity", {}) for name, model in plain.items()),
        *((f"{name}.{method}", model, "factorize", method, {"energy": 1 - 1e-7})
          for name, model in lowrank(k).items()
          for method in ("svd", "channel", "spatial", "tucker2", "cp")),
    ]  # fmt: skip
    found = {}
    for name, model, family, method, fields in cases:
        random_norms(model)
        path, out = folder / f"{name}{suffix}", folder / f"{name}.out{suffix}"
        model.save(path)
        with registry.open_model(path) as held:
            outcome = find(family, method)(**fields).apply(held, Context())
            registry.of_model(held).write(outcome.model, out, WriteOptions())
        rng = np.random.default_rng(0)
        given = [rng.normal(size=(3, *one.shape[1:])).astype("float32") for one in model.inputs]
        edited = k.models.load_model(out, compile=False)
        outputs = [each.predict(given, verbose=0) for each in (model, edited)]
        pairs = zip(*(each if isinstance(each, list) else [each] for each in outputs), strict=True)
        found[name] = {
            "apart": max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs),
            "layers": [type(layer).__name__ for layer in edited.layers],
            "facts": outcome.facts,
            "skipped": outcome.skipped,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""Makes the golden model files of `models/`, each with reference inputs and outputs beside it.

Run once for each engine, in a process of its own:

    python tests/data/make_models.py keras3
    python tests/data/make_models.py tf_keras

The files are checked in, so that the tests need neither this script nor a training.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = Path(__file__).parent / "models"


def load_engine(name):
    if name == "keras3":
        import keras

        return keras
    import tf_keras

    return tf_keras


def sequential(k):
    model = k.Sequential(
        [k.layers.Input((8,)), k.layers.Dense(12, activation="relu"), k.layers.Dense(3, "softmax")]
    )
    return model, [(8,)]


def cnn(k):
    model = k.Sequential(
        [
            k.layers.Input((8, 8, 1)),
            k.layers.Conv2D(4, 3, activation="relu"),
            k.layers.BatchNormalization(),
            k.layers.SeparableConv2D(6, 3),
            k.layers.MaxPooling2D(),
            k.layers.Flatten(),
            k.layers.Dense(5, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(16, 8, 8, 1)), rng.integers(0, 5, 16), verbose=0)
    return model, [(8, 8, 1)]


def branches(k):
    a, b = k.layers.Input((6,), name="left"), k.layers.Input((6,), name="right")
    shared = k.layers.Dense(5, activation="tanh", name="shared")
    wide = k.layers.Dense(7, activation="relu", name="wide")(b)
    back = k.layers.Dense(5, name="back")(wide)
    joined = k.layers.Add(name="joined")([shared(a), shared(b), back])
    one = k.layers.Dense(3, activation="softmax", name="one")(joined)
    two = k.layers.Dense(1, name="two")(k.layers.Concatenate(name="cat")([joined, wide]))
    return k.Model([a, b], [one, two], name="branches"), [(6,), (6,)]


def nested(k):
    inside = k.layers.Input((4,), name="inside")
    hidden = k.layers.Dense(6, activation="relu", name="hidden")(inside)
    hidden = k.layers.BatchNormalization(name="norm")(hidden)
    encoder = k.Model(inside, k.layers.Dense(5, name="code")(hidden), name="encoder")
    head = k.Sequential(
        [k.layers.Input((5,)), k.layers.Dense(4, activation="relu", name="mid")], name="head"
    )
    x = k.layers.Input((4,), name="x")
    y = k.layers.Dense(2, activation="softmax", name="out")(head(encoder(x)))
    return k.Model(x, y, name="outer"), [(4,)]


def text(k):
    model = k.Sequential(
        [
            k.layers.Input((7,), dtype="int32"),
            k.layers.Embedding(11, 6),
            k.layers.Bidirectional(k.layers.LSTM(4, return_sequences=True)),
            k.layers.TimeDistributed(k.layers.Dense(5, activation="relu")),
            k.layers.GRU(3),
            k.layers.Dense(1, activation="sigmoid"),
        ]
    )
    return model, [(7,)]


MODELS = {f.__name__: f for f in (sequential, cnn, branches, nested, text)}


def main(engine):
    k = load_engine(engine)
    HERE.mkdir(exist_ok=True)
    for name, make in MODELS.items():
        k.utils.set_random_seed(7)
        k.backend.clear_session()
        model, shapes = make(k)
        rng = np.random.default_rng(1)
        integer = name == "text"
        inputs = [
            rng.integers(0, 11, (3, *s)).astype("int32")
            if integer
            else rng.normal(size=(3, *s)).astype("float32")
            for s in shapes
        ]
        outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        arrays = {f"input_{i}": value for i, value in enumerate(inputs)}
        arrays |= {f"output_{i}": value for i, value in enumerate(outputs)}
        order = {"order": np.array([layer.name for layer in model.layers])}
        for suffix in ("h5", "keras"):
            path = HERE / f"{engine}_{name}.{suffix}"
            path.unlink(missing_ok=True)
            model.save(path)
        np.savez_compressed(HERE / f"{engine}_{name}.npz", **arrays, **order)
        if name == "cnn":
            model.save_weights(HERE / f"{engine}_{name}.weights.h5")


if __name__ == "__main__":
    main(sys.argv[1])

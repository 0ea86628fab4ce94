"""Makes `modelcut/formats/mcut_1.dict`: phrases that the heads of packed files have in common.

    python tests/data/make_mcut_dictionary.py

Run once for a version of the format; a dictionary that has been released is never changed, or the
files that were packed with it cannot be read. Needs both Keras libraries.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from modelcut import formats, pipeline, provenance, steps
from modelcut.coding import raw
from modelcut.digest import Digest
from modelcut.formats import WriteOptions, mcut
from modelcut.job import Job
from modelcut.recipe import Recipe

HERE = Path(__file__).parent
TARGET = Path(formats.__file__).parent / "mcut_1.dict"
LIMIT = 48 << 10


def lenet(k, compiled):
    layers = k.layers
    model = k.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    if compiled:
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def mlp(k, compiled):
    layers = k.layers
    model = k.Sequential(
        [layers.Input((784,))]
        + [layers.Dense(n, activation="relu") for n in (300, 100)]
        + [layers.Dense(10, activation="softmax")]
    )
    if compiled:
        model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    return model


def residual(k, compiled):
    layers = k.layers
    start = x = layers.Input((16, 16, 3))
    for width in (8, 16):
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        y = layers.BatchNormalization()(y)
        y = layers.ReLU()(y)
        y = layers.DepthwiseConv2D(3, padding="same")(y)
        y = layers.ZeroPadding2D()(y)
        y = layers.Conv2D(width, 3, strides=2, activation="relu")(y)
        x = layers.Conv2D(width, 1, strides=2, padding="same")(x)
        x = layers.Add()([x, y])
        x = layers.Activation("relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(5, activation="softmax", name="predictions")(x)
    model = k.Model(start, x)
    if compiled:
        model.compile("rmsprop", "mse", metrics=["mae"])
    return model


def text(k, compiled):
    layers = k.layers
    model = k.Sequential(
        [
            layers.Input((20,)),
            layers.Embedding(50, 8),
            layers.Conv1D(8, 3, activation="relu"),
            layers.MaxPooling1D(2),
            layers.LSTM(6, return_sequences=True, dropout=0.2),
            layers.Bidirectional(layers.GRU(4)),
            layers.LayerNormalization(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    if compiled:
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def recipes():
    find = steps.find
    prune, linear = find("prune", "magnitude"), find("quantize", "linear")
    yield ()
    yield (prune(sparsity=0.9, scope="global"), linear(bits=4))
    yield (prune(sparsity=0.95, overrides={"class:Dense": {"sparsity": 0.7}}), linear(bits=8))
    yield (find("factorize", "svd")(energy=0.9), find("quantize", "float16")())


def heads(folder):
    """Unpacked heads, the most usual first."""
    import keras
    import tf_keras

    for make in (lenet, mlp, residual, text):
        for k in (keras, tf_keras):
            for suffix, compiled in ((".h5", True), (".keras", True), (".h5", False)):
                k.backend.clear_session()
                path = folder / f"model{suffix}"
                path.unlink(missing_ok=True)
                make(k, compiled).save(path)
                for steps_ in recipes():
                    yield head_of(path, steps_, folder)
    for path in sorted((HERE / "models").iterdir()):
        if path.suffix in (".h5", ".keras"):
            yield head_of(path, (), folder)


def head_of(path, steps_, folder):
    kept = {}
    mcut._header = lambda head, directory: kept.setdefault("head", mcut.msgpack.packb(head))
    out = folder / "out.mcut"
    model = formats.open_model(path)
    recipe = Recipe(tuple(steps_))
    job = Job(path, recipe, out)
    with Digest(path) as digest:
        history = provenance.of(job, model, digest)
    # No digest of one file helps with another's.
    history["history"][0]["input_sha256"] = ""
    models, _, _ = pipeline.fold(model, recipe, lambda _: None)
    mcut.write(models[-1], out, WriteOptions(provenance=history))
    return kept["head"]


def main():
    dictionary = b""
    with tempfile.TemporaryDirectory() as folder:
        for head in heads(Path(folder)):
            # What is known already is not worth its place; what is usual stands last.
            if len(raw.deflate(head, dictionary)) > 64 and len(dictionary) + len(head) <= LIMIT:
                dictionary = head + dictionary
    TARGET.write_bytes(dictionary)
    print(f"{TARGET}: {len(dictionary)} bytes")


if __name__ == "__main__":
    np.random.seed(0)
    main()

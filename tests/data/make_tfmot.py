"""Makes the files in `tfmot/`: Keras 2 models in wrappers of the Model Optimization toolkit.

Needs an environment of its own (`pip install tensorflow tf_keras tensorflow-model-optimization`):
`TF_USE_LEGACY_KERAS=1 python tests/data/make_tfmot.py`. `expected.npz` holds inputs and outputs:
of the pruned models as the toolkit runs them, of the other as its bare layers compute.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

HERE = Path(__file__).parent / "tfmot"
layers = keras.layers


def nested():
    inner = keras.Sequential(
        [
            layers.Input((4, 4, 2)),
            layers.Conv2D(3, 2, name="conv"),
            layers.BatchNormalization(name="norm"),
        ],
        name="inner",
    )
    given = layers.Input((4, 4, 2), name="x")
    flat = layers.Flatten(name="flat")(inner(given))
    one = layers.Dense(3, activation="relu", name="one")(flat)
    two = layers.Dense(3, name="two")(flat)
    both = layers.Add(name="both")([one, two])
    return keras.Model(given, layers.Dense(2, activation="softmax", name="out")(both))


def plain():
    given = layers.Input((6,), name="x")
    one = layers.Dense(4, activation="relu", name="one")(given)
    two = layers.Dense(4, name="two")(one)
    both = layers.Add(name="both")([one, two])
    return keras.Model(given, layers.Dense(2, activation="softmax", name="out")(both))


def trained(model, rows, callbacks=()):
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels = np.arange(len(rows)) % 2
    model.fit(rows, labels, epochs=2, verbose=0, callbacks=list(callbacks))
    return model


def deflate(path):
    with zipfile.ZipFile(path) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for name, data in members:
            new.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)


def main():
    keras.utils.set_random_seed(3)
    sparsity = tfmot.sparsity.keras
    expected = {}
    schedule = sparsity.ConstantSparsity(0.5, 0, frequency=1)
    for name, make, shape in (("nested", nested, (4, 4, 2)), ("plain", plain, (6,))):
        rows = np.random.default_rng(0).random((8, *shape), np.float32)
        model = sparsity.prune_low_magnitude(make(), pruning_schedule=schedule)
        trained(model, rows, [sparsity.UpdatePruningStep()])
        expected |= {f"{name}_rows": rows, f"{name}": model.predict(rows, verbose=0)}
        if name == "nested":
            model.save(HERE / f"pruned_{name}.h5", include_optimizer=False)
            model.save(HERE / f"pruned_{name}.keras")
            deflate(HERE / f"pruned_{name}.keras")
    model = trained(tfmot.quantization.keras.quantize_model(plain()), rows)
    model.save(HERE / "quantized.h5", include_optimizer=False)
    values = {weight.name: weight.numpy() for weight in model.weights}
    bare = plain()
    bare.set_weights([values[weight.name] for weight in bare.weights])
    expected["quantized"] = bare.predict(rows, verbose=0)
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()

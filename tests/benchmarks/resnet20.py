"""Trains a ResNet-20 (16-32-64 filters) on Fashion-MNIST, for the benchmarks; also writes its data.

    python tests/benchmarks/resnet20.py FOLDER [--epochs 2 3] [--rows 60000]

He et al. 2016, section 4.2, for 28 × 28 grey images, shortcuts with projections (option B). The
first epochs see the images at half their size, which costs a quarter; the last ones as they are.
Flips, and shifts by up to 2 pixels; SGD with Nesterov momentum, one cosine over all steps.

Written to FOLDER: `resnet20.keras`, `resnet20.h5`, and the parts train, calibration (512 samples of
the training set) and test, each as `.npz` (x from 0 to 1, y) and as `.csv` (a column `label`, then
784 pixels from 0 to 255, to be read with `--scale 1/255`).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

BATCH = 128


def network(keras, width=16, classes=10, shape=(28, 28, 1)):
    """ResNet-20 with `width`, 2 `width` and 4 `width` filters."""
    layers = keras.layers

    def conv(x, filters, size, stride, name):
        x = layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, name=f"{name}_conv",
            kernel_initializer="he_normal", kernel_regularizer=keras.regularizers.L2(5e-4),
        )(x)  # fmt: skip
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    inputs = keras.Input(shape, name="image")
    x = layers.ReLU(name="stem_relu")(conv(inputs, width, 3, 1, "stem"))
    for stage in range(3):
        for block in range(3):
            filters, stride = width << stage, 2 if stage and not block else 1
            name = f"stage{stage + 1}_block{block + 1}"
            y = layers.ReLU(name=f"{name}_a_relu")(conv(x, filters, 3, stride, f"{name}_a"))
            y = conv(y, filters, 3, 1, f"{name}_b")
            if stride > 1:
                x = conv(x, filters, 1, stride, f"{name}_shortcut")
            x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, activation="softmax", name="classes")(x)
    return keras.Model(inputs, outputs, name="resnet20")


def batches(x, y, rng, small):
    """Shuffled and augmented batches of one epoch."""
    order = rng.permutation(len(x))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for start in range(0, len(x) - BATCH + 1, BATCH):
        rows = order[start : start + BATCH]
        down, right = rng.integers(0, 5, 2)
        images = padded[rows, down : down + 28, right : right + 28]
        flipped = rng.random(BATCH) < 0.5
        images[flipped] = images[flipped, :, ::-1]
        if small:
            images = images.reshape(BATCH, 14, 2, 14, 2, 1).mean((2, 4))
        yield images.astype("float32"), y[rows]


def trained(keras, x, y, epochs, peak, seed=0):
    """The trained network.

    Args:
        epochs: at half the size, and at the whole size.
        peak: highest learning rate.
    """
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    model = network(keras, shape=(None, None, 1))
    steps = sum(epochs) * (len(x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        peak / 20, steps, warmup_target=peak, warmup_steps=steps // 5
    )
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(seed)

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            found = model(images, training=True)
            each = keras.losses.sparse_categorical_crossentropy(labels, found)
            loss = tf.reduce_mean(each) + sum(model.losses)
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(grads, model.trainable_variables)
        return tf.reduce_mean(each)

    for epoch in range(sum(epochs)):
        start, losses = time.time(), []
        for images, labels in batches(x, y, rng, epoch < epochs[0]):
            losses.append(step(tf.constant(images), tf.constant(labels)))
        spent = time.time() - start
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {spent:.0f} s", flush=True)
    whole = network(keras)
    whole.set_weights(model.get_weights())
    return whole


def settle(keras, model, x, count=20):
    """Batch normalizations take the mean of the statistics of some batches, not augmented.

    Those that training has moved lag behind, and are of shifted images: 4 points of accuracy.
    """
    norms = [one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]
    momenta = [one.momentum for one in norms]
    for number in range(count):
        for norm in norms:
            norm.momentum = number / (number + 1)
        model(x[500 * number : 500 * (number + 1)], training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def write(path, x, y):
    """A CSV of images."""
    header = ",".join(["label", *(f"pixel{n}" for n in range(x[0].size))])
    rows = np.column_stack([y, np.rint(255 * x.reshape(len(x), -1))]).astype(int)
    np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, nargs=2, default=(2, 3))
    parser.add_argument("--rows", type=int, default=60000)
    parser.add_argument("--peak", type=float, default=0.2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)

    import keras
    import materials

    data = materials.images("fashion")
    parts = {}
    for part in ("train", "test"):
        x = (data[f"{part}_x"] / 255).astype("float32")[..., None]
        parts[part] = x, data[f"{part}_y"].astype("int64")
    parts["calibration"] = tuple(values[:512] for values in parts["train"])
    for part, (x, y) in parts.items():
        np.savez_compressed(given.folder / f"{part}.npz", x=x, y=y)
        write(given.folder / f"{part}.csv", x, y)
    x, y = (values[: given.rows] for values in parts["train"])
    model = trained(keras, x, y, given.epochs, given.peak)
    settle(keras, model, x)
    test_x, test_y = parts["test"]
    right = model.predict(test_x, batch_size=256, verbose=0).argmax(1) == test_y
    print(f"accuracy on the {len(right)} test samples: {right.mean():.4f}")
    model.save(given.folder / "resnet20.keras")
    model.save(given.folder / "resnet20.h5")


if __name__ == "__main__":
    main()

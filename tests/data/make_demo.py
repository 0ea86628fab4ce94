"""Trains the network of `modelcut demo` and writes the files that ship with the package.

    pip install '.[test]' && python tests/data/make_demo.py

scikit-learn's digits: 1,797 grey images of 8 × 8 with values from 0 to 16. 70 % train, 30 % test,
split once with a fixed seed; the test rows are never looked at while training.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
DEMO = Path(__file__).parents[2] / "modelcut" / "demo"

NEWER_THAN_KERAS_3_0 = (
    "input_axes", "output_axes", "quantization_config", "renorm", "renorm_clipping",
    "renorm_momentum",
)  # fmt: skip
"""Keys of a layer's configuration, all at their defaults, that the oldest Keras 3 refuses."""


def main() -> None:
    import keras
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    keras.utils.set_random_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(pixels, labels, test_size=0.3, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = split
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            keras.layers.BatchNormalization(name="norm1"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dropout(0.3, name="dropout"),
            keras.layers.Dense(96, activation="relu", name="dense1"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="digits",
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train_x.reshape(-1, 8, 8, 1) / 16, train_y, epochs=40, batch_size=32, verbose=2)
    print(model.evaluate(test_x.reshape(-1, 8, 8, 1) / 16, test_y, verbose=0))
    DEMO.mkdir(exist_ok=True)
    (DEMO / "digits.h5").unlink(missing_ok=True)
    model.save(DEMO / "digits.h5")
    make_loadable(DEMO / "digits.h5")
    for name, rows, truth in (("train", train_x, train_y), ("test", test_x, test_y)):
        with (DEMO / f"digits_{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*(f"pixel_{i}" for i in range(64)), "label"])
            writer.writerows(
                [*map(int, row), int(label)] for row, label in zip(rows, truth, strict=True)
            )


def make_loadable(path: Path) -> None:
    """Has every Keras 3 load the file; spaces in place of what is left out keep its size."""
    import h5py

    with h5py.File(path) as file:
        old = file.attrs["model_config"]
    new = json.dumps(_without_newer(json.loads(old)))
    path.write_bytes(path.read_bytes().replace(old.encode(), new.ljust(len(old)).encode()))


def _without_newer(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_newer(one) for one in value]
    if isinstance(value, dict):
        return {k: _without_newer(v) for k, v in value.items() if k not in NEWER_THAN_KERAS_3_0}
    return value


if __name__ == "__main__":
    main()

"""Accuracy of every pruning criterion without fine-tuning, as Markdown tables.

    python tests/benchmarks/criteria.py [NETWORK …] [--cache FOLDER]

One MLP (LeNet-300-100) and one CNN (LeNet-5), trained here on Fashion-MNIST for a few epochs and
kept in the cache; each criterion prunes the trained network once at each sparsity, by one step of
a recipe as a user would write it, and the result is measured on the 10,000 test images. Criteria
that ask the network look at rows of the training images only.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from materials import images

from modelcut import steps
from modelcut.budget.bench import Bench
from modelcut.formats import registry
from modelcut.job import start
from modelcut.job.request import Trust
from modelcut.recipe.recipe import Head, Recipe
from modelcut.steps.base import Context

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
CRITERIA: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("random", "random", {}),
    ("magnitude, each layer", "magnitude", {"scope": "layer"}),
    ("magnitude, global", "magnitude", {"scope": "global"}),
    ("gradient", "gradient", {}),
    ("taylor", "taylor", {}),
    ("snip", "snip", {}),
    ("fisher", "fisher", {}),
    ("wanda", "wanda", {}),
    ("wanda, global", "wanda", {"scope": "global"}),
    ("obs", "obs", {}),
)


def mlp(layers):
    return [
        layers.Input((784,)),
        layers.Dense(300, activation="relu", name="fc1"),
        layers.Dense(100, activation="relu", name="fc2"),
        layers.Dense(10, activation="softmax", name="out"),
    ]


def cnn(layers):
    return [
        layers.Input((28, 28, 1)),
        layers.Conv2D(20, 5, activation="relu", name="conv1"),
        layers.MaxPooling2D(),
        layers.Conv2D(50, 5, activation="relu", name="conv2"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(500, activation="relu", name="fc1"),
        layers.Dense(10, activation="softmax", name="out"),
    ]


NETWORKS = {"LeNet-300-100": mlp, "LeNet-5": cnn}


def trained(name: str, cache: Path) -> Path:
    """A trained network; made once."""
    path = cache / f"fashion-{name}.h5"
    if not path.exists():
        import keras

        keras.utils.set_random_seed(1)
        data = images("fashion")
        model = keras.Sequential(NETWORKS[name](keras.layers))
        rate = keras.optimizers.schedules.CosineDecay(1e-3, 8 * 60_000 // 128)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        x = data["train_x"].reshape(-1, *model.input_shape[1:]).astype("float32") / 255
        model.fit(x, data["train_y"], epochs=8, batch_size=128, verbose=0)
        model.save(path)
    return path


def table_of(part: str, cache: Path) -> Path:
    """The images of a part as a CSV."""
    path = cache / f"fashion-{part}.csv"
    if not path.exists():
        data = images("fashion")
        rows = np.column_stack([data[f"{part}_x"].reshape(-1, 784), data[f"{part}_y"]])
        header = ",".join([*(f"p{i}" for i in range(784)), "label"])
        np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")
    return path


def measure(name: str, cache: Path) -> None:
    """Prints one network's table."""
    path = trained(name, cache)
    model = registry.open_model(path)
    head = Head.model_validate({"data": {"label": "label", "scale": "1/255"}})
    train, test = table_of("train", cache), table_of("test", cache)
    runtime = start.open_runtime(model, Recipe((), head), train, test, Trust())
    bench = Bench(model, runtime)
    base = bench.base.metrics["accuracy"]
    print(f"\n**{name}, {100 * base:.2f} % as trained**\n")
    print("| accuracy at a sparsity of | " + " | ".join(f"{s:.0%}" for s in SPARSITIES) + " |")
    print("|---|" + "--:|" * len(SPARSITIES))
    for title, method, fields in CRITERIA:
        cells = []
        memo: dict[object, object] = {}
        for sparsity in SPARSITIES:
            step = steps.find("prune", method)(sparsity=sparsity, **fields)
            outcome = step.apply(model, Context(runtime=runtime, memo=memo))
            found = bench.measure(outcome.model)
            cells.append(f"{100 * found.metrics['accuracy']:.1f}")
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        measure(name, options.cache)


if __name__ == "__main__":
    main()

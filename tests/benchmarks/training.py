"""An epoch of `finetune` beside one of Keras's own `fit`, in seconds, as a Markdown table.

    python tests/benchmarks/training.py [mlp|cnn …] [--rows N] [--batch N]

The same network, rows, batch size and optimizer (Adam) for all, no validation. Keras has its rows
in memory as arrays; modelcut reads them from a CSV: kept in memory, or streamed through a buffer
that holds a tenth of them. An epoch is what one more epoch takes: the time of several less that of
one, over their difference; so starting, tracing and the first reading do not count, for either.
Wall and CPU seconds, medians of some rounds taken in turn, since other work disturbs both.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np

from modelcut import steps
from modelcut.data import DataOptions
from modelcut.data import rows as rows_room
from modelcut.formats import registry
from modelcut.job.engine_runtime import EngineRuntime
from modelcut.steps.base import Context

EPOCHS = (1, 9)


def network(kind: str):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    if kind == "mlp":
        body = [
            keras.Input((784,)),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
        ]
    else:
        body = [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
        ]
    return keras.Sequential([*body, layers.Dense(10, activation="softmax")])


def table(folder: Path, count: int) -> tuple[Path, np.ndarray, np.ndarray]:
    """Pixels with two thirds of them zero, as MNIST has, and labels; as a CSV and as arrays."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 784)) * (rng.random((count, 784)) < 1 / 3)
    labels = rng.integers(0, 10, count)
    path = folder / "rows.csv"
    np.savetxt(path, np.column_stack([pixels, labels]), fmt="%d", delimiter=",")
    return path, (pixels / 255).astype("float32"), labels


def ways(kind: str, folder: Path, count: int, batch: int) -> dict[str, Callable[[int], None]]:
    """What is timed, by name; each takes the epochs."""
    path, inputs, labels = table(folder, count)
    model = network(kind)
    model.save(folder / "model.keras")
    inputs = inputs.reshape(-1, *model.input_shape[1:])
    opened = registry.open_model(folder / "model.keras")
    pruned = steps.find("prune", "magnitude")(sparsity=0.9).apply(opened, Context()).model
    options = DataOptions(scale="1/255", header=False)

    def fit(epochs: int) -> None:
        own = network(kind)
        own.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        own.fit(inputs, labels, batch_size=batch, epochs=epochs, verbose=0)

    def finetune(start, memory: int | None):
        def train(epochs: int) -> None:
            if memory is not None:
                rows_room._default_memory = lambda: memory
            else:
                rows_room._default_memory = default
            runtime = EngineRuntime(opened, path, options)
            cls = steps.find("finetune", "straight_through")
            step = cls(epochs=epochs, batch_size=batch, validation=0, schedule="constant")
            step.apply(start, Context(index=1, runtime=runtime))

        return train

    default = rows_room._default_memory
    return {
        "Keras fit, in memory": fit,
        "finetune, dense": finetune(opened, None),
        "finetune, 90 % zeros": finetune(pruned, None),
        "finetune, dense, streamed": finetune(opened, inputs.nbytes // 5),
    }


def seconds(work: Callable[[int], None]) -> tuple[float, float]:
    """Wall and CPU seconds of one more epoch."""
    taken = []
    for epochs in EPOCHS:
        wall, cpu = time.perf_counter(), time.process_time()
        work(epochs)
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    more = EPOCHS[1] - EPOCHS[0]
    return tuple((b - a) / more for a, b in zip(*taken, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["mlp", "cnn"], choices=["mlp", "cnn"])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for kind in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            work = ways(kind, Path(folder), given.rows, given.batch)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
            for way in work.values():  # imports, and threads that stay
                way(1)
            for _ in range(given.rounds):
                for name, way in work.items():
                    found[name].append(seconds(way))
                    print(name, found[name][-1], file=sys.stderr)
        title = {"mlp": "LeNet-300-100", "cnn": "LeNet-5"}[kind]
        print(f"\n**An epoch of {title}, {given.rows:,} rows, batch {given.batch}**\n")
        print("| | wall s | × Keras | CPU s | × Keras |\n|---|--:|--:|--:|--:|")
        middle = {name: np.median(times, axis=0) for name, times in found.items()}
        wall, cpu = middle["Keras fit, in memory"]
        for name, (a, b) in middle.items():
            print(f"| {name} | {a:.2f} | {a / wall:.2f} | {b:.2f} | {b / cpu:.2f} |")


if __name__ == "__main__":
    main()

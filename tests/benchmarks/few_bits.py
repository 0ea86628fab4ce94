"""Few bits without training: rounding, ranges and corrections side by side, in one run.

    python tests/benchmarks/few_bits.py [--networks depthwise lenet-5 FILE.keras] [--seeds 0]
        [--rows ROW …] [--out FILE.md]

`depthwise` is a small network of inverted residuals like those of MobileNetV2 (51,674 parameters),
trained here on Fashion-MNIST, as LeNet-5 is; kept in `.cache/few_bits`. A file is taken as it is,
for images of 28 × 28 × 1 from 0 to 1. Calibration samples are 1,000 images of the training set,
without labels. Accuracy is of the 10,000 test images; `changed` is how many of them the network
gives another class than in float32, in per cent; CPU seconds are of the step itself, of one process
that has TensorFlow loaded. Weights only; every kernel; one scale a channel, and a zero point where
the row says so: a symmetric grid of 2 bits has three levels, with a zero point it has four.

Accuracy by itself says little where little is lost: a network that is further away may be right
more often by chance, which `changed` does not reward.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "few_bits"
SAMPLES = 1000
RESNET_EPOCHS = (3, 2)
"""Of `resnet20.py`: at half the size, and at the whole size."""
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

GPTQ = {"rounding": "gptq"}
BEST = {**GPTQ, "range": "output", "correct": "both"}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {}
for _bits in (4, 3, 2):
    for _name, _fields in {
        "nearest, minmax": {},
        "nearest, mse, corrected": {"range": "mse", "correct": "both"},
        "gptq, minmax": GPTQ,
        "gptq, output range, corrected": BEST,
        "gptq with zero points, output range, corrected": {**BEST, "symmetric": False},
    }.items():
        if _bits == 2 or "zero" not in _name:
            ROWS[f"{_bits} bits: {_name}"] = ("linear", {"bits": _bits, **_fields})
for _name, _method, _fields in (
    ("16 clusters", "cluster", {"bits": 4}),
    ("8 clusters", "cluster", {"bits": 3}),
    ("binary, 2 bases", "binary", {"bases": 2}),
    ("ternary", "ternary", {}),
):
    ROWS[f"{_name}: nearest"] = (_method, _fields)
    ROWS[f"{_name}: gptq"] = (_method, {**_fields, **GPTQ})
    ROWS[f"{_name}: gptq, corrected"] = (_method, {**_fields, **GPTQ, "correct": "both"})
ROWS["auto, 3 bits on average: gptq"] = ("linear", {"average_bits": 3, **BEST})


def depthwise() -> Any:
    """The network of the figures in baselines: 51,674 parameters."""
    import keras
    from keras import layers

    def norm(x: Any, *, relu: bool = True) -> Any:
        x = layers.BatchNormalization()(x)
        return layers.ReLU(6.0)(x) if relu else x

    x = inputs = keras.Input((28, 28, 1), name="image")
    x = norm(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x))
    for filters, strides in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (48, 1)):
        width, before = x.shape[-1], x
        x = norm(layers.Conv2D(4 * width, 1, use_bias=False)(x))
        x = norm(layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x))
        x = norm(layers.Conv2D(filters, 1, use_bias=False)(x), relu=False)
        if strides == 1 and width == filters:
            x = layers.Add()([before, x])
    x = norm(layers.Conv2D(128, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def lenet() -> Any:
    """LeNet-5 of 20-50-500."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


NETWORKS = {"depthwise": (depthwise, 8, 3e-3), "lenet-5": (lenet, 4, 1e-3), "resnet-20": None}


def trained(name: str, seed: int, data: dict[str, np.ndarray], rows: int | None = None) -> Path:
    """The network's file, trained with Adam and a cosine decay where it is not there yet.

    With `rows`, on so many of the training images.
    """
    path = CACHE / f"{name}-{seed}{'' if rows is None else f'-{rows}'}.keras"
    if path.exists():
        return path
    import keras

    x, y = data["train_x"][:rows], data["train_y"][:rows]
    x = x.reshape(-1, 28, 28, 1).astype("float32") / 255
    if (training := NETWORKS[name]) is None:
        import resnet20

        model = resnet20.trained(keras, x, y.astype("int64"), RESNET_EPOCHS, 0.2, seed)
        resnet20.settle(keras, model, x)
    else:
        build, epochs, rate = training
        keras.utils.set_random_seed(seed)
        model = build()
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // 128))
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=128, epochs=epochs, verbose=2)
    CACHE.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path


class Bench:
    """One network, its calibration samples and the test images."""

    def __init__(self, path: Path, data: dict[str, np.ndarray], seed: int) -> None:
        from modelcut.data import DataOptions
        from modelcut.formats import registry
        from modelcut.job.engine_runtime import EngineRuntime

        table = CACHE / f"calibrate-{seed}.csv"
        if not table.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            chosen = np.random.default_rng(seed).choice(len(data["train_x"]), SAMPLES, False)
            pixels = data["train_x"][chosen].reshape(SAMPLES, -1)
            header = ",".join(f"p{i}" for i in range(pixels.shape[1]))
            np.savetxt(table, pixels, "%d", ",", header=header, comments="")
        self.model = registry.open_model(path)
        options = DataOptions(scale=1 / 255)
        self.runtime = EngineRuntime(self.model, None, options, calibrate=table)
        self.x = data["test_x"].reshape(-1, 28, 28, 1).astype("float32") / 255
        self.y = data["test_y"]

        self.classes = self.predicted(self.model)
        self.float = self.accuracy(self.classes)

    def predicted(self, model: Any) -> np.ndarray:
        """The class of each test image."""
        from modelcut.data.rows import Rows

        running = self.runtime.open(model)
        parts = [
            running.predict(Rows((self.x[start : start + 500],), None))[0].argmax(axis=1)
            for start in range(0, len(self.x), 500)
        ]
        return np.concatenate(parts)

    def accuracy(self, classes: np.ndarray) -> float:
        """In per cent."""
        return 100 * float(np.mean(classes == self.y))

    def measure(self, method: str, fields: dict[str, Any]) -> tuple[float, float, float, float]:
        """Accuracy, points lost, per cent of classes that changed, and CPU seconds of the step."""
        from modelcut import steps
        from modelcut.steps.base import Context

        step = steps.find("quantize", method)(**fields)
        start = time.process_time()
        outcome = step.apply(self.model, Context(runtime=self.runtime))
        seconds = time.process_time() - start
        found = self.predicted(outcome.model)
        accuracy = self.accuracy(found)
        changed = 100 * float(np.mean(found != self.classes))
        return accuracy, self.float - accuracy, changed, seconds


def main() -> None:
    """Prints a table for each network, the medians over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["depthwise", "lenet-5"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", nargs="+", default=[""], help="only rows that begin like this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    from materials import images

    data = images("fashion")
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    for name in options.networks:
        paths = [trained(name, seed, data) for seed in options.seeds] if name in NETWORKS else []
        benches = [
            Bench(path, data, seed)
            for path, seed in zip(paths or [Path(name)], options.seeds, strict=False)
        ]
        floats = [bench.float for bench in benches]
        seeds = f"{len(benches)} seed{'s' if len(benches) > 1 else ''}"
        say(f"\n{Path(name).stem}: {statistics.median(floats):.2f} % in float32, {seeds}, load "
            f"{os.getloadavg()[0]:.1f}\n")  # fmt: skip
        say("| | % | points lost | each seed | changed | CPU s |\n|---|--:|--:|--:|--:|--:|")
        for row, (method, fields) in ROWS.items():
            if not row.startswith(tuple(options.rows)):
                continue
            found = [bench.measure(method, fields) for bench in benches]
            accuracy, lost, changed, seconds = map(statistics.median, zip(*found, strict=True))
            each = ", ".join(f"{one[1]:.2f}" for one in found)
            say(f"| {row} | {accuracy:.2f} | {lost:.2f} | {each} | {changed:.1f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()

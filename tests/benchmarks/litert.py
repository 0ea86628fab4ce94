"""Two networks as `.tflite` of every type, beside Keras: a Markdown table.

    python tests/benchmarks/litert.py [--rows 2000]

One is a small CNN on Fashion-MNIST, trained once (kept in `.cache/litert`); the other comes with
modelcut, for its demo: on scikit-learn's digits, calibrated on training rows. Each type is exported
by the real command line and evaluated on test rows beside the Keras network, both a row at a time
for the latency. CPU seconds and memory of the export stand beside those of a bare script that loads
the network and calls TensorFlow's converter.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "litert"
sys.path.insert(0, str(ROOT / "tests"))
TYPES = ("float32", "float16", "dynamic", "int4", "int8", "int16x8")
SAMPLES = 200

TRAIN = """
import sys
import numpy as np
import keras

keras.utils.set_random_seed(0)
layers = keras.layers
data = np.load(sys.argv[1])
model = keras.Sequential([
    keras.Input((28, 28, 1)),
    layers.Conv2D(16, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
    layers.MaxPooling2D(),
    layers.Conv2D(32, 3, activation="relu"),
    layers.MaxPooling2D(),
    layers.Flatten(),
    layers.Dense(64, activation="relu"),
    layers.Dense(10, activation="softmax"),
])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(data["x"][..., None] / np.float32(255), data["y"], epochs=2, batch_size=64, verbose=0)
model.save(sys.argv[2])
"""

BARE = """
import sys
import numpy as np
import tensorflow as tf
import keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

source, target, kind, rows, samples, most, label = sys.argv[1:]
model = keras.models.load_model(source, compile=False)
call = tf.function(lambda x: model(x, training=False))
shape = (1, *model.input_shape[1:])
function = call.get_concrete_function(tf.TensorSpec(shape))
frozen = convert_variables_to_constants_v2(function)
converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
if kind != "float32":
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
if kind == "float16":
    converter.target_spec.supported_types = [tf.float16]
if kind.startswith("int"):
    pixels = np.loadtxt(rows, "float32", delimiter=",", skiprows=1, max_rows=int(samples))
    rows = np.delete(pixels, int(label), axis=1) / np.float32(most)
    rows = rows.reshape(-1, *shape)
    converter.representative_dataset = lambda: ([row] for row in rows)
    ops = tf.lite.OpsSet
    both = ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8 if kind == "int8" else both]
open(target, "wb").write(converter.convert())
"""


def run(*call: object) -> tuple[float, float]:
    """CPU seconds and peak MiB of a process with all that it started."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *map(str, call)], env=env, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, used = os.wait4(process.pid, 0)
        if status:
            errors.seek(0)
            raise SystemExit(errors.read().decode("utf-8", "replace")[-2000:])
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def table(pixels: np.ndarray, labels: np.ndarray, path: Path) -> Path:
    """Rows as a CSV."""
    names = ",".join(["label", *(f"p{i}" for i in range(784))])
    rows = np.concatenate([labels[:, None], pixels.reshape(len(pixels), -1)], axis=1)
    np.savetxt(path, rows, "%d", ",", header=names, comments="")
    return path


class Case(NamedTuple):
    """A network with its rows.

    Attributes:
        name: for the table.
        model: its file.
        calibrate, test: rows.
        most: the largest value of an input, by which it is divided.
        label: place of the label's column.
    """

    name: str
    model: Path
    calibrate: Path
    test: Path
    most: int
    label: int


def fashion(rows: int, folder: Path) -> Case:
    """The CNN, and rows of Fashion-MNIST."""
    from materials import images

    found = images("fashion")
    model = CACHE / "fashion.h5"
    if not model.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "train.npz", x=found["train_x"], y=found["train_y"])
        run("-c", TRAIN, folder / "train.npz", CACHE / "part.h5")
        (CACHE / "part.h5").rename(model)
    calibrate = table(found["train_x"][:1000], found["train_y"][:1000], folder / "calibrate.csv")
    test = table(found["test_x"][:rows], found["test_y"][:rows], folder / "t.csv")
    return Case("Fashion CNN", model, calibrate, test, 255, 0)


def demo() -> Case:
    """What `modelcut demo` runs on."""
    folder = ROOT / "modelcut" / "demo"
    names = ("digits.h5", "digits_train.csv", "digits_test.csv")
    return Case("demo", *(folder / name for name in names), 16, -1)


def lines(rows: int) -> list[str]:
    """The table."""
    heads = ["", "bytes", "accuracy", "recall", "F1", "agree", "ms a row"]
    heads += ["CPU s", "MiB", "bare CPU s", "MiB"]
    found = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * 10]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in (fashion(rows, folder), demo()):
            found += measured(case, folder)
    return found


def measured(case: Case, folder: Path) -> Iterator[str]:
    """The rows of one network."""
    import modelcut

    scale = f"1/{case.most}"
    data = {"label": "label", "scale": scale}
    for kind in TYPES:
        out = folder / f"{case.name}-{kind}.tflite"
        flags = ["--calibrate", case.calibrate, "--samples", SAMPLES, "--scale", scale]
        flags = flags if kind in ("int8", "int16x8") else []
        ours = run("-m", "modelcut", "export", case.model, "-o", out, "--type", kind, *flags, "-q")
        bare = None
        if kind != "int4":
            given = (kind, case.calibrate, SAMPLES, case.most, case.label)
            bare = run("-c", BARE, case.model, folder / "bare.tflite", *given)
        report = modelcut.evaluate(out, case.test, against=case.model, data=data)
        got = report.evaluation
        if kind == TYPES[0]:
            yield _row(f"**{case.name}**, Keras `.h5`", case.model, got.before, None, None, None)
        yield _row(kind, out, got.after, got.agreement, ours, bare)


def _row(name, path, measured, agreement, ours, bare) -> str:
    metrics = measured["metrics"]
    cells = [name, f"{path.stat().st_size:,}"]
    cells += [f"{metrics[key]:.4f}" for key in ("accuracy", "recall_macro", "f1_macro")]
    cells.append(f"{agreement['top1']:.4f}" if agreement else "–")
    cells.append(f"{measured['latency']['median_ms']:.3f}")
    for used in (ours, bare):
        cells += [f"{used[0]:.1f}", f"{used[1]:.0f}"] if used else ["–", "–"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    print("\n".join(lines(parser.parse_args().rows)))


if __name__ == "__main__":
    main()

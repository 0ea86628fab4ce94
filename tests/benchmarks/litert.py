"""A Fashion-MNIST network as a `.tflite` of every type, beside Keras: a Markdown table.

    python tests/benchmarks/litert.py [--rows 2000]

Trains a small CNN once (kept in `.cache/litert`). Each type is exported by the real command line
and evaluated on test rows beside the Keras network, both a row at a time for the latency. CPU
seconds and memory of the export stand beside those of a bare script that loads the network and
calls TensorFlow's converter.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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

source, target, kind, rows, samples = sys.argv[1:]
model = keras.models.load_model(source, compile=False)
call = tf.function(lambda x: model(x, training=False))
function = call.get_concrete_function(tf.TensorSpec((1, 28, 28, 1)))
frozen = convert_variables_to_constants_v2(function)
converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
if kind != "float32":
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
if kind == "float16":
    converter.target_spec.supported_types = [tf.float16]
if kind.startswith("int"):
    pixels = np.loadtxt(rows, "float32", delimiter=",", skiprows=1, max_rows=int(samples))
    rows = (pixels[:, 1:] / 255).reshape(-1, 1, 28, 28, 1)
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


def prepared(rows: int, folder: Path) -> tuple[Path, Path, Path]:
    """The network, rows to calibrate on, and rows to test on."""
    from materials import images

    found = images("fashion")
    model = CACHE / "fashion.h5"
    if not model.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "train.npz", x=found["train_x"], y=found["train_y"])
        run("-c", TRAIN, folder / "train.npz", CACHE / "part.h5")
        (CACHE / "part.h5").rename(model)
    calibrate = table(found["train_x"][:1000], found["train_y"][:1000], folder / "calibrate.csv")
    return model, calibrate, table(found["test_x"][:rows], found["test_y"][:rows], folder / "t.csv")


def lines(rows: int) -> list[str]:
    """The table."""
    from modelcut import formats, networks
    from modelcut.data import DataOptions
    from modelcut.job import Trust
    from modelcut.recipe import Head, Recipe

    head = Head(data=DataOptions(label="label", scale="1/255"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, calibrate, test = prepared(rows, folder)
        heads = ["", "bytes", "accuracy", "recall", "F1", "agree", "ms a row"]
        heads += ["CPU s", "MiB", "bare CPU s", "MiB"]
        found = ["| " + " | ".join(heads) + " |"]
        found.append("|---|" + "--:|" * 10)
        first = True
        for kind in TYPES:
            out = folder / f"{kind}.tflite"
            flags = ["--calibrate", calibrate, "--samples", SAMPLES, "--scale", "1/255"]
            flags = flags if kind in ("int8", "int16x8") else []
            call = ("-m", "modelcut", "export", model, "-o", out, "--type", kind, *flags, "-q")
            ours = run(*call)
            bare = None
            if kind != "int4":
                bare = run("-c", BARE, model, folder / "bare.tflite", kind, calibrate, SAMPLES)
            pair = [(path, formats.open_model(path)) for path in (model, out)]
            got = networks.evaluate(Recipe((), head), test, pair, Trust())
            if first:
                found.append(_row("Keras, `.h5`", model, got["before"], None, None, None))
                first = False
            found.append(_row(kind, out, got["after"], got["agreement"], ours, bare))
    return found


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

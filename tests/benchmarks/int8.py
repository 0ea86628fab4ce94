"""int8 `.tflite` files beside TensorFlow's own converter, with the same calibration samples.

    python tests/benchmarks/int8.py [--networks demo depthwise resnet-20 lenet-5] [--seeds 0 1 2]
        [--samples 500] [--test 10000] [--out FILE.md]

The demo's network comes with modelcut; the others are those of `few_bits.py` (Fashion-MNIST), one
of each seed, kept in `.cache/few_bits`. The seed chooses the calibration samples, too. Ours is the
real command line: `export --type int8`, and `run` with `recipes/microcontroller.yaml`, whose inputs
and outputs stay floats here. The bare script loads the
network and calls the converter. What LiteRT's interpreter gives for the test samples is compared
with the labels. Calibration samples are of the training set; no setting is chosen by the test set.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks"), str(ROOT)]

from litert import BARE, run  # noqa: E402
from seeds import Row, medians, shown  # noqa: E402

DEMO = ROOT / "modelcut" / "demo"
RECIPE = ROOT / "recipes" / "microcontroller.yaml"


class Case(NamedTuple):
    """A network with its rows.

    Attributes:
        model: its file.
        calibrate: CSV of exactly the calibration samples, a column `label` first.
        x, y: test samples, scaled, and their labels.
        most: the largest value of an input, by which it is divided.
    """

    model: Path
    calibrate: Path
    x: np.ndarray
    y: np.ndarray
    most: int


def table(pixels: np.ndarray, labels: np.ndarray, path: Path) -> Path:
    """Rows as a CSV, the label first."""
    flat = pixels.reshape(len(pixels), -1)
    names = ",".join(["label", *(f"p{i}" for i in range(flat.shape[1]))])
    np.savetxt(path, np.column_stack([labels, flat]), "%d", ",", header=names, comments="")
    return path


def case(name: str, seed: int, samples: int, tests: int, folder: Path) -> Case:
    """One of the networks."""
    rng = np.random.default_rng(seed)
    if name == "demo":
        train, test = (
            np.loadtxt(DEMO / f"digits_{part}.csv", delimiter=",", skiprows=1)
            for part in ("train", "test")
        )
        chosen = train[rng.permutation(len(train))[:samples]]
        path = table(chosen[:, :-1], chosen[:, -1], folder / "demo.csv")
        x = (test[:, :-1] / 16).astype("float32").reshape(-1, 8, 8, 1)
        return Case(DEMO / "digits.h5", path, x, test[:, -1], 16)
    import few_bits
    from materials import images

    data = images("fashion")
    model = few_bits.trained(name, seed, data)
    chosen = rng.choice(len(data["train_x"]), samples, replace=False)
    path = table(data["train_x"][chosen], data["train_y"][chosen], folder / "fashion.csv")
    x = data["test_x"][:tests].reshape(-1, 28, 28, 1).astype("float32") / 255
    return Case(model, path, x, data["test_y"][:tests], 255)


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    """What LiteRT's interpreter gives."""
    from modelcut.engines.litert.network import LiteRTNetwork

    network = LiteRTNetwork(path)
    name = network.inputs[0].name
    return np.concatenate(
        [network.predict({name: x[at : at + 500]})[0] for at in range(0, len(x), 500)]
    )


def made(one: Case, samples: int, folder: Path) -> Iterator[tuple[str, Path, float]]:
    """Name, file and CPU seconds of each way; the bare converter between ours."""
    data = ["--scale", f"1/{one.most}", "--label", "label"]
    data += ["--calibrate", one.calibrate, "--samples", samples, "--force", "-q", "--no-report"]
    out = folder / "float32.tflite"
    seconds, _ = run("-m", "modelcut", "export", one.model, "-o", out, "--force", "-q")
    yield "float32", out, seconds
    out = folder / "ours.tflite"
    seconds, _ = run("-m", "modelcut", "export", one.model, "-o", out, "--type", "int8", *data)
    yield "modelcut export --type int8", out, seconds
    out = folder / "bare.tflite"
    seconds, _ = run("-c", BARE, one.model, out, "int8", one.calibrate, samples, one.most, 0)
    yield "TensorFlow's converter", out, seconds
    out = folder / "recipe.tflite"
    recipe = ["--recipe", RECIPE, "--io", "float32", "--set", "export.c_array=false"]
    seconds, _ = run("-m", "modelcut", "run", one.model, "-o", out, *recipe, *data)
    yield "microcontroller.yaml", out, seconds


def rows(name: str, one: Case, samples: int, folder: Path) -> Iterator[Row]:
    """The table's rows of one network."""
    first, plain = np.zeros(0), 0.0
    for what, path, seconds in made(one, samples, folder):
        found = outputs(path, one.x)
        accuracy = 100 * float((found.argmax(axis=1) == one.y).mean())
        if not first.size:
            first, plain = found, accuracy
            yield Row(name, what, accuracy, seconds=seconds)
            continue
        noise = float(np.square(found - first).sum())
        ratio = 10 * math.log10(np.square(first).sum() / noise) if noise else None
        yield Row(name, what, accuracy, plain - accuracy, seconds, ratio)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = ["demo", "depthwise", "resnet-20", "lenet-5"]
    parser.add_argument("--networks", nargs="+", default=networks)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for name, seed in itertools.product(options.networks, options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            one = case(name, seed, options.samples, options.test, Path(folder))
            found += shown((seed, row) for row in rows(name, one, options.samples, Path(folder)))
        if options.out:
            options.out.write_text(medians(found), encoding="utf-8")
    print(medians(found))


if __name__ == "__main__":
    main()

"""int8 `.tflite` files beside TensorFlow's own converter, with the same calibration samples.

    python tests/benchmarks/int8.py [--networks demo depthwise resnet-20 lenet-5] [--samples 500]
        [--test 10000] [--out FILE.md]

The demo's network comes with modelcut; the others are those of `few_bits.py` (Fashion-MNIST), kept
in `.cache/few_bits`. Ours is the real command line: `export --type int8`, and `run` with
`recipes/microcontroller.yaml`, whose inputs and outputs stay floats here. The bare script loads the
network and calls the converter. What LiteRT's interpreter gives for the test samples is compared
with the labels. Calibration samples are of the training set; no setting is chosen by the test set.
"""

from __future__ import annotations

import argparse
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


def case(name: str, samples: int, tests: int, folder: Path) -> Case:
    """One of the networks."""
    rng = np.random.default_rng(0)
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
    model = few_bits.trained(name, 0, data)
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


def rows(name: str, one: Case, samples: int, folder: Path) -> Iterator[str]:
    """The table's rows of one network."""
    right: dict[str, np.ndarray] = {}
    first = np.zeros(0)
    for what, path, seconds in made(one, samples, folder):
        found = outputs(path, one.x)
        right[what] = found.argmax(axis=1) == one.y
        first = first if first.size else found
        plain = right["float32"]
        lost = 100 * (plain.mean() - right[what].mean())
        # Of the difference of two fractions on the same samples.
        error = 100 * math.sqrt((plain != right[what]).sum()) / len(one.y)
        noise = float(np.square(found - first).sum())
        ratio = f"{10 * math.log10(np.square(first).sum() / noise):.1f}" if noise else "–"
        cells = [name, what, f"{100 * right[what].mean():.2f}", f"{lost:+.2f} ± {error:.2f}"]
        yield "| " + " | ".join([*cells, ratio, f"{seconds:.1f}"]) + " |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = ["demo", "depthwise", "resnet-20", "lenet-5"]
    parser.add_argument("--networks", nargs="+", default=networks)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["| network | | % | points lost | outputs, dB | CPU s |", "|---|---|--:|--:|--:|--:|"]
    print("\n".join(lines), flush=True)
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            one = case(name, options.samples, options.test, Path(folder))
            for line in rows(name, one, options.samples, Path(folder)):
                lines.append(line)
                print(line, flush=True)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""4-bit weights and 8-bit activations, before and after quantization-aware fine-tuning.

    python tests/benchmarks/integers.py [--networks depthwise lenet-5 resnet-20]
        [--seeds 0 1 2] [--rows 20000] [--epochs 2] [--bits 4] [--test 10000] [--out FILE.md]

The networks of `few_bits.py` (Fashion-MNIST), kept in `.cache/few_bits`, one of each seed, which
chooses the training and calibration images, too. All by the command line:
`run` with gptq and both corrections to a packed file, without and with
`finetune: {activations: {bits: 8}}` on so many training images; `export --type int8` makes a
`.tflite` of it, whose kernels keep their levels. Both simulated integers and what LiteRT's
interpreter gives are measured on test images, at which nothing else looks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks"), str(ROOT)]

import few_bits  # noqa: E402
from int8 import outputs, table  # noqa: E402
from litert import run  # noqa: E402
from materials import images  # noqa: E402
from seeds import Row, medians, shown  # noqa: E402

RECIPE = """steps:
  - quantize: linear
    bits: {bits}
    rounding: gptq
    range: output
    correct: both
{finetune}"""
FINETUNE = """  - finetune:
      activations: {{bits: 8}}
      epochs: {epochs}
      learning_rate: {rate}
      distill: {{weight: 0.5}}
"""


def measured(path: Path) -> dict[str, Any]:
    """The evaluation in the report beside a file."""
    report = json.loads(path.with_name(f"{path.stem}.report.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = report["evaluation"]
    return found


def rows(name: str, seed: int, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """The table's rows of one network."""
    data = images("fashion")
    model = few_bits.trained(name, seed, data)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(data["train_x"]), options.rows, replace=False)
    train = table(data["train_x"][chosen], data["train_y"][chosen], folder / "train.csv")
    some = table(data["train_x"][chosen[:500]], data["train_y"][chosen[:500]], folder / "some.csv")
    count = options.test
    test = table(data["test_x"][:count], data["test_y"][:count], folder / "test.csv")
    x = data["test_x"][:count].reshape(-1, 28, 28, 1).astype("float32") / 255
    y = data["test_y"][:count]
    common = ["--scale", "1/255", "--label", "label", "--force", "-q"]
    tune = FINETUNE.format(epochs=options.epochs, rate=options.rate)
    plain = 0.0
    for finetune in ("", tune):
        what = f"weights of {options.bits} bits" + (", fine-tuned" if finetune else "")
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(bits=options.bits, finetune=finetune), encoding="utf-8")
        packed, lite = folder / "small.mcut", folder / "small.tflite"
        call = ["run", model, "-r", recipe, "-o", packed, "--test", test, "--calibrate", some]
        seconds, _ = run("-m", "modelcut", *call, "--train", train, *common)
        found = measured(packed)
        if not finetune:
            plain = _percent(found["before"])
            yield Row(name, "floats", plain)
        after = _percent(found["after"])
        yield Row(name, what, after, plain - after, seconds)
        if "simulated" in found:
            now = _percent(found["simulated"])
            yield Row(name, f"{what}; activations of 8 bits, simulated", now, plain - now)
        more = ["--type", "int8", "--calibrate", some, "--samples", 500, "--no-report"]
        seconds, _ = run("-m", "modelcut", "export", packed, "-o", lite, *more, *common)
        now = 100 * float((outputs(lite, x).argmax(axis=1) == y).mean())
        yield Row(name, f"{what}; activations of 8 bits, `.tflite`", now, plain - now, seconds)


def _percent(evaluation: dict[str, Any]) -> float:
    return 100 * float(evaluation["metrics"]["accuracy"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["depthwise", "lenet-5", "resnet-20"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for name, seed in itertools.product(options.networks, options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found += shown((seed, row) for row in rows(name, seed, options, Path(folder)))
        if options.out:
            options.out.write_text(medians(found), encoding="utf-8")
    print(medians(found))


if __name__ == "__main__":
    main()

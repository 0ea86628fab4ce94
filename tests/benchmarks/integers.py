"""4-bit weights and 8-bit activations, before and after quantization-aware fine-tuning.

    python tests/benchmarks/integers.py [--networks depthwise lenet-5 resnet-20] [--rows 20000]
        [--epochs 2] [--bits 4] [--test 10000] [--out FILE.md]

The networks of `few_bits.py` (Fashion-MNIST), kept in `.cache/few_bits`. All by the command line:
`run` with gptq and both corrections to a packed file, without and with
`finetune: {activations: {bits: 8}}` on so many training images; `export --type int8` makes a
`.tflite` of it, whose kernels keep their levels. Both simulated integers and what LiteRT's
interpreter gives are measured on test images, at which nothing else looks.
"""

from __future__ import annotations

import argparse
import json
import math
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


def rows(name: str, options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table's rows of one network."""
    data = images("fashion")
    model = few_bits.trained(name, 0, data)
    chosen = np.random.default_rng(0).choice(len(data["train_x"]), options.rows, replace=False)
    train = table(data["train_x"][chosen], data["train_y"][chosen], folder / "train.csv")
    some = table(data["train_x"][chosen[:500]], data["train_y"][chosen[:500]], folder / "some.csv")
    count = options.test
    test = table(data["test_x"][:count], data["test_y"][:count], folder / "test.csv")
    x = data["test_x"][:count].reshape(-1, 28, 28, 1).astype("float32") / 255
    y = data["test_y"][:count]
    common = ["--scale", "1/255", "--label", "label", "--force", "-q"]
    tune = FINETUNE.format(epochs=options.epochs, rate=options.rate)
    first = np.zeros(0)
    for what, finetune in (("", ""), (", fine-tuned", tune)):
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(bits=options.bits, finetune=finetune), encoding="utf-8")
        packed, lite = folder / "small.mcut", folder / "small.tflite"
        call = ["run", model, "-r", recipe, "-o", packed, "--test", test, "--calibrate", some]
        seconds, _ = run("-m", "modelcut", *call, "--train", train, *common)
        found = measured(packed)
        if not finetune:
            plain = found["before"]["metrics"]["accuracy"]
            yield f"| {name} | floats | {100 * plain:.2f} | | |"
            floats = folder / "floats.tflite"
            run("-m", "modelcut", "export", model, "-o", floats, "--force", "-q", "--no-report")
            first = outputs(floats, x).argmax(axis=1) == y
        after = found["after"]["metrics"]["accuracy"]
        weights = f"weights of {options.bits} bits{what}"
        yield f"| | {weights} | {100 * after:.2f} | {100 * (plain - after):+.2f} | {seconds:.0f} |"
        if "simulated" in found:
            now = found["simulated"]["metrics"]["accuracy"]
            cells = f"{100 * now:.2f} | {100 * (plain - now):+.2f}"
            yield f"| | …, activations of 8 bits, simulated | {cells} | |"
        more = ["--type", "int8", "--calibrate", some, "--samples", 500, "--no-report"]
        seconds, _ = run("-m", "modelcut", "export", packed, "-o", lite, *more, *common)
        right = outputs(lite, x).argmax(axis=1) == y
        lost = 100 * (first.mean() - right.mean())
        error = 100 * math.sqrt((first != right).sum()) / len(y)
        cells = f"{100 * right.mean():.2f} | {lost:+.2f} ± {error:.2f} | {seconds:.0f}"
        yield f"| | …, activations of 8 bits, `.tflite` | {cells} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["depthwise", "lenet-5", "resnet-20"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["| network | | % | points lost | CPU s |", "|---|---|--:|--:|--:|"]
    print("\n".join(lines), flush=True)
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            for line in rows(name, options, Path(folder)):
                lines.append(line)
                print(line, flush=True)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

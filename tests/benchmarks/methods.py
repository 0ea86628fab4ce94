"""The file size and the error of every method on one model, as a Markdown table.

    python tests/benchmarks/methods.py [MODEL] [--test CSV] [--label label] [--scale 1/16]

Without arguments: the demo's network and its test data. Each row is the file that the real command
line would write; accuracy, where a CSV is given, is that of the file. A column for another kind of
file is one more entry of `FILES`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelcut.errors import ModelcutError
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.recipe import recipe
from modelcut.recipe.recipe import Recipe
from modelcut.recipe.yaml_text import loads

DEMO = Path(pipeline.__file__).parents[1] / "demo"

PRUNE = "prune: magnitude\n    sparsity: 0.5\n    scope: layer"
METHODS = {
    "as it is, deflated": "prune: magnitude\n    threshold: 0",
    "prune magnitude, half": PRUNE,
    "prune magnitude, 2:4": "prune: magnitude\n    pattern: '2:4'",
    "quantize float16": "quantize: float16",
    "quantize bfloat16": "quantize: bfloat16",
    "quantize linear, 8 bits": "quantize: linear",
    "quantize linear, 4 bits": "quantize: linear\n    bits: 4\n    range: mse",
    "… groups of 64": "quantize: linear\n    bits: 4\n    group: 64",
    "… 4 bits on average": "quantize: linear\n    average_bits: 4\n    range: mse",
    "quantize binary": "quantize: binary",
    "… 3 bases": "quantize: binary\n    bases: 3",
    "quantize ternary": "quantize: ternary",
    "quantize cluster, 16 values": "quantize: cluster",
    "… traded for bits": "quantize: cluster\n    entropy_weight: 0.01",
    "pruned, then linear 4 bits": f"{PRUNE}\n  - quantize: linear\n    bits: 4\n    range: mse",
    "pruned, then cluster": f"{PRUNE}\n  - quantize: cluster",
    "pruned, then cluster, traded": f"{PRUNE}\n  - quantize: cluster\n    entropy_weight: 0.01",
}

FILES: dict[str, tuple[str | None, str]] = {
    ".h5": ("fast", "small.h5"),
    ".h5, best": ("best", "small.h5"),
    ".mcut": (None, "small.mcut"),
}
"""Heading -> compression (None: the format's own), and a name whose suffix says the format."""


def rows(model: Path, test: Path | None, data: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each method: name, bytes of each kind of file, bits, error, accuracy."""
    for name, steps in METHODS.items():
        made: Recipe = recipe.parse(loads(f"steps:\n  - {steps}\n", name))
        if data:
            made = Recipe(made.steps, type(made.head).model_validate({"data": data}))
        sizes, report = [], {}
        with tempfile.TemporaryDirectory() as folder:
            for index, (compression, file) in enumerate(FILES.values()):
                job = Job(
                    model,
                    made,
                    Path(folder) / f"{index}-{file}",
                    test=test if index == 0 else None,
                    compression=compression,  # type: ignore[arg-type]
                    report=False,
                )
                found = pipeline.run(job).to_dict()
                report = report or found
                sizes.append(found["output"]["bytes"])
        yield (name, *(f"{size:,}" for size in sizes), *_measures(report))


def _measures(report: dict[str, Any]) -> Iterator[str]:
    bits = report["ledger"][-1]["bits_per_weight"]
    yield f"{bits:.2f}"
    errors = [
        change["error"]
        for layer in report["layers"]
        for tensor in layer["tensors"]
        for change in tensor["changes"]
    ]
    yield f"{max(errors, default=0):.3f}"
    if report["evaluation"]:
        yield f"{report['evaluation']['after']['metrics']['accuracy']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=DEMO / "digits.h5")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--label", default="label")
    parser.add_argument("--scale", default="1/16")
    options = parser.parse_args()
    test = options.test
    if options.model == DEMO / "digits.h5" and test is None:
        test = DEMO / "digits_test.csv"
    data = {"label": options.label, "scale": options.scale} if test else {}
    columns = ("method", *FILES, "bits a weight", "largest error")
    columns = (*columns, "accuracy") if test else columns
    print("| " + " | ".join(columns) + " |\n|---" + "|--:" * (len(columns) - 1) + "|")
    for row in rows(options.model, test, data):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ModelcutError as error:
        raise SystemExit(f"{error.message}: {error.hint}") from None

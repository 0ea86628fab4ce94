"""LeNet on MNIST and Fashion-MNIST: how small, at which error, beside what others reported.

    python tests/benchmarks/lenet.py [ROW …] [--seeds 0 1 2] [--keep]      # measures rows
    python tests/benchmarks/lenet.py --choose ROW [--recipe FILE]          # never sees the test set
    python tests/benchmarks/lenet.py --table                               # what was measured last

A row is a network, a data set and a recipe of `recipes/`. Each seed trains a dense network of its
own (kept in `.cache/lenet`), applies the recipe to it and looks at the test set once, for both.
The ratio is the float32 bytes of all parameters by the bytes of the packed file. With `--keep` the
result goes to `lenet.json` beside this file, of which the table in `modelcut docs benchmarks` is
made.

`--choose` does the same with the first 50,000 training rows, judged by the last 10,000.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "lenet"
RESULTS = Path(__file__).with_suffix(".json")
SPLIT = 50_000
sys.path.insert(0, str(ROOT / "tests"))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        network, data: what is compressed.
        recipe: of `recipes/`.
        reference: what others reported.
        ratio: that is to be reached, at least.
        error: of the test set in %, at most; or, with `lost`, points more than the dense network.
    """

    network: str
    data: str
    recipe: str
    reference: str
    ratio: float
    error: float
    lost: bool = False

    @property
    def limit(self) -> str:
        return f"≤ {self.error} points lost" if self.lost else f"≤ {self.error} %"

    def held(self, found: dict[str, float]) -> bool:
        error = found["lost" if self.lost else "error"]
        return found["ratio"] >= self.ratio and error <= self.error + 1e-9


ROWS = {
    "300-100": Row(
        "lenet-300-100", "mnist", "lenet-300-100",
        "Deep Compression 40× (1.64 → 1.58 %)", 80, 1.58,
    ),
    "300-100-smaller": Row(
        "lenet-300-100", "mnist", "lenet-300-100-smaller",
        "Bayesian compression, about 59×", 110, 1.8,
    ),
    "5": Row(
        "lenet-5", "mnist", "lenet-5",
        "Deep Compression 39× (0.80 → 0.74 %), DeepCABAC 115×", 150, 0.74,
    ),
    "5-smaller": Row(
        "lenet-5", "mnist", "lenet-5-smaller", "Bayesian compression 419× (1.0 %)", 420, 1.0,
    ),
    "300-100-fashion": Row(
        "lenet-300-100", "fashion", "lenet-300-100-fashion",
        "tfmot, then nncodec 31.7× (0.35 points lost)", 50, 0.3, lost=True,
    ),
    "5-fashion": Row(
        "lenet-5", "fashion", "lenet-5-fashion",
        "tfmot, then nncodec 76.3× (0.34 points lost)", 120, 0.3, lost=True,
    ),
}  # fmt: skip
NAMES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
DATA = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
BASELINES = {
    "lenet-300-100 mnist": "epochs: 40, batch_size: 256, learning_rate: 2.e-3, optimizer: adamw, "
    "weight_decay: 0.05, augment: {shift: 1, image: [28, 28]}",
    "lenet-5 mnist": "epochs: 7, learning_rate: 1.5e-3, optimizer: adamw, weight_decay: 0.05, "
    "augment: {shift: 1}",
    "lenet-300-100 fashion": "epochs: 25, batch_size: 256, optimizer: adamw, weight_decay: 0.1",
    "lenet-5 fashion": "epochs: 8, optimizer: adamw, weight_decay: 0.1",
}


def run(*arguments: object) -> None:
    """modelcut, in a process of its own; a failed gate is no error here."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "modelcut", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT)
    if done.returncode not in (0, 1):
        raise SystemExit(f"modelcut ended with {done.returncode}")


def tables(data: str, *, choose: bool = False) -> tuple[Path, Path]:
    """The rows that train and those that judge, as CSV files."""
    from materials import images

    names = ("fit", "val") if choose else ("train", "test")
    paths = CACHE / f"{data}_{names[0]}.csv", CACHE / f"{data}_{names[1]}.csv"
    if not all(path.exists() for path in paths):
        CACHE.mkdir(parents=True, exist_ok=True)
        found = images(data)
        x, y = found["train_x"], found["train_y"]
        parts = [(x, y), (found["test_x"], found["test_y"])]
        if choose:
            parts = [(x[:SPLIT], y[:SPLIT]), (x[SPLIT:], y[SPLIT:])]
        for path, (images_, labels) in zip(paths, parts, strict=True):
            pixels = images_.reshape(len(images_), -1)
            rows = np.concatenate([labels[:, None], pixels], axis=1)
            header = ",".join(["label", *(f"p{i}" for i in range(pixels.shape[1]))])
            scratch = path.with_suffix(".part")
            np.savetxt(scratch, rows, "%d", ",", header=header, comments="")
            scratch.rename(path)
    return paths


def untrained(network: str, path: Path, seed: int) -> None:
    """A fresh network, as Keras starts it."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    if network == "lenet-300-100":
        parts = [
            keras.Input((784,)),
            layers.Dense(300, activation="relu", name="first"),
            layers.Dense(100, activation="relu", name="second"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    else:
        parts = [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="dense"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    keras.Sequential(parts, name=network.replace("-", "_")).save(path)


def dense(row: Row, seed: int, *, choose: bool = False) -> Path:
    """The dense network, trained."""
    mark = "-fit" if choose else ""
    path = CACHE / f"{row.network}-{row.data}-{seed}{mark}.h5"
    if not path.exists():
        train, _ = tables(row.data, choose=choose)
        start = CACHE / f"{row.network}-{seed}-untrained.h5"
        untrained(row.network, start, seed)
        recipe = path.with_suffix(".yaml")
        recipe.write_text(
            f"seed: {seed}\ndata: {{label: label, scale: 1/255}}\nsteps:\n"
            f"  - finetune: {{{BASELINES[f'{row.network} {row.data}']}, validation: 0}}\n"
        )
        scratch = path.with_name(f"part-{path.name}")
        run("run", start, "--recipe", recipe, "--train", train, "-o", scratch, "--force",
            "--quiet", "--compression", "none")  # fmt: skip
        scratch.rename(path)
        scratch.with_suffix(".report.json").rename(path.with_suffix(".report.json"))
    return path


def measure(row: Row, seed: int, recipe: Path, *, choose: bool = False) -> dict[str, float]:
    """One dense network through the recipe."""
    train, test = tables(row.data, choose=choose)
    before = dense(row, seed, choose=choose)
    out = before.with_name(f"{before.stem}-{recipe.stem}.mcut")
    start = time.monotonic()
    run("run", before, "--recipe", recipe, "--train", train, "--test", test, "--seed", seed,
        "-o", out, "--force", "--quiet")  # fmt: skip
    seconds = time.monotonic() - start
    report = json.loads(out.with_suffix(".report.json").read_text())
    evaluation = report["evaluation"]
    size = out.stat().st_size
    return {
        "dense": round(100 * (1 - evaluation["before"]["metrics"]["accuracy"]), 2),
        "error": round(100 * (1 - evaluation["after"]["metrics"]["accuracy"]), 2),
        "bytes": size,
        "ratio": round(report["sizes"]["before"]["parameters"] * 4 / size, 1),
        "seconds": round(seconds),
    }


def middle(found: list[dict[str, float]]) -> dict[str, float]:
    """The median of each number; the seed in the middle need not be the same for all."""
    found = [{**one, "lost": round(one["error"] - one["dense"], 2)} for one in found]
    return {key: float(np.median([one[key] for one in found])) for key in found[0]}


def table(results: dict[str, Any]) -> str:
    """What was measured, beside what others reported, as Markdown."""
    lines = [
        "| network, data | reference | to reach | dense error | error | ratio | bytes | reached |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for name, row in ROWS.items():
        what = f"{NAMES[row.network]}, {DATA[row.data]}"
        goal = f"{row.ratio:g}×, {row.limit}"
        if name not in results:
            lines.append(f"| {what} | {row.reference} | {goal} | | | | | not measured |")
            continue
        seeds = results[name]["seeds"]
        found = middle(list(seeds.values()))
        spread = ", ".join(f"{one['error']:.2f}" for one in seeds.values())
        if row.lost:
            spread += f"; {found['lost']:.2f} lost"
        lines.append(
            f"| {what} | {row.reference} | {goal} | {found['dense']:.2f} % "
            f"| {found['error']:.2f} % ({spread}) | {found['ratio']:.1f}× | {found['bytes']:,.0f} "
            f"| {'yes' if row.held(found) else 'no'} |"
        )
    return "\n".join(lines)


def kept() -> dict[str, Any]:
    """The results that were kept."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--keep", action="store_true", help=f"the result in {RESULTS.name}")
    parser.add_argument("--choose", metavar="ROW", choices=ROWS, help="judge by training rows")
    parser.add_argument("--recipe", type=Path, help="with --choose: the one to try")
    parser.add_argument("--table", action="store_true", help="print what was kept")
    asked = parser.parse_args()
    if asked.table:
        print(table(kept()))
        return
    if asked.choose:
        row = ROWS[asked.choose]
        recipe = asked.recipe or ROOT / "recipes" / f"{row.recipe}.yaml"
        for seed in asked.seeds[:1]:
            print(json.dumps(measure(row, seed, recipe, choose=True)))
        return
    results = kept()
    done: dict[tuple[Any, ...], dict[str, float]] = {}
    for name in asked.rows or ROWS:
        row = ROWS[name]
        found = {}
        for seed in asked.seeds:
            key = (row.network, row.data, row.recipe, seed)
            if key not in done:  # the same recipe may stand in two rows
                recipe = ROOT / "recipes" / f"{row.recipe}.yaml"
                done[key] = measure(row, seed, recipe)
            found[str(seed)] = done[key]
            print(name, f"seed {seed}", json.dumps(found[str(seed)]), file=sys.stderr, flush=True)
        day = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
        results[name] = {"day": day, "seeds": found}
        if asked.keep:
            RESULTS.write_text(json.dumps({**kept(), name: results[name]}, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()

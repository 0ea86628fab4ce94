"""LeNet on MNIST or Fashion-MNIST: how small, at which error.

    python tests/benchmarks/lenet.py [NETWORK …] [--data mnist] [--seeds 0 1 2] [--recipe FILE]

Trains a dense network (kept in `.cache/lenet`), applies `NETWORK.yaml` of this folder to it, and
prints test errors and ratios: the float32 bytes of all parameters by the bytes of the packed file.
Settings must be chosen on a validation part of the training set: the test set is looked at here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "lenet"
sys.path.insert(0, str(ROOT / "tests"))
BASELINE = {
    "lenet-300-100": "{epochs: 40, augment: {shift: 1, image: [28, 28]}, validation: 0}",
    "lenet-5": "{epochs: 15, augment: {shift: 1}, validation: 0}",
}


def run(*arguments: object) -> None:
    """modelcut, in a process of its own; a failed gate is no error here."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "modelcut", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path})
    if done.returncode not in (0, 1):
        raise SystemExit(f"modelcut ended with {done.returncode}")


def tables(data: str) -> tuple[Path, Path]:
    """The training and the test set as CSV files."""
    from materials import images

    paths = CACHE / f"{data}_train.csv", CACHE / f"{data}_test.csv"
    if not all(path.exists() for path in paths):
        CACHE.mkdir(parents=True, exist_ok=True)
        found = images(data)
        for path, part in zip(paths, ("train", "test"), strict=True):
            pixels = found[f"{part}_x"].reshape(len(found[f"{part}_x"]), -1)
            rows = np.concatenate([found[f"{part}_y"][:, None], pixels], axis=1)
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


def dense(network: str, data: str, seed: int) -> Path:
    """The dense network, trained."""
    path = CACHE / f"{network}-{data}-{seed}.h5"
    if not path.exists():
        train, test = tables(data)
        start = CACHE / f"{network}-{seed}-untrained.h5"
        untrained(network, start, seed)
        recipe = CACHE / f"{network}-baseline.yaml"
        recipe.write_text(
            f"seed: {seed}\ndata: {{label: label, scale: 1/255}}\n"
            f"steps:\n  - finetune: {BASELINE[network]}\n"
        )
        scratch = path.with_name(f"part-{path.name}")
        run("run", start, "--recipe", recipe, "--train", train, "--test", test, "-o", scratch,
            "--force", "--quiet", "--compression", "none")  # fmt: skip
        scratch.rename(path)
        scratch.with_suffix(".report.json").rename(path.with_suffix(".report.json"))
    return path


def measure(network: str, data: str, seed: int, recipe: Path, suffix: str) -> dict[str, float]:
    """One dense network through the recipe."""
    train, test = tables(data)
    before = dense(network, data, seed)
    out = CACHE / f"{network}-{data}-{seed}-small{suffix}"
    start = time.monotonic()
    run("run", before, "--recipe", recipe, "--train", train, "--test", test, "--seed", seed,
        "-o", out, "--force", "--quiet")  # fmt: skip
    seconds = time.monotonic() - start
    report = json.loads(out.with_suffix(".report.json").read_text())
    evaluation = report["evaluation"]
    parameters = report["sizes"]["before"]["parameters"] * 4
    return {
        "dense": 100 * (1 - evaluation["before"]["metrics"]["accuracy"]),
        "small": 100 * (1 - evaluation["after"]["metrics"]["accuracy"]),
        "ratio": parameters / out.stat().st_size,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["lenet-300-100"])
    parser.add_argument("--data", choices=["mnist", "fashion"], default="mnist")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--recipe", type=Path, help="another one than NETWORK.yaml of this folder")
    parser.add_argument("--suffix", default=".mcut", help="of the files written")
    asked = parser.parse_args()
    print("| network | seed | dense error % | error % | ratio | seconds |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    for network in asked.networks:
        recipe = asked.recipe or Path(__file__).with_name(f"{network}.yaml")
        found = []
        for seed in asked.seeds:
            row = measure(network, asked.data, seed, recipe, asked.suffix)
            found.append(row)
            shown = f"{row['dense']:.2f} | {row['small']:.2f} | {row['ratio']:.1f}"
            print(f"| {network} | {seed} | {shown} | {row['seconds']:.0f} |", flush=True)
        middle = {key: float(np.median([row[key] for row in found])) for key in found[0]}
        shown = f"{middle['dense']:.2f} | {middle['small']:.2f} | {middle['ratio']:.1f}"
        print(f"| {network} | median | {shown} | {middle['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""What `factorize` gains and loses: Markdown tables.

    python tests/benchmarks/factorized.py throughput [NAME …] [--size 96] [--macs 0.33] [--rounds 7]
    python tests/benchmarks/factorized.py matrix
    python tests/benchmarks/factorized.py accuracy MODEL TRAIN.csv TEST.csv [--rows 1024]
        [--epochs 1] [--scale 1/255]

`throughput`: networks of keras.applications with random weights are factorized by the command line
(`auto`, a budget of `macs`), and original and result take turns on the same 32 samples in Keras, as
`channels.py` measures them. `matrix`: one dense kernel of 25088 × 4096 to rank 256. `accuracy`: a
trained network at half of its multiply-accumulates by each method, with and without samples
(`whiten`), and `auto` with samples after a short fine-tune; only `modelcut eval` looks at TEST.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH = 32


def modelcut(*arguments):
    command = [sys.executable, "-m", "modelcut", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def throughput(given):
    from channels import BUILD, keras_turns, measured

    print("| network | MACs | original, samples/s | factorized | faster | middle half | by CPU |")
    print("|---|---|---|---|---|---|---|")
    for name in given.names or ("VGG16",):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            paths = [folder / "original.keras", folder / "factorized.keras"]
            size = str(given.size)
            subprocess.run([sys.executable, "-c", BUILD, name, size, str(paths[0])], check=True)
            start = time.perf_counter()
            modelcut("factorize", paths[0], "--method", "auto", "--macs", given.macs,
                     "-o", paths[1])  # fmt: skip
            spent = time.perf_counter() - start
            report = json.loads((folder / "factorized.report.json").read_text())
            macs = [report["sizes"][side]["macs"] for side in ("before", "after")]
            shape = (BATCH, given.size, given.size, 3)
            samples = np.random.default_rng(0).normal(size=shape).astype("float32")
            seconds = measured(keras_turns(paths, samples), given.rounds)
            before, after = BATCH / np.median(seconds[..., 0], axis=0)
            ratios = seconds[:, 0] / seconds[:, 1]
            (low, middle, high), (_, cpu, _) = np.percentile(ratios, [25, 50, 75], axis=0).T
            print(
                f"| {name} | {macs[1] / macs[0]:.3f} | {before:.1f} | {after:.1f} "
                f"| {middle:.2f} × | {low:.2f} to {high:.2f} | {cpu:.2f} × |",
                flush=True,
            )
            print(f"{name}: factorized and written in {spent:.1f} s", file=sys.stderr)


def matrix(given):
    from modelcut.steps.factorize._lowrank import decompose, spectral_bound

    del given
    rng = np.random.default_rng(0)
    kernel = 0.01 * rng.standard_normal((25088, 4096), dtype="float32")
    falling = np.geomspace(1, 0.01, 300, dtype="float32")
    left = rng.standard_normal((25088, 300), dtype="float32") * falling
    kernel += 0.01 * left @ rng.standard_normal((300, 4096), dtype="float32")
    start, busy = time.perf_counter(), time.process_time()
    found = decompose(kernel, 256)
    one, two = found.factors(256)
    bound = spectral_bound(found, 256)
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    error = np.linalg.norm(kernel - one @ two) / np.linalg.norm(kernel)
    print("| matrix | rank | seconds | CPU seconds | error | bound of the spectral error |")
    print("|---|---|---|---|---|---|")
    print(f"| 25088 × 4096 | 256 | {wall:.1f} | {cpu:.1f} | {error:.4f} | {bound:.3f} |")


def accuracy(given):
    model, train, test = given.names
    data = ("--scale", given.scale)

    def score(path):
        told = json.loads(modelcut("eval", path, "--test", test, *data, "--json"))
        return told["evaluation"]["after"]["metrics"]["accuracy"]

    print("| method | samples | training | MACs | accuracy | points lost |")
    print("|---|---|---|---|---|---|")
    before = score(model)
    with tempfile.TemporaryDirectory() as place:
        for method in ("auto", "channel", "spatial", "tucker2"):
            for samples in (0, given.rows):
                out = Path(place) / f"{method}{samples}.keras"
                more = ("--whiten", "--rows", samples, "--train", train, *data) if samples else ()
                modelcut("factorize", model, "--method", method, "--macs", given.macs, *more,
                         "-o", out)  # fmt: skip
                row(given, before, out, method, samples, "none", score(out))
        best = Path(place) / f"auto{given.rows}.keras"
        tuned = Path(place) / "tuned.keras"
        modelcut("finetune", best, "--epochs", given.epochs, "--learning-rate", "0.0005",
                 "--train", train, *data, "-o", tuned)  # fmt: skip
        row(given, before, best, best.stem, "", f"{given.epochs} epochs", score(tuned))


def row(given, before, path, method, samples, training, reached):
    report = json.loads(path.with_suffix("").with_suffix(".report.json").read_text())
    sizes = report["sizes"]
    macs = sizes["after"]["macs"] / sizes["before"]["macs"]
    print(f"| {method} | {samples or 'none'} | {training} | {macs:.3f} | {reached:.4f} "
          f"| {100 * (before - reached):.2f} |", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("throughput", "matrix", "accuracy"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--macs", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--scale", default="1/255")
    given = parser.parse_args()
    given.macs = given.macs or {"throughput": "0.33", "accuracy": "0.5"}.get(given.what, "")
    {"throughput": throughput, "matrix": matrix, "accuracy": accuracy}[given.what](given)
    print(f"load average: {', '.join(f'{n:.1f}' for n in os.getloadavg())}", file=sys.stderr)


if __name__ == "__main__":
    main()

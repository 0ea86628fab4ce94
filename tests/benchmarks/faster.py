"""What `recipes/faster.yaml` makes of the demo's network and of one that others trained: a table.

    python tests/benchmarks/faster.py [NAME …] [--rounds 300] [--folder FOLDER]

The third-party network is that of inaSpeechSegmenter for telling speech from music, on the sounds
of `tests/sounds.py`: a half of the rows trains, an eighth of that calibrates, the other half tests.
Latency is that of single samples in LiteRT on one thread, all files of a network taking turns on
the same sample: medians, and beside the ratio to the original in float32 the middle half of the
ratios of neighbouring turns. `--folder` keeps the files, so that a second run only measures.
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

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
sys.path.insert(0, str(TESTS))


def demo(folder):
    """Network, data options, and the CSVs for training, calibration and test."""
    own = ROOT / "modelcut" / "demo"
    train = own / "digits_train.csv"
    return own / "digits.h5", ["--scale", "1/16"], train, train, own / "digits_test.csv"


def speech(folder):
    """As `demo`."""
    from materials import models
    from sounds import rows

    (network,) = models("inaSpeechSegmenter==0.6.8")
    header, *lines = rows().read_text().splitlines()
    np.random.default_rng(0).shuffle(lines)
    half = len(lines) // 2
    parts = {"train": lines[:half], "calibrate": lines[: half // 8], "test": lines[half:]}
    for name, part in parts.items():
        (folder / f"{name}.csv").write_text("\n".join([header, *part]) + "\n")
    return network, [], *(folder / f"{name}.csv" for name in parts)


def modelcut(*arguments):
    command = [sys.executable, "-m", "modelcut", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def turn_of(path):
    """A function that runs one sample in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=1)
    runner.allocate_tensors()
    place = runner.get_input_details()[0]
    rng = np.random.default_rng(0)
    sample = rng.uniform(0, 1, place["shape"]).astype(place["dtype"])

    def turn():
        start = time.perf_counter()
        runner.set_tensor(place["index"], sample)
        runner.invoke()
        return 1000 * (time.perf_counter() - start)

    return turn


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    known = {"demo": demo, "inaSpeechSegmenter": speech}
    parser.add_argument("names", nargs="*", default=known)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print("| network | file | accuracy | MACs | bytes | ms | faster | middle half |")
    print("|---|---|--:|--:|--:|--:|--:|---|")
    for name in given.names:
        with tempfile.TemporaryDirectory() as place:
            folder = (given.folder or Path(place)) / name
            folder.mkdir(parents=True, exist_ok=True)
            network, options, train, calibrate, test = known[name](folder)
            files = {}
            common = ["--label", "label", *options, "--test", test, "--quiet"]
            for kind in ("float32", "int8"):
                files[f"original, {kind}"] = target = folder / f"{kind}.tflite"
                more = ["--calibrate", calibrate] if kind == "int8" else []
                if not target.exists():
                    modelcut("export", network, "--type", kind, *more, *common, "-o", target)
            files["faster.yaml, int8"] = target = folder / "faster.tflite"
            recipe = ROOT / "recipes" / "faster.yaml"
            if not target.exists():
                modelcut("run", network, "-r", recipe, "--train", train, "--calibrate", calibrate,
                         *common, "-o", target)  # fmt: skip
            turns = [turn_of(path) for path in files.values()]
            times = np.array([[turn() for turn in turns] for _ in range(given.rounds + 20)])[20:]
            for (title, path), column in zip(files.items(), times.T, strict=True):
                report = json.loads(path.with_suffix(".report.json").read_text())
                accuracy = report["evaluation"]["after"]["metrics"]["accuracy"]
                macs = report["sizes"]["after"]["macs"]
                low, middle, high = np.percentile(times[:, 0] / column, [25, 50, 75])
                print(
                    f"| {name} | {title} | {accuracy:.4f} | {macs:,} | {path.stat().st_size:,} | "
                    f"{np.median(column):.4f} | {middle:.2f} × | {low:.2f} to {high:.2f} |",
                    flush=True,
                )
    print(f"load average: {', '.join(f'{n:.1f}' for n in os.getloadavg())}", file=sys.stderr)


if __name__ == "__main__":
    main()

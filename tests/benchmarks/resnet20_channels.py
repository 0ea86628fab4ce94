"""Channels of a trained ResNet-20 removed by every criterion, and fine-tuned: Markdown tables.

    python tests/benchmarks/resnet20_channels.py FOLDER [untrained] [half] [quarter]

FOLDER is what `resnet20.py` has written. `untrained`: 30 % of the MACs gone, no training, on 512
samples for the criteria that look at data. `half` and `quarter` of the MACs: `obs`, then
fine-tuning by SGD (flips and shifts by up to 2 pixels) with the epochs of `--epochs`. Accuracies
are those of all 10,000 test samples, in %.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import modelcut

CRITERIA = ("random", "l1", "l2", "bn_scale", "fpgm", "activation", "taylor", "obs")
DATA = {"label": "label", "scale": "1/255"}
KEPT = {"half": 0.5, "quarter": 0.25}


def run(folder, steps, seed=0):
    """The report, and the seconds of wall and of CPU."""
    with tempfile.TemporaryDirectory() as place:
        start, spent = time.time(), time.process_time()
        report = modelcut.run(
            {"version": 1, "data": DATA, "steps": steps},
            folder / "resnet20.keras",
            Path(place) / "pruned.keras",
            train=folder / "train.csv",
            test=folder / "test.csv",
            seed=seed,
        )
        return report, time.time() - start, time.process_time() - spent


def row(title, report, seconds, cpu):
    before, after = (100 * side["metrics"]["accuracy"] for side in
                     (report.evaluation.before, report.evaluation.after))  # fmt: skip
    macs = report.sizes.after.macs / report.sizes.before.macs
    print(f"| {title} | {macs:.3f} | {before:.2f} | {after:.2f} | {after - before:+.2f} | "
          f"{seconds:.0f} ({cpu:.0f}) |", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", default=("untrained", "half", "quarter"))
    parser.add_argument("--criteria", nargs="*", default=CRITERIA)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.02)
    given = parser.parse_args()
    print("| channels | MACs | original | result | points | seconds (of CPU) |")
    print("|---|--:|--:|--:|--:|--:|")
    for part in given.parts:
        if part == "untrained":
            for name in given.criteria:
                step = {"prune": "channels", "macs": 0.7, "criterion": name}
                if name in ("activation", "taylor", "obs"):
                    step["rows"] = given.rows
                row(f"{name}, untrained", *run(given.folder, [step]))
            continue
        tune = {"finetune": {
            "epochs": given.epochs, "optimizer": "sgd", "learning_rate": given.rate,
            "augment": {"shift": 2, "flip": True}, "keep": "last",
        }}  # fmt: skip
        step = {
            "prune": "channels", "macs": KEPT[part], "criterion": "obs", "rows": given.rows
        }  # fmt: skip
        row(f"obs, {part}, {given.epochs} epochs", *run(given.folder, [step, tune]))
    print(f"load average: {', '.join(f'{n:.1f}' for n in os.getloadavg())}", file=sys.stderr)


if __name__ == "__main__":
    main()

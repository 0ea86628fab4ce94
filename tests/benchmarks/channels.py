"""Throughput of networks at half their multiply-accumulates, beside the original: a Markdown table.

    python tests/benchmarks/channels.py [NAME …] [--size 96] [--rounds 7]
        [--engines Keras float32 int8] [--round-to 8] [--folder FOLDER]

Networks of keras.applications with random weights and batches of 32 are pruned by the command line
(`channels`, `macs: 0.5`), and original and result take turns on the same 32 samples: in Keras
(`predict_on_batch`) and in LiteRT (float32, and int8 calibrated on noise; one call for the batch,
all cores). Times are medians; the spread beside them is that of the middle half of the ratios of
neighbouring turns. On a machine that does other work too, the ratio of the CPU seconds is the
better one. `--folder` keeps the files, so that a second run only measures; `--rounds 0` makes them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NAMES = ("VGG16", "ResNet50V2")
BATCH = 32

BUILD = """
import sys, keras
keras.utils.set_random_seed(0)
size = int(sys.argv[2])
start = keras.Input(batch_shape=(32, size, size, 3))
model = getattr(keras.applications, sys.argv[1])(
    weights=None, input_tensor=start, input_shape=(size, size, 3))
model.save(sys.argv[3])
"""


def keras_turns(paths, samples):
    """A function a model that runs the batch in Keras."""
    import keras

    models = [keras.models.load_model(path, compile=False) for path in paths]
    return [lambda m=model: m.predict_on_batch(samples) for model in models]


def litert_turns(paths, samples):
    """A function a model that runs the batch in LiteRT, on a `.tflite`."""
    from ai_edge_litert.interpreter import Interpreter

    turns = []
    for path in paths:
        runner = Interpreter(str(path), num_threads=os.cpu_count())
        runner.allocate_tensors()
        turns.append(lambda r=runner: in_litert(r, samples))
    return turns


def in_litert(runner, samples):
    runner.set_tensor(runner.get_input_details()[0]["index"], samples)
    runner.invoke()


def exported(path, samples, kind):
    """The `.tflite` of a model, beside it; int8 calibrated on four of the samples."""
    target = path.with_name(f"{path.stem}_{kind}.tflite")
    more = []
    if kind == "int8":
        rows = path.with_suffix(".csv")
        flat = samples[:4].reshape(4, -1)
        names = ",".join(f"x{n}" for n in range(flat.shape[1]))
        np.savetxt(rows, flat, fmt="%.3f", delimiter=",", header=names, comments="")
        more = ["--calibrate", rows]
    if not target.exists():
        modelcut("export", path, "--type", kind, *more, "-o", target)
    return target


def modelcut(*arguments):
    command = [sys.executable, "-m", "modelcut", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measured(turns, rounds):
    """Seconds of each turn, of wall and of CPU, (rounds, 2, 2); one round more warms up."""
    seconds = []
    for _ in range(rounds + 1):
        row = []
        for turn in turns:
            start, spent = time.perf_counter(), time.process_time()
            turn()
            row.append((time.perf_counter() - start, time.process_time() - spent))
        seconds.append(row)
    return np.array(seconds[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--engines", nargs="*", default=("Keras", "float32", "int8"))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--round-to", default="")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print("| network | engine | original, samples/s | pruned | faster | middle half | by CPU |")
    print("|---|---|---|---|---|---|---|")
    for name in given.names:
        with tempfile.TemporaryDirectory() as place:
            folder = given.folder or Path(place)
            more = ["--round-to", given.round_to] if given.round_to else []
            paths = [folder / f"{name}.keras", folder / f"{name}_pruned{given.round_to}.keras"]
            if not paths[0].exists():
                call = [sys.executable, "-c", BUILD, name, str(given.size), str(paths[0])]
                subprocess.run(call, check=True)
            if not paths[1].exists():
                start = time.perf_counter()
                modelcut("prune", paths[0], "--method", "channels", "--macs", "0.5", *more,
                         "-o", paths[1])  # fmt: skip
                spent = time.perf_counter() - start
                print(f"{name}: pruned and written in {spent:.1f} s", file=sys.stderr)
            shape = (BATCH, given.size, given.size, 3)
            samples = np.random.default_rng(0).normal(size=shape).astype("float32")
            for engine in given.engines:
                if engine == "Keras":
                    turns = keras_turns(paths, samples) if given.rounds else []
                else:
                    files = [exported(path, samples, engine) for path in paths]
                    turns = litert_turns(files, samples) if given.rounds else []
                if not given.rounds:
                    continue
                seconds = measured(turns, given.rounds)
                before, after = BATCH / np.median(seconds[..., 0], axis=0)
                ratios = seconds[:, 0] / seconds[:, 1]
                (low, middle, high), (_, cpu, _) = np.percentile(ratios, [25, 50, 75], axis=0).T
                title = engine if engine == "Keras" else f"LiteRT {engine}"
                print(
                    f"| {name} | {title} | {before:.1f} | {after:.1f} | {middle:.2f} × "
                    f"| {low:.2f} to {high:.2f} | {cpu:.2f} × |",
                    flush=True,
                )
    print(f"load average: {', '.join(f'{n:.1f}' for n in os.getloadavg())}", file=sys.stderr)


if __name__ == "__main__":
    main()

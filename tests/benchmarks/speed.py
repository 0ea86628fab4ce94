"""Times modelcut alternating with its peers, and against the last kept figures.

    python tests/benchmarks/speed.py [CASE …] [--repeat 3] [--cache FOLDER] [--keep] [--most MB]

Cases: prune, prune-none, 8-bits, cluster, large, small, eval, growth. Each round runs all rows of a
case one after the other, so that what else the machine does hits them alike; figures are medians.
CPU seconds are of a process and its children. `--keep` writes the raw figures to speed.json beside
this file, with the processor's name and the load average. `--table` prints what was kept, as it
stands in `modelcut docs benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

KEPT = Path(__file__).with_suffix(".json")
CLI = [sys.executable, "-m", "modelcut"]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": ""}

KERAS = """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1], compile=False)
kernels = [l for l in model.layers if hasattr(l, "kernel")]
sizes = np.concatenate([np.abs(l.kernel.numpy()).ravel() for l in kernels])
limit = np.partition(sizes, int(0.9 * sizes.size))[int(0.9 * sizes.size)]
for layer in kernels:
    values = layer.kernel.numpy()
    layer.kernel.assign(np.where(np.abs(values) < limit, 0, values))
model.save(sys.argv[2])
"""

BARE = """
import sys, h5py, numpy as np
counts, step = np.zeros(1 << 18, np.int64), 1 << 18
with h5py.File(sys.argv[1]) as old, h5py.File(sys.argv[2], "w") as new:
    names = []
    old.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    total = 0
    for name in names:
        if old[name].ndim > 1:
            bits = old[name][()].reshape(-1).view(np.uint32)
            total += bits.size
            for i in range(0, bits.size, step):
                part = (bits[i : i + step] & 0x7FFFFFFF) >> 13
                counts += np.bincount(part, minlength=1 << 18)
    limit = np.uint32(int(np.searchsorted(np.cumsum(counts), int(0.9 * total))) << 13)
    for name in names:
        values = old[name][()]
        if values.ndim > 1:
            bits = values.reshape(-1).view(np.uint32)
            for i in range(0, bits.size, step):
                bits[i : i + step] *= (bits[i : i + step] & 0x7FFFFFFF) > limit
        new.create_dataset(name, data=values)
"""

PREDICT = """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1], compile=False)
samples = np.load(sys.argv[2])
model.predict(samples["x"], verbose=0)
"""

LENET = """
import sys, keras, numpy as np
from keras import layers as l
keras.Sequential([
    keras.Input((28, 28, 1)), l.Conv2D(20, 5, activation="relu"), l.MaxPooling2D(),
    l.Conv2D(50, 5, activation="relu"), l.MaxPooling2D(), l.Flatten(),
    l.Dense(500, activation="relu"), l.Dense(10, activation="softmax"),
]).save(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.random((10_000, 28, 28, 1), np.float32)
np.savez(sys.argv[2], x=x, y=rng.integers(0, 10, 10_000))
"""

Run = tuple[float, float, float]
"""Wall seconds, CPU seconds, peak MiB."""


def timed(command: Sequence[str]) -> Run:
    """Runs a command once."""
    os.sync()  # modelcut waits for the disk: it shall not wait for what another has written
    start = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2)]
    child = os.posix_spawn(command[0], list(command), ENVIRONMENT, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
    took = time.perf_counter() - start
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def dense(path: Path, layers: Sequence[tuple[int, int]]) -> Path:
    """Keras 2's file of dense layers with random normals, written without Keras."""
    if path.exists():
        return path
    start = {"name": "input", "batch_input_shape": [None, layers[0][0]]}
    entries: list[dict[str, Any]] = [{"class_name": "InputLayer", "config": start}]
    rng = np.random.default_rng(0)
    with h5py.File(path.with_suffix(".part"), "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        root = file.create_group("model_weights")
        for number, (rows, columns) in enumerate(layers):
            config = {"name": f"d{number}", "units": columns}
            entries.append({"class_name": "Dense", "config": config})
            group = root.create_group(f"d{number}")
            names = [f"d{number}/kernel:0", f"d{number}/bias:0"]
            group.attrs["weight_names"] = [name.encode() for name in names]
            kernel = group.create_dataset(names[0], (rows, columns), "f4")
            for at in range(0, rows, 1024):
                shape = (min(1024, rows - at), columns)
                kernel[at : at + 1024] = 0.05 * rng.standard_normal(shape, np.float32)
            group.create_dataset(names[1], data=np.zeros(columns, "f4"))
        root.attrs["layer_names"] = [f"d{number}".encode() for number in range(len(layers))]
        config = {"name": "s", "layers": entries}
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
    path.with_suffix(".part").rename(path)
    return path


def vgg16(cache: Path) -> Path:
    """VGG16's shapes with random weights, 553 MB."""
    path = cache / "vgg16.h5"
    if not path.exists():
        code = "import keras, sys; keras.applications.VGG16(weights=None).save(sys.argv[1])"
        timed([sys.executable, "-c", code, str(path)])
    return path


PRUNE = ["--sparsity", "0.9", "--scope", "global"]


def rows_of(case: str, cache: Path, most: float) -> dict[str, list[str]]:
    """The commands of a case by name; each ends with nothing but its options."""

    def cut(command: str, model: Path, options: Sequence[str], suffix: str = ".h5") -> list[str]:
        where = ["-o", str(cache / f"out{suffix}"), "--force", "-q"]
        return [*CLI, command, str(model), *options, *where]

    def unpack() -> list[str]:
        return cut("unpack", cache / "out.mcut", [])

    def script(code: str) -> list[str]:
        return [sys.executable, "-c", code, str(vgg16(cache)), str(cache / "other.h5")]

    if case == "prune":
        return {
            "modelcut": cut("prune", vgg16(cache), PRUNE),
            "Keras 3: load, prune, save": script(KERAS),
        }
    if case == "prune-none":
        return {
            "modelcut": cut("prune", vgg16(cache), [*PRUNE, "--compression", "none"]),
            "bare NumPy and h5py": script(BARE),
        }
    if case == "8-bits":
        return {"modelcut": cut("quantize", vgg16(cache), ["--bits", "8"])}
    if case == "cluster":
        return {"modelcut": cut("quantize", vgg16(cache), ["--method", "cluster"], ".mcut")}
    if case == "large":
        eight = dense(cache / "eight.h5", [(8192, 8192)] * 8)
        two = dense(cache / "two.h5", [(16384, 16384)] * 2)
        return {
            "2.1 GB in eight tensors": cut("prune", eight, PRUNE),
            "2.1 GB in two tensors": cut("prune", two, PRUNE),
            "…, quantize": cut("quantize", two, ["--bits", "8"]),
            "…, pack": cut("pack", two, [], ".mcut"),
            "…, unpack": unpack(),
        }
    if case == "small":
        return {"modelcut": cut("prune", dense(cache / "small.h5", [(500, 500)]), PRUNE)}
    if case == "eval":
        model, samples = cache / "lenet5.keras", cache / "samples.npz"
        if not samples.exists():
            timed([sys.executable, "-c", LENET, str(model), str(samples)])
        return {
            "modelcut": [*CLI, "eval", str(model), "--test", str(samples), "-q"],
            "Keras 3: load, predict": [sys.executable, "-c", PREDICT, str(model), str(samples)],
        }
    found: dict[str, list[str]] = {}
    for megabytes in (1, 4, 16, 64, 256, 1024, 4096):
        if megabytes > most:
            break
        side = 1024 * max(1, int(megabytes**0.5) // 4)
        count = max(1, round(megabytes * (1 << 20) / (4 * side * side)))
        layers = [(side, side)] * count if megabytes > 1 else [(500, 500)]
        model = dense(cache / f"grown{megabytes}.h5", layers)
        found |= {
            f"prune {megabytes} MB": cut("prune", model, PRUNE),
            f"quantize {megabytes} MB": cut("quantize", model, ["--bits", "8"]),
            f"pack {megabytes} MB": cut("pack", model, [], ".mcut"),
            f"unpack {megabytes} MB": unpack(),
        }
    return found


CASES = ("prune", "prune-none", "8-bits", "cluster", "large", "small", "eval", "growth")


def processor() -> str:
    """Its name, and whether it has instructions for SHA-256."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line for line in text.splitlines() if line.startswith("model name")), "")
    sha = "with" if " sha_ni" in text else "without"
    return f"{name.partition(':')[2].strip()}, {os.cpu_count()} cores, {sha} SHA instructions"


def median(runs: Sequence[Run]) -> list[float]:
    """Of wall seconds, CPU seconds and peak."""
    return [round(statistics.median(run[i] for run in runs), 3) for i in range(3)]


def measure(case: str, cache: Path, repeat: int, most: float) -> dict[str, Any]:
    """All rows of a case, in turn."""
    commands = rows_of(case, cache, most)
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            runs[name].append(timed(command))
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "processor": processor(),
        "load": round(os.getloadavg()[0], 1),
        "runs": {name: [[round(x, 3) for x in run] for run in each] for name, each in runs.items()},
    }


def show(case: str, found: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Prints a case as Markdown, beside what was kept."""
    print(f"\n**{case}** ({found['processor']}; load average {found['load']})\n")
    print("| | wall s | CPU s | peak MiB | CPU × the last row | CPU s before |")
    print("|---|--:|--:|--:|--:|--:|")
    rows = {name: median(runs) for name, runs in found["runs"].items()}
    last = list(rows.values())[-1][1]
    for name, (wall, cpu, peak) in rows.items():
        kept = (before or {"runs": {}})["runs"].get(name)
        old = f"{median(kept)[1]:.2f}" if kept else "–"
        ratio = f"{cpu / last:.2f}" if case.startswith(("prune", "eval")) else ""
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {peak:.0f} | {ratio} | {old} |")
    sys.stdout.flush()


def plot(found: dict[str, Any]) -> None:
    """Prints how CPU seconds grow, as bars on a logarithmic scale: a step is a doubling."""
    rows = {name: median(runs)[1] for name, runs in found["runs"].items()}
    least = min(rows.values())
    print("\n```text\nCPU seconds; a bar is a block longer where the time is twice as long")
    for name, cpu in rows.items():
        eighths = round(8 * math.log2(cpu / least)) + 8
        bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
        print(f"{name:18}{cpu:7.2f}  {bar}")
    print("```")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--most", type=float, default=4096, help="MB of the largest model to grow")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if options.table:
        for case, found in kept.items():
            if case == "growth":
                plot(found)
            else:
                show(case, found, None)
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    for case in options.cases or CASES:
        found = measure(case, options.cache.resolve(), options.repeat, options.most)
        show(case, found, kept.get(case))
        if options.keep:
            kept[case] = found
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()

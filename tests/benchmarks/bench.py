"""Times modelcut beside its peers, in one run, and prints Markdown tables with ratios.

    python tests/benchmarks/bench.py [SECTION …] [--repeat 3] [--cache FOLDER]

Sections: startup, prune, quantize, eval. A row is a process of its own; times are medians of wall
seconds, memory is the peak of resident memory. Absolute times are of this machine: read the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CLI = [sys.executable, "-m", "modelcut"]
# As it is after `pip install`: each module compiled once, not at every start.
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True)
class Row:
    """One process, timed: median seconds, peak bytes, bytes of the file it wrote."""

    name: str
    seconds: float
    peak: int
    written: int = 0


def timed(name: str, command: Sequence[str], repeat: int, out: Path | None = None) -> Row:
    """Runs a command `repeat` times."""
    times, peak = [], 0
    for _ in range(repeat):
        if out is not None:
            out.unlink(missing_ok=True)
        os.sync()  # modelcut waits for the disk: it shall not wait for what another has written
        start = time.perf_counter()
        child = os.posix_spawn(
            command[0],
            list(command),
            ENVIRONMENT,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(child, 0)
        times.append(time.perf_counter() - start)
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            raise SystemExit(f"{name}: ended with {os.waitstatus_to_exitcode(status)}")
        peak = max(peak, usage.ru_maxrss * 1024)
    return Row(name, statistics.median(times), peak, out.stat().st_size if out else 0)


def table(title: str, rows: Sequence[Row]) -> None:
    """Prints rows as Markdown, with each time as a ratio to the first row's."""
    print(f"\n### {title}\n\n| | seconds | × first | peak MB | file MB |\n|---|--:|--:|--:|--:|")
    for row in rows:
        size = f"{row.written / 1e6:.1f}" if row.written else ""
        ratio = row.seconds / rows[0].seconds
        print(f"| {row.name} | {row.seconds:.2f} | {ratio:.2f} | {row.peak / 1e6:.0f} | {size} |")
    sys.stdout.flush()


def vgg16(cache: Path) -> Path:
    """VGG16's shapes with random weights, 553 MB."""
    path = cache / "vgg16.h5"
    if not path.exists():
        code = (
            "import keras, sys; keras.utils.set_random_seed(0);"
            "m = keras.applications.VGG16(weights=None); m.save(sys.argv[1])"
        )
        timed("make", [sys.executable, "-c", code, str(path)], 1)
    return path


KERAS_PRUNE = """
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

TFMOT_PRUNE = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tf_keras, tensorflow_model_optimization as tfmot
model = tf_keras.models.load_model(sys.argv[1], compile=False)
schedule = tfmot.sparsity.keras.ConstantSparsity(0.9, begin_step=0, frequency=1)
pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
pruned.compile(optimizer="sgd", loss="mse")
callback = tfmot.sparsity.keras.UpdatePruningStep()
callback.set_model(pruned); callback.on_train_begin(); callback.on_train_batch_begin(0)
callback.on_epoch_end(0)
tfmot.sparsity.keras.strip_pruning(pruned).save(sys.argv[2])
"""


def startup(cache: Path, repeat: int) -> None:
    """How long until help is on the screen."""
    del cache
    calls = [("bare Python", [sys.executable, "-c", "pass"])]
    calls.append(("import typer, rich", [sys.executable, "-c", "import typer, rich"]))
    calls += [(f"modelcut {name} --help", [*CLI, name, "--help"]) for name in COMMANDS]
    calls.append(("modelcut --help", [*CLI, "--help"]))
    calls.append(("import tensorflow", [sys.executable, "-c", "import tensorflow"]))
    table("Start-up", [timed(name, call, repeat) for name, call in calls])


COMMANDS = ("prune", "quantize", "factorize", "run", "eval", "inspect", "recipe", "demo")


def prune(cache: Path, repeat: int) -> None:
    """Magnitude pruning of VGG16 at 90 %, one threshold."""
    model, out = str(vgg16(cache)), cache / "out.h5"
    options = ["--sparsity", "0.9", "--scope", "global", "-o", str(out), "-q", "--force"]
    keras = [sys.executable, "-c", KERAS_PRUNE, model, str(out)]
    rows = [
        timed("cp", ["/bin/cp", model, str(out)], repeat, out),
        timed("modelcut prune", [*CLI, "prune", model, *options], repeat, out),
        timed(
            "modelcut prune --compression none",
            [*CLI, "prune", model, *options, "--compression", "none"],
            repeat,
            out,
        ),
        timed("Keras 3: load, partition, save", keras, 1, out),
    ]
    if _installed("tensorflow_model_optimization"):
        call = [sys.executable, "-c", TFMOT_PRUNE, model, str(out)]
        rows.append(timed("TensorFlow Model Optimization", call, 1, out))
    out.unlink(missing_ok=True)
    table("Magnitude pruning of VGG16 (553 MB) at 90 %", rows)


def quantize(cache: Path, repeat: int) -> None:
    """Weight quantization of VGG16 by each method."""
    model, out = str(vgg16(cache)), cache / "out.h5"
    rows = [timed("cp", ["/bin/cp", model, str(out)], repeat, out)]
    rows.append(timed("its BLAKE3, on one core", [sys.executable, "-c", HASH, model], repeat))
    for method in QUANTIZERS:
        call = [*CLI, "quantize", model, *method.split(), "-o", str(out), "-q", "--force"]
        rows.append(timed(f"modelcut quantize {method}", call, repeat, out))
    out.unlink(missing_ok=True)
    table("Quantization of VGG16", rows)
    _clustering()


HASH = """
import sys
from pathlib import Path
from modelcut.job.digest import blake3
blake3(Path(sys.argv[1]))
"""

QUANTIZERS = (
    "--bits 8",
    "--bits 4 --per tensor",
    "--method binary",
    "--method ternary",
    "--method cluster",
    "--method float16",
)


def _clustering() -> None:
    """Weight sharing alone, without any file: 25088 × 4096 weights, 16 values."""
    import numpy as np

    from modelcut.arrays.blocks import map_rows
    from modelcut.model.encodings.codebook import Codebook
    from modelcut.steps.quantize import _kmeans

    rng = np.random.default_rng(0)
    values = rng.standard_normal((25088, 4096), np.float32)
    print("\n### 16 shared values for VGG16's largest layer (102.8 M weights)\n")
    print("| start | seconds | CPU seconds | error² / variance |\n|---|--:|--:|--:|")
    for start in ("optimum", "linear", "density", "kmeans++"):
        began, cpu = time.perf_counter(), time.process_time()
        line, _ = _kmeans.line_of(values, zeros=True)
        book = Codebook(_kmeans.clusters(line, 16, start, rng).astype(np.float32))
        shared = np.empty_like(values)

        def one(rows: slice, book: Codebook = book, shared: np.ndarray = shared) -> None:
            shared[rows] = book.project(values[rows], rows)

        map_rows(one, values)
        took, used = time.perf_counter() - began, time.process_time() - cpu
        error = float(np.mean(np.square(shared[::8] - values[::8])))
        print(f"| {start} | {took:.2f} | {used:.2f} | {error:.5f} |", flush=True)


EVAL = """
import sys, time
from pathlib import Path
import numpy as np
from modelcut import formats, networks
from modelcut.job import Trust
from modelcut.recipe import Head, Recipe
import keras
path, csv = Path(sys.argv[1]), Path(sys.argv[2])
rows = np.loadtxt(csv, delimiter=",", skiprows=1, dtype="float32")
images = rows[:, :-1].reshape(-1, 28, 28, 1)
model = keras.models.load_model(path, compile=False)
size = int(sys.argv[3])
model.predict(images[:2 * size], batch_size=size, verbose=0)
best = ours = 1e9
head = Head.model_validate({"data": {"label": "label"}})
for _ in range(3):
    start = time.perf_counter()
    model.predict(images, batch_size=size, verbose=0)
    best = min(best, time.perf_counter() - start)
    network_start = time.perf_counter()
    networks.evaluate(Recipe((), head), csv, [(path, formats.open_model(path))], Trust())
    ours = min(ours, time.perf_counter() - network_start)
print(f"{best:.3f} {ours:.3f} {ours / best:.2f}")
"""


def evaluate(cache: Path, repeat: int) -> None:
    """`eval` on 60,000 rows of a CSV, beside `predict` on the same rows in memory."""
    del repeat
    import subprocess

    import numpy as np

    model, rows = cache / "cnn.h5", cache / "rows.csv"
    if not rows.exists():
        rng = np.random.default_rng(0)
        values = rng.integers(0, 256, (60_000, 785))
        values[:, -1] %= 10
        header = ",".join([f"p{i}" for i in range(784)] + ["label"])
        np.savetxt(rows, values, fmt="%d", delimiter=",", header=header, comments="")
    if not model.exists():
        code = (
            "import keras, sys; L = keras.layers; keras.utils.set_random_seed(0);"
            "keras.Sequential([L.Input((28, 28, 1)), L.Conv2D(32, 3, activation='relu'),"
            "L.MaxPooling2D(), L.Conv2D(64, 3, activation='relu'), L.MaxPooling2D(), L.Flatten(),"
            "L.Dense(128, activation='relu'), L.Dense(10, activation='softmax')]).save(sys.argv[1])"
        )
        timed("make", [sys.executable, "-c", code, str(model)], 1)
    print("\n### eval on 60,000 CSV rows (loading the network and latency included)\n")
    print("| predict, in memory, batch | predict s | modelcut s | ratio |\n|---|--:|--:|--:|")
    for size in (32, 256, 1024):
        call = [sys.executable, "-c", EVAL, str(model), str(rows), str(size)]
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(call, capture_output=True, text=True, check=True, env=env)
        print("| {} | {} | {} | {} |".format(size, *done.stdout.split()), flush=True)


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


SECTIONS: dict[str, Callable[[Path, int], None]] = {
    "startup": startup,
    "prune": prune,
    "quantize": quantize,
    "eval": evaluate,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    for name in options.sections or SECTIONS:
        SECTIONS[name](options.cache, options.repeat)


if __name__ == "__main__":
    main()

"""Packs a pruned VGG16 of 16 shared values and prints what each way of storing it takes.

    python tests/benchmarks/packed.py [--cache FOLDER] [--quick] [--nncodec PYTHON]

Weights are random normals in VGG16's shapes, 90 % of each layer removed, the rest shared 16 values
(so that nothing but the count of each value can be used: the hardest case for a coder). Packing
and unpacking are commands of their own, whose peak memory is given; the pace is that of the
largest layer, in MB of float32 a CPU second, best of five, beside that of the range coder's
library alone: codes as it wants them, one fixed model, nothing read or written. `--quick` leaves
out gzip -9, zstd -19, `--compression best`, TensorFlow Lite and nncodec, which take minutes.

nncodec (ISO/IEC 15938-17) wants a NumPy and a PyTorch of its own, so it runs in an environment of
its own (`python -m venv .cache/benchmarks/nncodec`, then `pip install nncodec` there; or
`--nncodec PYTHON`). It gets the codes as whole numbers, which it codes without loss, as we do.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import zstandard
from bench import CLI, timed, vgg16

from modelcut import steps
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.formats.mcut import payload
from modelcut.formats.mcut.coding import ranged, symbols
from modelcut.formats.mcut.coding.bits import ByteReader
from modelcut.formats.mcut.sink import Sink
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.model.encoding import Sparse
from modelcut.recipe.recipe import Recipe

ROUNDS = 5
CODERS: tuple[symbols.Coder, ...] = ("huffman", "range", "best")


def entropy(counts: np.ndarray) -> float:
    """Bits of a stream of symbols that occur so often."""
    counts = counts[counts > 0]
    return float((counts * -np.log2(counts / counts.sum())).sum())


def normals(cache: Path) -> Path:
    """VGG16 with normal weights; Keras's own start is uniform."""
    out = cache / "vgg16_normal.h5"
    if not out.exists():
        rng = np.random.default_rng(0)
        shutil.copyfile(vgg16(cache), out)
        with h5py.File(out, "a") as file:

            def fill(_: str, item: h5py.Dataset | h5py.Group) -> None:
                if isinstance(item, h5py.Dataset) and item.ndim > 1:
                    item[...] = 0.02 * rng.standard_normal(item.shape, "float32")

            file["model_weights"].visititems(fill)
    return out


def shared(cache: Path) -> Path:
    """The model: pruned layer by layer, then shared values."""
    out = cache / "vgg16_shared.h5"
    if not out.exists():
        recipe = Recipe(
            (
                steps.find("prune", "magnitude")(sparsity=0.9, scope="layer"),
                steps.find("quantize", "cluster")(bits=4),
            )
        )
        pipeline.run(Job(normals(cache), recipe, out, report=False))
    return out


def bounds(model: registry.Model) -> tuple[float, float, int]:
    """Bytes by the order-0 entropy of the codes; by that of runs and values; of the parameters."""
    whole = parts = 0.0
    size = 0
    for tensor in model.tensors:
        values, encoding = tensor.pull()
        size += values.nbytes
        if encoding.symbols is None or not isinstance(encoding, Sparse):
            left = 8 * values.nbytes if values.any() else 0  # biases, all zero here
            whole, parts = whole + left, parts + left
            continue
        for rows in payload.row_blocks(values.shape):
            codes = encoding.codes(values[rows], rows).ravel()
            whole += entropy(np.bincount(codes))
            places = np.flatnonzero(codes)
            parts += entropy(np.bincount(np.diff(places, prepend=-1)))
            parts += entropy(np.bincount(codes[places]))
    return whole / 8, parts / 8, size


def row(name: str, size: float, parameters: int, more: tuple[str, ...] = ("",) * 4) -> None:
    cells = (name, f"{size / 1e6:.2f}", f"{parameters / size:.1f}", *more)
    print("| " + " | ".join(cells) + " |", flush=True)


def speeds(model: registry.Model, coder: symbols.Coder) -> tuple[float, float]:
    """MB of float32 a CPU second, encoding and decoding VGG16's largest layer."""
    tensor = max(model.tensors, key=lambda t: t.size)
    values, encoding = tensor.pull()
    seconds = np.full(2, np.inf)
    for _ in range(ROUNDS):
        start = time.process_time()
        file = io.BytesIO()
        packed = payload.pack(values, encoding, coder, Sink(file))
        middle = time.process_time()
        payload.unpack(packed.record, ByteReader(file.getvalue()), values.shape, values.dtype)
        seconds = np.minimum(seconds, [middle - start, time.process_time() - middle])
    return values.nbytes / 1e6 / seconds[0], values.nbytes / 1e6 / seconds[1]


def bare(model: registry.Model) -> tuple[float, float]:
    """The same of constriction by itself, on codes in memory."""
    values, encoding = max(model.tensors, key=lambda t: t.size).pull()
    codes = encoding.codes(values[:4096]).reshape(-1).astype(np.int32)
    odds = ranged.model(np.bincount(codes).astype(np.int64))
    seconds = np.full(2, np.inf)
    for _ in range(ROUNDS):
        start = time.process_time()
        coder = ranged.stack().AnsCoder()
        coder.encode_reverse(codes, odds)
        middle = time.process_time()
        coder.decode(odds, codes.size)
        seconds = np.minimum(seconds, [middle - start, time.process_time() - middle])
    return 4e-6 * codes.size / seconds[0], 4e-6 * codes.size / seconds[1]


def peak(command: list[str]) -> int:
    """Bytes of resident memory that a command takes at most.

    It is started by a process that is small itself: the kernel counts what a process was before it
    became another program.
    """
    code = (
        "import os, sys;"
        "child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ);"
        "_, status, usage = os.wait4(child, 0);"
        "print(usage.ru_maxrss);"
        "sys.exit(os.waitstatus_to_exitcode(status))"
    )
    call = [sys.executable, "-c", code, *command]
    return 1024 * int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def ours(path: Path, cache: Path, parameters: int) -> None:
    """A row for each coder, and the way back."""
    model = registry.open_model(path)
    packed, back = cache / "packed.mcut", cache / "unpacked.h5"
    for coder in CODERS:
        options = ["--coder", coder, "--force", "--quiet"]
        there = peak([*CLI, "pack", str(path), "-o", str(packed), *options])
        options = ["--compression", "none", "--force", "--quiet"]
        again = peak([*CLI, "unpack", str(packed), "-o", str(back), *options])
        pace = (f"{rate:.0f}" for rate in speeds(model, coder))
        peaks = (f"{found / 1e6:.0f}" for found in (there, again))
        row(f"`.mcut`, {coder}", packed.stat().st_size, parameters, (*pace, *peaks))


def peers(path: Path, cache: Path, parameters: int) -> None:
    """The same weights in other containers."""
    model = registry.open_model(path)
    plain = {}
    for compression in ("best", "none"):
        plain[compression] = cache / f"{compression}.h5"
        plain[compression].unlink(missing_ok=True)
        writer = registry.for_output(plain[compression], model)
        writer.write(model, plain[compression], WriteOptions(compression=compression))
    row("`.h5`, best", plain["best"].stat().st_size, parameters)
    row("plain `.h5`, gzip -9", deflated(plain["none"]), parameters)
    packer = zstandard.ZstdCompressor(level=19).compressobj()
    with plain["none"].open("rb") as file:
        found = sum(len(packer.compress(part)) for part in iter(lambda: file.read(1 << 24), b""))
    row("plain `.h5`, zstd -19", found + len(packer.flush()), parameters)
    lite = cache / "float.tflite"
    command = [*CLI, "export", str(plain["none"]), "-o", str(lite), "--force", "--quiet"]
    timed("export", command, 1, lite)
    row("TensorFlow Lite, float, gzip -9", deflated(lite), parameters)


def nncodec(path: Path, python: Path, parameters: int) -> None:
    """A row for nncodec: its bit streams of the codes, the shared values in float32 beside them."""
    if not python.is_file():
        print(f"without nncodec: there is no {python}, see --help", file=sys.stderr)
        return
    script = Path(__file__).with_name("nncodec_codes.py")
    rest = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, tensor in enumerate(registry.open_model(path).tensors):
            values, encoding = tensor.pull()
            if isinstance(encoding, Sparse) and encoding.symbols is not None:
                np.save(Path(folder) / f"{number:02d}.npy", signed(values, encoding))
                rest += encoding.side_bits() // 8
        call = [str(python), str(script), *map(str, sorted(Path(folder).glob("*.npy")))]
        done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    pace = (f"{4e-6 * found['values'] / found[way]:.0f}" for way in ("encode", "decode"))
    row("nncodec", found["bytes"] + rest, parameters, (*pace, "", ""))


def signed(values: np.ndarray, encoding: Sparse) -> np.ndarray:
    """Codes as nncodec likes them: 0 for zero, the larger the further the value is from it."""
    codes = encoding.codes(values).astype(np.int16)
    centres = encoding.inner.record()["centres"]
    below = int((centres < 0).sum())
    return np.where(codes == 0, 0, codes - below - (codes <= below)).astype(np.int8)


def deflated(path: Path) -> int:
    """Bytes of a file after gzip -9."""
    packer = zlib.compressobj(9)
    with path.open("rb") as file:
        found = sum(len(packer.compress(part)) for part in iter(lambda: file.read(1 << 24), b""))
    return found + len(packer.flush())


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--nncodec", type=Path, help="a Python that has nncodec")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    path = shared(options.cache)
    model = registry.open_model(path)
    whole, parts, parameters = bounds(model)
    columns = ("MB", "ratio", "packing, MB/s", "unpacking, MB/s", "peak MB", "unpacking, peak MB")
    print("| | " + " | ".join(columns) + " |\n|---" + "|--:" * len(columns) + "|")
    row("parameters", parameters, parameters)
    row("entropy of run lengths + entropy of values", parts, parameters)
    row("order-0 entropy of the codes", whole, parameters)
    ours(path, options.cache, parameters)
    pace = (f"{rate:.0f}" for rate in bare(model))
    row("constriction alone", whole, parameters, (*pace, "", ""))
    row("`.h5`, fast", path.stat().st_size, parameters)
    if not options.quick:
        peers(path, options.cache, parameters)
        python = options.nncodec or options.cache / "nncodec" / "bin" / "python"
        nncodec(path, python, parameters)


if __name__ == "__main__":
    sys.exit(main())

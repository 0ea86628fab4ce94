"""Packs a pruned VGG16 of 16 shared values and prints what each way of storing it takes.

    python tests/benchmarks/packed.py [--cache FOLDER] [--peers]

Weights are random normals in VGG16's shapes, 90 % of each layer removed, the rest shared 16 values
(so that nothing but the count of each value can be used: the hardest case for a coder). For figures
of one core: `taskset -c 0`. `--peers` adds gzip -9, zstd -19 and `--compression best`, which are
slow.
"""

from __future__ import annotations

import argparse
import shutil
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import zstandard
from bench import vgg16

from modelcut import formats, pipeline, steps
from modelcut.coding import symbols
from modelcut.encoding import Sparse
from modelcut.formats import WriteOptions, _payload
from modelcut.job import Job
from modelcut.recipe import Recipe


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
                steps.find("quantize", "huffman")(bits=4),
            )
        )
        pipeline.run(Job(normals(cache), recipe, out, report=False))
    return out


def bounds(model: formats.Model) -> tuple[float, float, int]:
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
        for rows in _payload.row_blocks(values.shape):
            codes = encoding.codes(values[rows], rows).ravel()
            whole += entropy(np.bincount(codes))
            places = np.flatnonzero(codes)
            parts += entropy(np.bincount(np.diff(places, prepend=-1)))
            parts += entropy(np.bincount(codes[places]))
    return whole / 8, parts / 8, size


def row(name: str, size: float, parameters: int, seconds: str = "") -> None:
    print(f"| {name} | {size / 1e6:.3f} | {parameters / size:.2f} | {seconds} |", flush=True)


def speeds(model: formats.Model, coder: symbols.Coder) -> tuple[float, float]:
    """MB of float32 a second, encoding and decoding VGG16's largest layer."""
    tensor = max(model.tensors, key=lambda t: t.size)
    values, encoding = tensor.pull()
    start = time.perf_counter()
    packed = _payload.pack(values, encoding, coder)
    middle = time.perf_counter()
    _payload.unpack(packed.record, packed.payload, values.shape, values.dtype)
    end = time.perf_counter()
    return values.nbytes / 1e6 / (middle - start), values.nbytes / 1e6 / (end - middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    path = shared(options.cache)
    model = formats.open_model(path)
    whole, parts, parameters = bounds(model)
    print("| | MB | ratio | MB/s of the largest layer: packing, unpacking |\n|---|--:|--:|---|")
    row("parameters", parameters, parameters)
    row("entropy of runs + entropy of values", parts, parameters)
    row("entropy of the codes", whole, parameters)
    out = options.cache / "packed.mcut"
    coders: tuple[symbols.Coder, ...] = ("huffman", "range")
    for coder in coders:
        formats.for_output(out, model).write(model, out, WriteOptions(coder=coder))
        pace = speeds(model, coder)
        row(f".mcut, {coder}", out.stat().st_size, parameters, f"{pace[0]:.0f}, {pace[1]:.0f}")
    row(".h5, compression fast", path.stat().st_size, parameters)
    if options.peers:
        best = options.cache / "best.h5"
        best.unlink(missing_ok=True)
        formats.for_output(best, model).write(model, best, WriteOptions(compression="best"))
        row(".h5, compression best", best.stat().st_size, parameters)
        plain = options.cache / "plain.h5"
        plain.unlink(missing_ok=True)
        formats.for_output(plain, model).write(model, plain, WriteOptions(compression="none"))
        data = plain.read_bytes()
        row("plain .h5, gzip -9", len(zlib.compress(data, 9)), parameters)
        packer = zstandard.ZstdCompressor(level=19)
        row("plain .h5, zstd -19", len(packer.compress(data)), parameters)


if __name__ == "__main__":
    main()

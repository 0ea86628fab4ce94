"""Makes `models/version2_blocks.mcut`: a packed file with every kind of block in it.

    python tests/data/make_mcut_files.py FILE

Run once for a version of the format, and the file checked in: what reads it may not change.
(`version1_blocks.mcut` was made by the revision before version 2, by this script.)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from toys import dense, legacy

from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.formats.mcut import payload


def kernels():
    """Layer -> (kernel, coder): each for another kind of block."""
    rng = np.random.default_rng(0)
    few = np.linspace(-1, 1, 8, dtype="float32")
    noise = rng.random((40, 30))
    rows = np.exp(2 * rng.normal(size=(60, 1)))
    drawn = rng.choice(few, (60, 30))
    yield "constant", np.zeros((40, 30), "float32"), "best"
    yield "plain", rng.choice(few, (40, 30)), "huffman"
    yield "runs", np.where(noise < 0.1, rng.choice(few, (40, 30)), np.float32(0)), "huffman"
    yield "ranged", few[np.minimum(7, rng.geometric(0.4, (40, 30)))], "range"
    yield "context", np.where(rng.random((60, 30)) < 0.1 * rows, drawn, np.float32(0)), "best"
    yield "all", rng.normal(size=(10, 30)).astype("float32"), "best"
    kept = rng.normal(size=(40, 30)).astype("float32")
    yield "kept", np.where(noise < 0.1, kept, np.float32(0)), "best"


def main():
    found = {name: (kernel, coder) for name, kernel, coder in kernels()}
    layers = [dense(name, 30, use_bias=False) for name in found]
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    coders = iter([coder for _, coder in found.values()])
    pack = payload.pack
    payload.pack = lambda values, encoding, _, out: pack(values, encoding, next(coders), out)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.h5"
        arrays = {name: {f"{name}/kernel:0": kernel} for name, (kernel, _) in found.items()}
        legacy(path, arrays, config)
        model = registry.open_model(path)
        written = registry.by_name("mcut").write(model, Path(sys.argv[1]), WriteOptions())
    print(written.coders)


if __name__ == "__main__":
    main()

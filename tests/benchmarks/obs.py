"""The output error of `prune: obs` beside greedy and magnitude oracles, as a Markdown table.

    python tests/benchmarks/obs.py [NETWORK …] [--cache FOLDER] [--rows 1024]

The dense layers of the networks of `criteria.py`, each on the inputs that the unpruned network
gives it for some training images. The error is |X W - X W'|^2 / |X W|^2. All masks are refitted
to the least squares optimum, with the Hessian that `obs` uses. "before" is what `obs` did until
exchanges came: masks in blocks of inputs (SparseGPT) and conjugate gradients. Seconds are of the
CPU. The plain greedy surgeon takes minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from criteria import NETWORKS, trained
from materials import images
from surgeon import error, greedy, magnitude, refitted

from modelcut.steps.prune._hessian import choose, damped, refit
from modelcut.steps.prune._subset import pruned

SPARSITIES = (0.5, 0.8, 0.9, 0.95)


def layers(path: Path, rows: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each dense layer its inputs and its kernel, as float64."""
    import keras

    model = keras.models.load_model(path, compile=False)
    data = images("fashion")["train_x"]
    taken = np.random.default_rng(0).permutation(len(data))[:rows]
    given = data[taken].reshape(-1, *model.input_shape[1:]).astype("float32") / 255
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            inputs = keras.Model(model.inputs, layer.input).predict(given, verbose=0)
            found[layer.name] = (inputs.astype(float), layer.kernel.numpy().astype(float))
    return found


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What came out, and the CPU seconds that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--rows", type=int, default=1024)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    print(
        "| layer | sparsity | before | magnitude, refit | greedy, refit | now | s before | s now |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name in options.networks:
        found = layers(trained(name, options.cache), options.rows)
        for layer, (inputs, weights) in found.items():
            hessian = damped(inputs.T @ inputs, 0.01)
            masks = greedy(weights, hessian, *SPARSITIES)
            for sparsity, mask in zip(SPARSITIES, masks, strict=True):
                before, old = timed(
                    lambda s=sparsity, w=weights, h=hessian: refit(w, h, choose(w, h, s))
                )
                now, new = timed(lambda s=sparsity, w=weights, h=hessian: pruned(w, h, s))
                smallest = refitted(weights, hessian, magnitude(weights, sparsity))
                plain = refitted(weights, hessian, mask)
                errors = (error(inputs, weights, each) for each in (before, smallest, plain, now))
                cells = " | ".join(f"{each:.5f}" for each in errors)
                shape = "×".join(map(str, weights.shape))
                title = f"{name} {layer} {shape}"
                print(f"| {title} | {sparsity:.0%} | {cells} | {old:.2f} | {new:.2f} |", flush=True)


if __name__ == "__main__":
    main()

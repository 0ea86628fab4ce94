"""Layers replaced by chains: the network computes what it would with the product as its kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.model.encoding import Dense
from modelcut.model.model import Source
from modelcut.steps import find
from modelcut.steps.base import Context

SCRIPT = Path(__file__).with_name("factorize_nets.py")
SUFFIX = {"keras": ".keras", "tf_keras": ".h5"}
METHODS = ("svd", "channel", "spatial", "tucker2", "cp")


def keras(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def product(method, kernels, original):
    """The kernel that a chain stands for, of the shape of the layer's own."""
    first, *rest = kernels
    if method == "svd":
        return (first.reshape(-1, first.shape[-1]) @ rest[0].reshape(first.shape[-1], -1)).reshape(
            original
        )
    if method == "channel":
        return np.einsum("...r,rt->...t", first, rest[0].reshape(rest[0].shape[-2:]))
    axes = "xyz"[: first.ndim - 2]
    if method == "spatial":
        one, others = axes[0], axes[1:]
        left = first.reshape(first.shape[0], *first.shape[-2:])
        return np.einsum(f"{one}sr,{others}rt->{axes}st", left, rest[0][0])
    one, last = (kernel.reshape(kernel.shape[-2:]) for kernel in (first, rest[1]))
    if method == "tucker2":
        return np.einsum(f"sp,{axes}pq,qt->{axes}st", one, rest[0], last)
    deep = rest[0].reshape(*rest[0].shape[:-2], -1)  # depthwise, or a convolution in groups
    return np.einsum(f"sr,{axes}r,rt->{axes}st", one, deep, last)


def with_products(model, result):
    """The model with its factorized layers' kernels replaced by the products, and their errors."""
    after = {layer.path: layer for layer in result.layers}
    changed, errors = {}, {}
    for name, fact in result_facts(result).items():
        layer = next(layer for layer in model.layers if layer.name == name)
        names = [f"{layer.path[-1]}_factor{'' if n == 1 else n}" for n in (1, 2)]
        paths = [(*layer.path[:-1], name) for name in names]
        parts = [after[p] for p in paths if p in after] + [after[layer.path]]
        wanted = [t for t in layer.tensors if t.role.endswith(("kernel", "embeddings"))]
        wanted = [t for t in wanted if t.kind != "recurrent"]
        for tensor in wanted:
            kernels = []
            for part in parts:
                own = [t for t in part.tensors if t.role.endswith(("kernel", "embeddings"))]
                own = [t for t in own if t.kind != "recurrent"]
                mine = next((t for t in own if t.role == tensor.role), own[0])
                kernels.append(mine.pull()[0].astype("float64"))
            values = product(fact["method"], kernels, tensor.shape)
            assert values.shape == tensor.shape
            changed[tensor.name] = replace(
                tensor, source=Source(values.astype(tensor.dtype).copy), encoding=Dense()
            )
            whole = tensor.pull()[0].astype("float64")
            errors.setdefault(name, []).append((np.square(whole - values).sum(),
                                                np.square(whole).sum()))  # fmt: skip
    return model.with_tensors(changed), {
        name: (sum(a for a, _ in pairs) / sum(b for _, b in pairs)) ** 0.5
        for name, pairs in errors.items()
    }


def result_facts(result):
    return FACTS[id(result)]


FACTS = {}


def factorized(model, method, **fields):
    outcome = find("factorize", method)(**fields).apply(model, Context())
    FACTS[id(outcome.model)] = outcome.facts["layers"]
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras", "tf_keras"])
def test_the_chain_computes_what_the_product_does(engine, tmp_path):
    suffix = SUFFIX[engine]
    keras("build", engine, tmp_path)
    done = set()
    for path in sorted(tmp_path.glob(f"*{suffix}")):
        for method in METHODS:
            with registry.open_model(path) as model:
                writer = registry.of_model(model)
                outcome = factorized(model, method, rank=3)
                facts = outcome.facts["layers"]
                if not facts:
                    continue
                done |= {(path.stem, method, name) for name in facts}
                same, errors = with_products(model, outcome.model)
                for name, error in errors.items():
                    assert facts[name]["error"] == pytest.approx(error, rel=1e-4), name
                stem = f"{path.stem}.{method}"
                writer.write(outcome.model, tmp_path / f"{stem}{suffix}", WriteOptions())
                writer.write(same, tmp_path / f"{stem}.same{suffix}", WriteOptions())
    apart = json.loads(keras("compare", engine, tmp_path))
    assert len(apart) >= 12
    assert max(apart.values()) < 1e-5, apart
    # Each method on each number of axes, and each kind of matrix, has been seen.
    seen = {(net, method) for net, method, _ in done}
    assert seen >= {(net, m) for net in ("plane", "space") for m in METHODS}
    assert seen >= {("line", m) for m in ("svd", "channel", "tucker2", "cp")}
    assert {name for net, _, name in done if net == "text"} >= {"embedding"}
    assert len({name for net, m, name in done if (net, m) == ("line", "svd")}) == 4

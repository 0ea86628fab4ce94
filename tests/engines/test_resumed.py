"""A forward pass that goes on where a weight was replaced gives what a whole one gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import MODELS

from modelcut.data import DataOptions
from modelcut.data.rows import Rows
from modelcut.engines.keras import resumed
from modelcut.formats import registry
from modelcut.job.engine_runtime import EngineRuntime


class Tensor:
    """Something with a shape and bytes."""

    shape = (2, 3)


def passed(memo, rows, layers, calls):
    """One pass through a row of layers; what was computed is added to `calls`."""
    batch = memo.batch(rows, lambda _: Tensor())
    value = batch.tensors
    for name in layers:
        given, (value, known) = value, batch.known(name, value)
        if not known:
            value = Tensor()
            calls.append(name)
            batch.keep(name, given, value)
    return value


def test_only_what_lies_behind_a_change_is_computed_anew():
    memo, rows, calls = resumed.Memo(), Rows((np.zeros(2),), None), []
    layers = ["a", "b/inner", "c"]
    first = passed(memo, rows, layers, calls)
    assert passed(memo, rows, layers, calls) is first
    assert calls == layers
    memo.changed(["b/inner/forward/kernel"], dict.fromkeys(layers))
    assert passed(memo, rows, layers, calls) is not first
    assert calls == [*layers, "b/inner", "c"]
    assert memo.held == 3 * 2 * 3 * 4
    passed(memo, Rows((np.zeros(2),), None), layers, calls)
    assert calls == [*layers, "b/inner", "c", *layers]


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(resumed, "_MOST_BYTES", 60)
    memo, calls = resumed.Memo(), []
    some = [Rows((np.zeros(2),), None) for _ in range(2)]
    for rows in (*some, *some):
        passed(memo, rows, ["a", "b"], calls)
        assert memo.held <= 60
    assert calls == ["a", "b"] * 3, "the first batch is kept, the second one has no room"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keras3_cnn.keras", "tf_keras_cnn.h5", "keras3_nested.h5"])
def test_keras_layers_are_given_the_same(name, tmp_path):
    model = registry.open_model(MODELS / name)
    recorded = np.load(MODELS / f"{Path(name).stem}.npz")
    inputs = tuple(recorded[key] for key in sorted(recorded.files) if key.startswith("input"))
    rows = Rows(inputs, None)
    table = tmp_path / "rows.csv"
    width = int(np.prod([n for part in inputs for n in part.shape[1:]]))
    np.savetxt(table, np.zeros((2, width)), header=",".join("x" * n for n in range(1, width + 1)),
               delimiter=",", comments="")  # fmt: skip
    runtime = EngineRuntime(model, None, DataOptions(), calibrate=table)
    running, whole = runtime.open(model), runtime.open(model)
    kernels = [(layer, t) for layer in model.layers for t in layer.tensors if t.kind == "kernel"]
    for layer, tensor in kernels:
        for other, _ in kernels:
            found = running.layer_inputs(rows, [other.name], again=True)[other.name]
            truth = whole.layer_inputs(rows, [other.name])[other.name]
            assert len(found) == len(truth)
            for one, two in zip(found, truth, strict=True):
                np.testing.assert_array_equal(one, two)
        values = {tensor.name: 0.5 * tensor.pull()[0]}
        running.write(values)
        whole.write(values)
        del layer

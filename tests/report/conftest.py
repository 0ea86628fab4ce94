"""A report made by hand, of two dense layers of which a step pruned one."""

from __future__ import annotations

import pytest

from modelcut.model.measure import Summary
from modelcut.report.schema import (
    SCHEMA,
    Evaluation,
    Input,
    LayerRow,
    Output,
    Reason,
    Report,
    Size,
    Sizes,
    Stage,
    StepRow,
    TensorChange,
    TensorRow,
    Totals,
)


@pytest.fixture(autouse=True)
def with_charts(monkeypatch):
    """The other tests leave them out, which saves half a second each."""
    monkeypatch.delenv("MODELCUT_CHARTS")


def summary(size, nonzeros, bits):
    return Summary(size, nonzeros, 0, 1.5, 4 * size, bits, None, None, 3 * size)


@pytest.fixture
def made():
    before = Totals(100, 100, 0.0, 400, 350, 32.0)
    after = Totals(100, 40, 0.6, 400, 120, 12.8)
    pruned = TensorRow(
        "one/kernel", "kernel", "kernel", (8, 10), "float32", False,
        summary(80, 80, 2560), summary(80, 20, 720), "sparse", 90, None,
        (TensorChange(1, "prune: magnitude", 0.25, 12.04, 0.5, 20),), (),
    )  # fmt: skip
    other = TensorRow(
        "<b>|`two/kernel", "kernel", "kernel", (10, 2), "float32", False,
        summary(20, 20, 640), summary(20, 20, 640), "dense", 80, None,
        (), (Reason(1, "excluded by 'two'"),),
    )  # fmt: skip
    metrics = [
        {"accuracy": accuracy, "log_loss": loss, "per_class": [
            {"class": "cat", "support": 6, "recall": recall, "f1": recall, "precision": 1.0},
            {"class": "dog", "support": 4, "recall": 1.0, "f1": 0.9, "precision": 0.9},
        ]}
        for accuracy, loss, recall in ((0.95, 0.1, 1.0), (0.9, 0.25, 0.75))
    ]  # fmt: skip
    return Report(
        schema=SCHEMA,
        modelcut="9.8.7",
        versions={"python": "3.11.0"},
        host={"machine": "x86_64", "system": "Linux"},
        input=Input("in/a_model.h5", "hdf5", "keras2", "Keras 2.4.0", 1000, None, "ab" * 32),
        output=Output(
            "out/small.h5", "hdf5", 250, "ef" * 32, "cd" * 32, "fast", ("optimizer state, 9 kB",)
        ),
        recipe={"steps": []},
        seed=7,
        sizes=Sizes(Size(before, 1000, 90), Size(after, 250, 90, 170), 1.6, 4.0),
        ledger=(Stage("original", before), Stage("1 prune: magnitude", after)),
        steps=(
            StepRow(1, "prune: magnitude", {"sparsity": 0.75}, {}, 1, {"two/kernel": "no"}, 0.01),
        ),
        layers=(
            LayerRow("one", "Dense", (pruned,), 80, 80),
            LayerRow("two", "Dense", (other,), 20, 20),
        ),
        evaluation=Evaluation(
            "test.csv",
            {"engine": "keras", "rows": 10, "metrics": metrics[0], "latency": {"median_ms": 2.0}},
            {"engine": "keras", "rows": 10, "metrics": metrics[1], "latency": {"median_ms": 1.0}},
            {"accuracy_drop": 0.05},
            {"top1": 0.9},
        ),
        gates=(
            {"name": "max_bytes", "limit": 300, "value": 250, "held": True},
            {"name": "max_accuracy_drop", "limit": 0.01, "value": 0.05, "held": False},
            {"name": "min_r2", "limit": 0.5, "value": None, "held": False},
        ),
        warnings=("one/kernel: *odd*",),
    )

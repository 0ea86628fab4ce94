"""Evaluation on networks made by hand: no engine, known answers."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.data import DataOptions, InputSpec
from modelcut.engines import OutputSpec
from modelcut.errors import InputError, UsageError
from modelcut.job.inference import evaluate


class Linear:
    """Decides for the largest of its inputs, or what `weights` makes of them."""

    engine = "by hand"
    loss = None
    fixed_batch = None

    def __init__(self, units=3, weights=None):
        self.weights = np.eye(units) if weights is None else np.asarray(weights, float)
        self.inputs = (InputSpec("x", (self.weights.shape[0],)),)
        self.outputs = (OutputSpec("y", (self.weights.shape[1],), "softmax"),)
        self.rows = 0

    def predict(self, inputs, *, exact=False):
        self.rows += 0 if exact else len(inputs["x"])
        scores = np.exp(inputs["x"] @ self.weights * 5)
        return [scores / scores.sum(axis=1, keepdims=True)]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    hot = np.eye(3)[np.arange(90) % 3]
    lines = [",".join(f"{v:g}" for v in row) + f",{i % 3}" for i, row in enumerate(hot)]
    path.write_text("a,b,c,label\n" + "\n".join(lines))
    return path


def test_one_network(table):
    (found,), agreement = evaluate([Linear()], table, DataOptions())
    assert agreement is None
    assert found.task == "multiclass"
    assert found.metrics["accuracy"] == 1
    assert found.rows == 90
    assert found.latency["median_ms"] > 0


def test_two_networks_see_the_same_rows(table):
    swapped = Linear(weights=[[1, 0, 0], [0, 1, 0], [1, 0, 0.5]])
    one, two = Linear(), swapped
    (before, after), agreement = evaluate([one, two], table, DataOptions())
    assert one.rows == two.rows == 90
    assert before.metrics["accuracy"] == 1
    assert after.metrics["accuracy"] == pytest.approx(2 / 3)
    assert agreement["top1"] == pytest.approx(2 / 3)


def test_without_labels_two_networks_can_still_be_compared(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,0,0\n0,1,0\n")
    with pytest.raises(UsageError, match="no label"):
        evaluate([Linear()], path, DataOptions())
    _, agreement = evaluate([Linear(), Linear()], path, DataOptions())
    assert agreement["top1"] == 1


def test_a_task_that_the_labels_do_not_fit(table):
    with pytest.raises(InputError):
        evaluate([Linear()], table, DataOptions(), task="multilabel")

"""Evaluation on networks made by hand: no engine, known answers."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.data import DataOptions, InputSpec
from modelcut.engines import OutputSpec
from modelcut.errors import InputError, UsageError
from modelcut.job.inference import Evaluator, evaluate
from modelcut.metrics.confidence import too_few
from modelcut.metrics.limits import Limits


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


def warned(*networks, table):
    found, _ = Evaluator.open(networks[0], table, DataOptions()).run(*networks[1:])
    return [line for one in found for line in one.warnings]


def test_a_network_that_always_says_the_same_is_warned_of(table):
    stuck = Linear(weights=[[0, 9, 0], [0, 9, 0], [0, 9, 0]])
    assert warned(Linear(), Linear(), table=table) == []
    (collapsed, guess) = warned(Linear(), stuck, table=table)
    assert collapsed.startswith(
        "the result: 90 of 90 samples are taken for class '1', which is the label of 30: "
    )
    assert guess == (
        "the result: an accuracy of 0.3333 is no better than to say '0' of all, the label of 33.3% "
        "of them"
    )
    assert all(line.startswith("the model: ") for line in warned(stuck, table=table))


def test_few_samples_or_one_label_are_no_collapse(table, tmp_path):
    lines = table.read_text().splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join(lines[:10]))
    stuck = Linear(weights=[[0, 9, 0], [0, 9, 0], [0, 9, 0]])
    assert warned(stuck, table=few) == []


def test_drops_come_with_intervals_and_a_test(table):
    swapped = Linear(weights=[[1, 0, 0], [0, 1, 0], [1, 0, 0.5]])
    (before, after), (pair,) = Evaluator.open(Linear(), table, DataOptions()).run(swapped)
    assert pair.change["mcnemar"] == {
        "only_before_right": 30, "only_after_right": 0, "p_value": pytest.approx(2**-29),
    }  # fmt: skip
    low, high = pair.change["intervals"]["accuracy_drop"]
    assert pair.change["accuracy_drop"] == pytest.approx(1 / 3)
    assert 0.2 < low < 1 / 3 < high < 0.5
    assert pair.change["worst_class_recall"] == "2"
    assert pair.change["intervals"]["worst_class_recall_drop"][0] > 0.8
    assert before.metrics["intervals"]["accuracy"][0] > 0.95
    low, high = after.metrics["per_class"][2]["recall_interval"]
    assert low == 0
    assert 0 < high < 0.2
    assert pair.latency["same_engine"]


def test_test_data_that_is_too_small_for_a_gate_is_warned_of(table):
    _, (pair,) = Evaluator.open(Linear(), table, DataOptions()).run(Linear())
    told = too_few(Limits(max_accuracy_drop=0.01, max_f1_drop=0.2), pair.change, 90)
    assert len(told) == 1
    assert told[0].startswith("90 test samples cannot tell a drop of accuracy by 0.01 (gate max_")
    # 1 / 92, Wald's half width of 0.5 and 0.5 lost and gained: 4.3 times the limit with 90 samples
    half = pair.change["intervals"]["accuracy_drop"][1]
    needed = int(told[0].split("about ")[1].split(" ")[0].replace(",", ""))
    assert needed == pytest.approx(90 * (half / 0.01) ** 2, rel=0.1)
    assert too_few(Limits(max_accuracy_drop=0.05, min_accuracy=0.9), pair.change, 90) == []

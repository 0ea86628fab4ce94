"""Metrics against scikit-learn, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from modelcut.metrics import accumulators


def summed(task, units, labels, outputs, parts=3):
    total = accumulators.accumulator(task, units)
    for some, given_outputs in zip(
        np.array_split(labels, parts), np.array_split(outputs, parts), strict=True
    ):
        if len(some):
            total.update(some, given_outputs)
    return total.result()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(1, 60), st.integers(0, 10_000))
def test_multiclass(classes, rows, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    outputs = rng.dirichlet(np.ones(classes), rows)
    found = summed("multiclass", classes, labels, outputs)
    said = outputs.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, said))
    for average in ("macro", "micro", "weighted"):
        p, r, f, _ = oracle.precision_recall_fscore_support(
            labels, said, average=average, zero_division=0
        )
        assert found[f"precision_{average}"] == pytest.approx(p)
        assert found[f"recall_{average}"] == pytest.approx(r)
        assert found[f"f1_{average}"] == pytest.approx(f)
    loss = oracle.log_loss(labels, outputs, labels=range(classes))
    assert found["log_loss"] == pytest.approx(loss, rel=1e-6)
    confusion = oracle.confusion_matrix(labels, said, labels=range(classes))
    np.testing.assert_array_equal(found["confusion"], confusion)
    p, r, f, support = oracle.precision_recall_fscore_support(
        labels, said, labels=range(classes), zero_division=0
    )
    for index, row in enumerate(found["per_class"]):
        assert row["precision"] == pytest.approx(p[index])
        assert row["recall"] == pytest.approx(r[index])
        assert row["f1"] == pytest.approx(f[index])
        assert row["support"] == support[index]
    if classes > 5:
        top = oracle.top_k_accuracy_score(labels, outputs, k=5, labels=range(classes))
        assert found["top_5_accuracy"] == pytest.approx(top)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.booleans(), st.integers(0, 10_000))
def test_binary(rows, logits, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    scores = rng.normal(size=(rows, 1)) * 3
    scores[0] = 5  # surely no probability
    chance = 1 / (1 + np.exp(-scores))
    found = summed("binary", 1, labels, scores if logits else chance, parts=1)
    said = (chance[:, 0] > 0.5).astype(int)
    assert found["from_logits"] == logits
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, said))
    assert found["log_loss"] == pytest.approx(
        oracle.log_loss(labels, chance[:, 0], labels=[0, 1]), rel=1e-6
    )
    one = found["per_class"][1]
    assert one["recall"] == pytest.approx(oracle.recall_score(labels, said, zero_division=0))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 50), st.integers(0, 10_000))
def test_multilabel(units, rows, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (rows, units))
    outputs = rng.random((rows, units))
    labels[:, 0] = outputs[:, 0] = 0  # a label without positives
    found = summed("multilabel", units, labels, outputs)
    said = (outputs > 0.5).astype(int)
    for average in ("macro", "micro", "weighted"):
        scores = oracle.precision_recall_fscore_support(
            labels, said, average=average, zero_division=0
        )
        for name, score in zip(("precision", "recall", "f1"), scores, strict=False):
            assert found[f"{name}_{average}"] == pytest.approx(score)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, said))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(3, 50), st.integers(0, 10_000))
def test_regression(units, rows, seed):
    rng = np.random.default_rng(seed)
    labels = 1000 + rng.normal(size=(rows, units))
    outputs = labels + rng.normal(size=(rows, units))
    found = summed("regression", units, labels, outputs)
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(labels, outputs))
    assert found["rmse"] == pytest.approx(
        oracle.root_mean_squared_error(labels, outputs)  # the mean of those of the outputs
    )
    assert found["r2"] == pytest.approx(oracle.r2_score(labels, outputs), rel=1e-6)


def test_a_lost_class_is_named():
    labels = np.array([0, 0, 1, 1, 2, 2])
    sure = np.eye(3)[labels]
    lost = np.eye(3)[[0, 0, 1, 1, 0, 0]]
    change = accumulators.compare(
        summed("multiclass", 3, labels, sure), summed("multiclass", 3, labels, lost)
    )
    assert change["worst_class_recall"] == "2"
    assert change["worst_class_recall_drop"] == 1.0
    assert change["accuracy_drop"] == pytest.approx(1 / 3)


def test_outputs_that_are_no_numbers_are_counted():
    outputs = np.array([[np.nan, 0.5], [0.1, 0.9]])
    assert summed("multiclass", 2, np.array([0, 1]), outputs)["nonfinite_outputs"] == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.booleans(), st.integers(0, 10_000))
def test_what_is_decided_before_does_not_depend_on_the_values(rows, logits, seed):
    """Logits within [0, 1] stay logits, and an int8 softmax that sums to 0.99 probabilities."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    if logits:
        outputs = rng.random((rows, 3)) / 3
        raised = np.exp(outputs)
        chance = raised / raised.sum(axis=1, keepdims=True)
    else:
        chance = rng.dirichlet(np.ones(3), rows)
        outputs = np.floor(chance * 256) / 256
        chance = outputs / np.maximum(outputs.sum(axis=1, keepdims=True), 1e-12)
    total = accumulators.accumulator("multiclass", 3, logits=logits)
    for row in range(rows):  # batches of one
        total.update(labels[row : row + 1], outputs[row : row + 1])
    found = total.result()
    assert found["from_logits"] is logits
    picked = np.clip(chance[np.arange(rows), labels], 2**-52, 1)
    assert found["log_loss"] == pytest.approx(-np.log(picked).mean(), rel=1e-6)


@pytest.mark.parametrize("logits", [False, True])
def test_one_unit_has_its_threshold(logits):
    labels, outputs = np.array([0, 1, 1, 0]), np.array([[0.2], [0.4], [0.7], [-0.1]])
    total = accumulators.accumulator("binary", 1, logits=logits)
    total.update(labels, outputs)
    said = outputs[:, 0] > (0 if logits else 0.5)
    assert total.result()["accuracy"] == oracle.accuracy_score(labels, said)


def test_a_guess_does_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    labels, outputs = rng.integers(0, 2, 50), rng.random((50, 1))
    outputs[31] = 3.0  # one value tells that all are logits
    results = []
    for order in (np.arange(50), np.arange(50)[::-1], rng.permutation(50)):
        total = accumulators.accumulator("binary", 1)
        for row in order:
            total.update(labels[row : row + 1], outputs[row : row + 1])
        results.append(total.result())
    assert all(found["from_logits"] for found in results)
    assert results[0]["confusion"] == results[1]["confusion"] == results[2]["confusion"]


def test_top_5_of_ties_and_of_no_numbers():
    labels = np.array([0, 4, 5, 9])
    same = summed("multiclass", 10, labels, np.full((4, 10), 0.1))
    assert same["top_5_accuracy"] == 0.5  # the first five, as argmax takes the first
    assert same["accuracy"] == 0.25
    none = summed("multiclass", 10, labels, np.full((4, 10), np.nan))
    assert none["top_5_accuracy"] == 0
    assert none["nonfinite_outputs"] == 4

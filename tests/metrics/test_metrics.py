"""Metrics against scikit-learn, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from modelcut.errors import InputError
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


@pytest.mark.parametrize(
    ("units", "activation", "loss", "columns", "task"),
    [
        (1, "sigmoid", None, 1, "binary"),
        (1, "linear", "binary_crossentropy", 1, "binary"),
        (2, "softmax", None, 1, "multiclass"),
        (10, "softmax", "mse", 1, "multiclass"),
        (10, None, "sparse_categorical_crossentropy", 1, "multiclass"),
        (4, "sigmoid", None, 4, "multilabel"),
        (4, "sigmoid", "binary_crossentropy", 4, "multilabel"),
        (1, "linear", "mse", 1, "regression"),
        (1, None, None, 1, "regression"),
        (3, "linear", None, 3, "regression"),
        (3, "linear", None, 1, "multiclass"),
    ],
)
def test_the_task_is_inferred(units, activation, loss, columns, task):
    assert accumulators.infer_task(units, activation, loss, columns) == task


def column(*values):
    dtype = object if any(isinstance(value, str) for value in values) else float
    return np.array([[value] for value in values], dtype)


def test_labels_of_every_kind():
    labels_for = accumulators.labels_for
    np.testing.assert_array_equal(labels_for("multiclass", 3, column(0.0, 2.0), None, "t"), [0, 2])
    named = labels_for("multiclass", 3, column("dog", "cat"), ["cat", "dog", "emu"], "t")
    np.testing.assert_array_equal(named, [1, 0])
    hot = labels_for("multiclass", 3, np.array([[0, 0, 1.0], [1, 0, 0]]), None, "t")
    np.testing.assert_array_equal(hot, [2, 0])


@pytest.mark.parametrize(
    ("task", "units", "labels", "words"),
    [
        ("multiclass", 3, column(-1.0), "no class"),
        ("multiclass", 3, column(1.0, 2.0, 3.0), "numbered from 1"),
        ("multiclass", 3, column(0.5), "no class number"),
        ("multiclass", 3, column("cat"), "--classes"),
        ("multiclass", 3, np.ones((2, 3)), "sum to 1"),
        ("multiclass", 3, np.ones((2, 2)), "one-hot"),
        ("multilabel", 3, np.ones((2, 2)), "3 columns"),
        ("regression", 2, column(1.0), "label columns"),
    ],
)
def test_labels_that_cannot_be_meant(task, units, labels, words):
    with pytest.raises(InputError) as caught:
        accumulators.labels_for(task, units, labels, None, "t.csv")
    assert words in f"{caught.value}"


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


def test_top_5_of_ties_and_of_no_numbers():
    labels = np.array([0, 4, 5, 9])
    same = summed("multiclass", 10, labels, np.full((4, 10), 0.1))
    assert same["top_5_accuracy"] == 0.5  # the first five, as argmax takes the first
    assert same["accuracy"] == 0.25
    none = summed("multiclass", 10, labels, np.full((4, 10), np.nan))
    assert none["top_5_accuracy"] == 0
    assert none["nonfinite_outputs"] == 4

"""Intervals and tests, against SciPy and against what they promise in simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, r2_score, recall_score

from modelcut.metrics import intervals
from modelcut.metrics.numbers import Numbers
from modelcut.metrics.outcomes import Outcomes, decided


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (0, 30), (30, 30), (7, 11), (981, 1000)])
def test_wilson_is_scipys(hits, rows):
    found = intervals.wilson(hits, rows)
    known = stats.binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    assert found == pytest.approx((known.low, known.high), abs=1e-12)
    assert intervals.wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (3, 9), (40, 41), (300, 200)])
def test_mcnemar_is_the_binomial_test_of_scipy(lost, gained):
    known = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert intervals.mcnemar(lost, gained) == pytest.approx(known, rel=1e-9)


def test_mcnemar_of_many_samples_is_a_number():
    assert intervals.mcnemar(5000, 5200) == pytest.approx(stats.binomtest(5000, 10200).pvalue)


def test_paired_differences_by_hand():
    # 100 samples, 8 lost and 2 gained: (8.5 - 2.5) / 102 and Wald's half width of these.
    low, high = intervals.paired_difference(8, 2, 100)
    half = 1.959964 * ((11 / 102 - (6 / 102) ** 2) / 102) ** 0.5
    assert (low, high) == pytest.approx((6 / 102 - half, 6 / 102 + half), abs=1e-6)
    low, high = intervals.paired_difference(0, 0, 50)
    assert low < 0 < high  # no difference seen is not the same as none


def test_the_median_lies_in_its_interval_as_often_as_promised():
    rng = np.random.default_rng(0)
    for size in (9, 24):
        inside = 0
        for _ in range(2000):
            low, high = intervals.of_median(rng.exponential(size=size))
            inside += low <= np.log(2) <= high
        assert 0.94 <= inside / 2000 <= 0.995
    assert intervals.of_median([3.0]) == (3, 3)


def sampled(rng, size, classes=4, rights=(0.9, 0.85)):
    truth = rng.integers(0, classes, size)
    found = []
    for right in rights:
        wrong = rng.random(size) > right
        found.append(np.where(wrong, rng.integers(0, classes, size), truth))
    return truth, found


def test_intervals_hold_what_is_true_as_often_as_promised():
    rng = np.random.default_rng(1)
    truth, found = sampled(rng, 200_000)
    accuracy = [(truth == each).mean() for each in found]
    f1 = [f1_score(truth, each, average="macro") for each in found]
    recall = [recall_score(truth, each, average="macro") for each in found]
    inside = dict.fromkeys(("accuracy", "f1", "recall", "drop", "f1_drop"), 0)
    for _ in range(120):
        part = rng.integers(0, len(truth), 150)
        outcomes = Outcomes(4, 2)
        outcomes.look(truth[part], [each[part] for each in found])
        one, both = outcomes.of_one(0), outcomes.of_both()["intervals"]
        inside["accuracy"] += one["accuracy"][0] <= accuracy[0] <= one["accuracy"][1]
        inside["f1"] += one["f1_macro"][0] <= f1[0] <= one["f1_macro"][1]
        inside["recall"] += one["recall_macro"][0] <= recall[0] <= one["recall_macro"][1]
        low, high = both["accuracy_drop"]
        inside["drop"] += low <= accuracy[0] - accuracy[1] <= high
        inside["f1_drop"] += both["f1_drop"][0] <= f1[0] - f1[1] <= both["f1_drop"][1]
    assert all(count >= 108 for count in inside.values()), inside


def test_batches_make_no_difference():
    truth, found = sampled(np.random.default_rng(2), 999)
    whole, parts = Outcomes(4, 2), Outcomes(4, 2)
    whole.look(truth, found)
    for start in range(0, 999, 100):
        parts.look(truth[start : start + 100], [each[start : start + 100] for each in found])
    assert whole.of_both() == parts.of_both()
    assert whole.of_one(1) == parts.of_one(1)
    both = whole.of_both()["mcnemar"]
    lost = ((found[0] == truth) & (found[1] != truth)).sum()
    gained = ((found[0] != truth) & (found[1] == truth)).sum()
    assert (both["only_before_right"], both["only_after_right"]) == (lost, gained)


def test_a_network_that_is_always_right_is_not_certain_to_be():
    truth = np.arange(90) % 3
    outcomes = Outcomes(3, 1)
    outcomes.look(truth, [truth])
    found = outcomes.of_one()
    for name in ("accuracy", "recall_macro", "f1_macro", "precision_macro"):
        assert 0.9 < found[name][0] < 1 == found[name][1]
    assert 0.85 < found["classes"][0]["f1"][0] < 1


def test_several_labels_a_sample():
    rng = np.random.default_rng(3)
    truth = (rng.random((400, 11)) < 0.4).astype(np.int64)
    said = np.where(rng.random(truth.shape) < 0.1, 1 - truth, truth)
    outcomes = Outcomes(11, 2, labels=True)
    outcomes.look(truth[:100], [said[:100], truth[:100]])
    outcomes.look(truth[100:], [said[100:], truth[100:]])
    found = outcomes.of_one()
    known = f1_score(truth, said, average="macro")
    assert found["f1_macro"][0] < known < found["f1_macro"][1]
    assert found["f1_macro"][1] - found["f1_macro"][0] < 0.05
    right = int((said == truth).all(axis=1).sum())
    assert found["accuracy"] == intervals.wilson(right, 400)
    assert outcomes.of_both()["mcnemar"]["only_after_right"] == 400 - right
    low, high = outcomes.recall_drop(0)
    drop = recall_score(truth[:, 0], said[:, 0]) - 1
    assert low < drop < high


def test_values_that_are_none_decide_as_in_the_metrics():
    odd = np.array([[np.nan, 0.2, 0.1], [np.inf, 1, 2], [-np.inf, -1, -2]])
    assert decided("multiclass", odd, logits=False).tolist() == [1, 0, 1]
    assert decided("multilabel", odd, logits=False)[0].tolist() == [False, False, False]


def numbers_of(truth, *found, batch=64):
    numbers = Numbers(truth.shape[1], len(found))
    for start in range(0, len(truth), batch):
        part = slice(start, start + batch)
        numbers.look(truth[part], [each[part] for each in found])
    return numbers


@pytest.mark.parametrize("rows", [400, 7001])
def test_the_bootstrap_of_errors_is_as_wide_as_theory_says(rows):
    """MAE is a mean: its interval is 1.96 standard errors to each side, with groups too."""
    rng = np.random.default_rng(1)
    truth = 100 + rng.normal(size=(rows, 1))
    error = rng.exponential(size=(rows, 1))
    low, high = numbers_of(truth, truth + error).of_one(0)["mae"]
    half = 1.96 * error.std() / np.sqrt(rows)
    assert (low + high) / 2 == pytest.approx(error.mean(), abs=half / 4)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_the_bootstrap_of_errors_is_that_of_the_samples():
    """R² and RMSE of two outputs, against scikit-learn's on samples drawn again."""
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(120, 2)) + np.array([0, 50])
    found = truth + rng.normal(size=truth.shape) * [0.3, 0.8]
    told = numbers_of(truth, found).of_one(0)
    picks = rng.integers(0, 120, (800, 120))
    r2 = [r2_score(truth[each], found[each]) for each in picks]
    rmse = [np.sqrt(((truth[each] - found[each]) ** 2).mean(axis=0)).mean() for each in picks]
    for key, values in (("r2", r2), ("rmse", rmse)):
        low, high = np.quantile(values, (0.025, 0.975))
        assert told[key] == pytest.approx((low, high), abs=(high - low) / 6)


def test_what_changes_is_measured_on_the_same_samples():
    """Errors that both models share are no uncertainty of the change."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(500, 1))
    before = truth + rng.normal(size=truth.shape)
    assert set(numbers_of(truth, before, before).of_both().values()) == {(0.0, 0.0)}
    after = truth + 1.1 * (before - truth)
    told = numbers_of(truth, before, after)
    low, high = told.of_both()["mae_increase"]
    mean = 0.1 * np.abs(before - truth).mean()
    assert low < mean < high
    alone = told.of_one(0)["mae"]
    assert high - low < (alone[1] - alone[0]) / 5
    assert told.of_both()["r2_drop"][0] > 0


def test_batches_do_not_matter_and_few_samples_have_no_interval():
    rng = np.random.default_rng(4)
    truth, noise = rng.normal(size=(2500, 3)), rng.normal(size=(2500, 3))
    one = numbers_of(truth, truth + noise, batch=2500).of_one(0)
    other = numbers_of(truth, truth + noise, batch=7).of_one(0)
    for key, ends in one.items():
        assert ends == pytest.approx(other[key], rel=1e-3)
    assert numbers_of(truth[:9], truth[:9]).of_one(0) == {}
    assert numbers_of(truth[:9], truth[:9], truth[:9]).of_both() == {}
    wide = np.zeros((20, 5000))
    assert numbers_of(wide, wide).of_one(0) == {}
    broken = truth + np.where(noise > 3, np.nan, noise)
    assert numbers_of(truth, broken).of_one(0) == {}

"""How sure a limit is that was measured on some samples."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from modelcut.metrics.limits import Gates
from modelcut.tuner.request import goal_of


def report(lost, gained, rows):
    """What a goal reads of a report: the drop on so many samples."""
    drop = (lost - gained) / rows
    change = {
        "accuracy_drop": drop,
        "mcnemar": {"only_before_right": lost, "only_after_right": gained},
    }
    after = {"rows": rows, "metrics": {"accuracy": 0.9 - drop}}
    evaluation = SimpleNamespace(after=after, change=change, agreement=None)
    return SimpleNamespace(evaluation=evaluation, output=SimpleNamespace(bytes=1000))


def goal(limit, confidence=0.9):
    return goal_of((), (), Gates(max_accuracy_drop=limit), confidence)


@pytest.mark.parametrize(
    ("lost", "gained", "rows", "sure"),
    [
        (0, 0, 1000, True),
        (8, 8, 1000, True),  # 5.3 of 1,000 up
        (9, 4, 1000, True),
        (14, 4, 1000, False),  # it holds, at the limit
        (2, 0, 200, False),
    ],
)
def test_a_drop_that_is_sure(lost, gained, rows, sure):
    judged = goal(0.01).judge(report(lost, gained, rows))
    assert judged.excess == 0
    assert (judged.doubt == 0) is sure


def test_a_confidence_of_a_half_takes_what_was_measured():
    assert goal(0.01, 0.5).judge(report(2, 0, 200)).doubt == 0
    failed = goal(0.01, 0.5).judge(report(4, 0, 200))
    assert failed.doubt == failed.excess == pytest.approx(1)


@pytest.mark.parametrize(
    ("tested", "lost", "sure"),
    [
        (float("inf"), 67, True),  # 0.497 points up; without test samples
        (float("inf"), 68, False),
        (1_000_000, 67, True),
        (10_000, 62, True),  # 0.495
        (10_000, 63, False),
        (100, 62, True),  # as if they were 10,000: of few none is sure
        (100, 63, False),
    ],
)
def test_test_samples_are_drawn_by_chance_too(tested, lost, sure):
    wanted = replace(goal(0.005), tested=tested)
    judged = wanted.judge(report(lost, 30, 10_000))
    assert judged.excess == 0
    assert (judged.doubt == 0) is sure


def test_of_few_samples_a_test_asks_for_no_more():
    for lost in (1, 2):
        judged = [
            replace(goal(0.005), tested=tested).judge(report(lost, 1, 250)).doubt
            for tested in (float("inf"), 250)
        ]
        assert judged[0] == pytest.approx(judged[1])


def test_few_samples_are_asked_for_less():
    assert goal(0.01).told(0.01, 10_000) == 0.9
    assert 0.7 < goal(0.005).told(0.005, 250) < 0.8
    # One each way is within what they can tell, one more to the bad is not.
    assert goal(0.005).judge(report(1, 1, 250)).doubt == 0
    assert goal(0.005).judge(report(2, 1, 250)).doubt > 0


@pytest.mark.parametrize(
    ("right", "rows", "sure"),
    [
        (250, 250, True),
        (247, 250, True),  # Wilson's lower end at 90 %, one-sided: 0.9727
        (246, 250, False),
        (9, 9, True),  # few samples can tell no more
    ],
)
def test_an_accuracy_that_is_sure(right, rows, sure):
    limits = goal_of((), (), Gates(min_accuracy=0.971), 0.9)
    evaluation = SimpleNamespace(
        after={"rows": rows, "metrics": {"accuracy": right / rows}}, change=None, agreement=None
    )
    measured = SimpleNamespace(evaluation=evaluation, output=SimpleNamespace(bytes=1000))
    judged = limits.judge(measured)
    assert judged.excess == 0
    assert (judged.doubt == 0) is sure

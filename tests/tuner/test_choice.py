"""Which trial is chosen where some of them were lucky."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from modelcut.metrics.limits import Gates
from modelcut.tuner.choice import choose, expected_drop, passed_over
from modelcut.tuner.record import Trial
from modelcut.tuner.request import goal_of
from modelcut.tuner.trial import Result

LIMIT = 0.005
ERROR = 0.0014
"""Standard error of 10,000 samples of which one model alone is right on 2 %."""


def goal(confidence=0.9):
    return goal_of((), (), Gates(max_accuracy_drop=LIMIT), confidence)


def trial(number, size, loss, drop, *, error=ERROR, confidence=0.9):
    wanted = goal(confidence)
    upper = drop + wanted.errors(LIMIT, 10_000) * error
    measured = {"accuracy_drop": drop, "drop_error": error, "log_loss": loss, "samples": 10_000}
    excess, doubt = (max(0.0, value - LIMIT) / LIMIT for value in (drop, upper))
    return Trial(number, {"steps": []}, Result((size,), excess, doubt, measured=measured))


def on_a_line(**fields):
    """Candidates whose drop rises with the log loss as it should."""
    rows = [(30, 0.25), (25, 0.251), (20, 0.252), (15, 0.253), (12, 0.254), (8, 0.256)]
    return [trial(i, size, loss, loss - 0.25, **fields) for i, (size, loss) in enumerate(rows)]


def test_a_lucky_one_is_passed_over():
    lucky = trial(6, 9, 0.2555, 0.0005)
    chosen, sure = choose([*on_a_line(), lucky], goal())
    assert (chosen.result.values, sure) == ((15,), True)
    found = passed_over([*on_a_line(), lucky], chosen, goal())
    assert found == [{"number": 6, "expected_drop": pytest.approx(0.0055)}]
    # Its log loss in keeping with its drop, it is the best.
    earned = trial(6, 9, 0.2505, 0.0005)
    assert choose([*on_a_line(), earned], goal())[0] is earned
    assert passed_over([*on_a_line(), earned], earned, goal()) == []


def test_at_a_confidence_of_a_half_the_samples_decide():
    lucky = trial(6, 9, 0.2555, 0.0005, confidence=0.5)
    assert choose([*on_a_line(confidence=0.5), lucky], goal(0.5))[0] is lucky


def test_few_candidates_give_no_line():
    lucky = trial(6, 9, 0.2555, 0.0005)
    assert choose([*on_a_line()[:3], lucky], goal())[0] is lucky
    assert expected_drop(lucky, on_a_line()[:3]) == (0.0005, 1.0)


def test_a_lucky_one_is_better_than_none():
    failed = [trial(i, 9 + i, 0.2555, 0.008) for i in range(6)]
    lucky = trial(6, 9, 0.2555, 0.0005)
    assert choose([*failed, lucky], goal()) == (lucky, True)


def test_what_differs_more_than_by_chance_is_a_candidate_s_own():
    scattered = [trial(i, 20, 0.25 + 1e-4 * i, 0.02 * (-1) ** i) for i in range(8)]
    one = trial(8, 9, 0.2504, -0.02)
    drop, part = expected_drop(one, [*scattered, one])
    assert drop == pytest.approx(-0.02, abs=1e-3)
    assert part == pytest.approx(1, abs=0.01)


def test_the_expected_drop_is_nearer_to_what_other_samples_give():
    rng = np.random.default_rng(0)
    off: dict[str, list[float]] = {"measured": [], "expected": []}
    for _ in range(200):
        losses = rng.uniform(0.25, 0.258, 12)
        real = losses - 0.25 + rng.normal(0, 0.0005, 12)
        drops = real + rng.normal(0, ERROR / 2**0.5, 12)
        trials = [trial(i, 10, loss, drops[i]) for i, loss in enumerate(losses)]
        luckiest = int(np.argmin(drops - losses))
        off["measured"].append(drops[luckiest] - real[luckiest])
        off["expected"].append(expected_drop(trials[luckiest], trials)[0] - real[luckiest])
    assert statistics.mean(off["measured"]) < -0.001
    assert abs(statistics.mean(off["expected"])) < 0.0004


def test_a_network_that_diverged_tells_nothing_of_the_others():
    lucky = trial(6, 9, 0.2555, 0.0005)
    broken = trial(7, 9, float("inf"), 0.8)
    assert expected_drop(lucky, [*on_a_line(), lucky, broken]) == expected_drop(
        lucky, [*on_a_line(), lucky]
    )
    assert choose([*on_a_line(), lucky, broken], goal())[0].result.values == (15,)

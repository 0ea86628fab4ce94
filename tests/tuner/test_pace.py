"""How long trainings are, where the time of a search is limited."""

import pytest

from modelcut.tuner.pace import Pace

RECIPE = {
    "steps": [
        {"finetune": "straight_through", "steps": 1800},
        {"prune": "magnitude"},
        {"finetune": "straight_through", "steps": 900},
    ]
}


def learned(seconds, start, each, trials=40):
    """The pace where a run takes `start` seconds, and each batch `each`."""
    pace = Pace(seconds, trials, open_=True)
    for fraction in pace.probes(RECIPE):
        seconds = start + each * fraction * 2700 + (fraction == 1 / 2700) * 9
        if pace.learn(RECIPE, fraction, seconds):
            break
    return pace


def test_six_trials_fit_into_the_time():
    pace = learned(600, 10, 0.1)
    assert 10 + pace.factor * 270 == pytest.approx(100, rel=0.01)
    assert pace.probes(RECIPE) == ()


@pytest.mark.parametrize(("seconds", "factor"), [(60_000, 3.0), (30, 1 / 30)])
def test_no_training_is_very_long_or_very_short(seconds, factor):
    assert learned(seconds, 10, 0.1).factor == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("trials", [6, 10, 16])
def test_where_six_to_sixteen_trials_fit_nothing_changes(trials):
    assert learned(280 * trials, 10, 0.1).factor == 1


@pytest.mark.parametrize(("trials", "done"), [(1, 1), (3, 3), (40, 16)])
def test_trainings_are_lengthened_where_there_is_time_for_many(trials, done):
    seconds = 280 * 2.5 * done
    pace = learned(seconds, 10, 0.1, trials)
    assert done * (10 + 270 * pace.factor) == pytest.approx(seconds, rel=0.01)


def test_trainings_are_shortened_for_no_more_trials_than_were_asked_for():
    assert 3 * (10 + 270 * learned(600, 10, 0.1, 3).factor) == pytest.approx(600, rel=0.01)


def test_nothing_is_changed_that_need_not_be():
    assert Pace(None, 40, open_=True).factor == 1
    assert Pace(600, 40, open_=False).factor == 1
    assert Pace(600, 40, open_=False).probes(RECIPE) == ()
    trainless = {"steps": [{"prune": "magnitude"}]}
    assert Pace(600, 40, open_=True).probes(trainless) == ()


def test_a_probe_that_was_slow_does_no_harm():
    pace = Pace(60, 40, open_=True)
    seconds = iter([30.0, 25.0, 20.0])
    told = [pace.learn(RECIPE, each, next(seconds)) for each in pace.probes(RECIPE)]
    assert told == [False, True, True], "the second took longer than a trial should"
    assert 0 < pace.factor <= 3


@pytest.mark.parametrize(
    ("took", "elapsed", "left"),
    # What is left is for five more trials, of which 10 s are no training.
    [(100, 120, (600 - 120) / 5), (60, 80, (600 - 80) / 5), (300, 320, (600 - 320) / 5)],
)
def test_the_first_whole_trial_corrects_the_factor_once(took, elapsed, left):
    pace = learned(600, 10, 0.1)
    before = pace.factor
    pace.took(took, elapsed)
    assert pace.factor == pytest.approx(before * (left - 10) / (took - 10), rel=0.01)
    found = pace.factor
    pace.took(500, 550)
    assert pace.factor == found


@pytest.mark.parametrize(("each", "known"), [(0.3, False), (0.4, True)])
def test_no_probe_is_run_that_would_take_longer_than_a_trial(each, known):
    pace = Pace(480, 40, open_=True)
    first, second, last = pace.probes(RECIPE)
    pace.learn(RECIPE, first, 20 + each)
    assert pace.learn(RECIPE, second, 20 + 60 * each) == known  # the last: 74 or 92 s, of 80
    assert (pace.factor is not None) == known
    if not known:
        pace.learn(RECIPE, last, 20 + 180 * each)
    assert 20 + 2700 * pace.factor * each == pytest.approx(80, rel=0.01)


def test_a_trial_as_long_as_a_probe_corrects_nothing():
    """What the probe has trained is kept, so that the trial takes no time."""
    recipe = {"steps": [{"finetune": "straight_through", "steps": 1800}]}
    pace = Pace(480, 40, open_=True)
    told = [pace.learn(recipe, part, 20 + 2 * part * 1800) for part in pace.probes(recipe)[:2]]
    assert told == [False, True]
    assert pace.factor == pytest.approx(1 / 30, rel=0.01)
    pace.took(3, 190)
    assert pace.factor == pytest.approx(1 / 30, rel=0.01)


def test_trainings_are_made_four_times_as_long_at_most():
    pace = learned(600, 10, 1.0)
    before = pace.factor
    pace.took(5, 20)
    assert pace.factor == pytest.approx(4 * before, rel=0.01)


def test_no_trial_is_begun_of_which_less_than_half_is_left():
    pace = Pace(100, 40, open_=False)
    assert not pace.late(99, found=True)
    assert pace.late(100, found=True)
    for seconds in (10, 30, 32):
        pace.took(seconds, 0)
    assert not pace.late(84, found=True)
    assert pace.late(86, found=True)
    assert not pace.late(86, found=False), "one that meets the limits is worth the time"
    assert pace.late(100, found=False)
    assert not Pace(None, 40, open_=True).late(1e9, found=True)

"""Which points are tried before a sampler is asked."""

from __future__ import annotations

import random

import pytest

from modelcut.tuner.ladder import Ladder, trials_for

POINTS = [{"x": number} for number in range(15)]


def climbed(limit, trials=4, *, bold=True, told=()):
    """The points that are tried where those up to `limit` hold, or, if not bold, from it on."""
    ladder = Ladder(POINTS, trials, bold=bold)
    for rung, holds in told:
        ladder.tell(rung, holds=holds)
    tried = []
    while (found := ladder.next()) is not None:
        rung, point = found
        tried.append(point["x"])
        ladder.tell(rung, holds=point["x"] <= limit if bold else point["x"] >= limit)
    return tried


@pytest.mark.parametrize("limit", range(-1, 15))
def test_the_boldest_that_holds_is_found(limit):
    tried = climbed(limit)
    assert len(tried) <= 4
    assert max([x for x in tried if x <= limit], default=-1) == limit


def test_the_most_careful_within_a_size_is_found():
    assert climbed(5, bold=False)[:2] == [7, 3]
    assert 5 in climbed(5, bold=False)


def test_few_trials_come_near():
    assert climbed(9, trials=2) == [7, 11]


def test_an_interrupted_search_goes_on_where_it_was():
    assert climbed(9, told=[(7, True), (11, False)]) == climbed(9)[2:]


def climbed_by(workers, limit, rng):
    """The rungs that are tried by several workers, which end in any order."""
    trials = trials_for(len(POINTS), 4, workers)
    ladder = Ladder(POINTS, trials, bold=True, at_once=workers)
    tried, busy = [], []
    while True:
        while len(busy) < workers and (found := ladder.next()) is not None:
            busy.append(found[0])
        if not busy:
            return tried
        rung = busy.pop(rng.randrange(len(busy)))
        tried.append(rung)
        ladder.tell(rung, holds=rung <= limit)


@pytest.mark.parametrize("workers", [2, 3, 8, 20])
def test_several_workers_find_the_same(workers):
    rng = random.Random(workers)
    for limit in [*range(-1, 15)] * 5:
        tried = climbed_by(workers, limit, rng)
        assert len(set(tried)) == len(tried) <= trials_for(len(POINTS), 4, workers)
        assert max([x for x in tried if x <= limit], default=-1) == limit


def test_several_workers_divide_the_row_into_equal_parts():
    ladder = Ladder(POINTS, 6, bold=True, at_once=2)
    assert [ladder.next()[0], ladder.next()[0]] == [4, 9]
    ladder.tell(9, holds=True)
    assert ladder.next()[0] == 11, "4 needs not be waited for: it holds if 9 does"
    assert trials_for(15, 4, 1) == 4
    assert trials_for(15, 4, 2) == 7

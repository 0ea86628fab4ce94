"""Which points are tried before a sampler is asked."""

from __future__ import annotations

import pytest

from modelcut.tuner.ladder import Ladder

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


def test_several_workers_try_several_points():
    ladder = Ladder(POINTS, 4, bold=True)
    found = [ladder.next(), ladder.next()]
    assert [rung for rung, _ in found] == [7, 3]
    ladder.tell(7, holds=True)
    ladder.tell(3, holds=True)
    assert ladder.next()[0] == 11

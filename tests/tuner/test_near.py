"""Points near the best one of a search."""

import pytest

from modelcut.recipe.space import Choice, Range
from modelcut.tuner.ladder import Ladder
from modelcut.tuner.near import longer, near

PARAMETERS = {
    "sparsity": Range(0.3, 0.99),
    "rate": Range(1e-4, 1e-2, log=True),
    "count": Range(2, 9),
    "values": Choice((32, 16, 8, 4)),
    "maybe": Choice((0, 1)),
}
BEST = {"sparsity": 0.9, "rate": 1e-3, "count": 4, "values": 1, "maybe": 1}
BOLDER = {"sparsity": 0.96, "rate": 1e-3, "count": 6, "values": 2, "maybe": 1}


def test_points_are_near_the_best_and_mostly_bolder():
    points = [near(BEST, BOLDER, PARAMETERS, seed) for seed in range(200)]
    for point in points:
        assert point.keys() == BEST.keys()
        assert 0.9 <= point["sparsity"] <= 0.99
        assert 4 <= point["count"] <= 7
        assert isinstance(point["count"], int)
        assert 1e-4 <= point["rate"] <= 1e-2
        assert point["values"] in range(4)
    for name, value in BEST.items():
        stayed = sum(point[name] == value for point in points)
        assert stayed > 20, name
        assert stayed < 200, name
    assert len({tuple(point.values()) for point in points}) > 150
    assert points == [near(BEST, BOLDER, PARAMETERS, seed) for seed in range(200)]


def test_what_a_step_that_is_left_out_would_have_is_not_asked_for():
    assert "count" not in near({"sparsity": 0.9}, BOLDER, PARAMETERS, 0)
    assert near({"gone": 1}, BOLDER, PARAMETERS, 0) == {}


def test_a_point_that_is_not_of_the_space_is_brought_into_it():
    odd = {"sparsity": float("nan"), "rate": -1.0, "count": 1e9, "values": 7, "maybe": 0.5}
    for seed in range(50):
        point = near(odd, odd, PARAMETERS, seed)
        assert 0.3 <= point["sparsity"] <= 0.99
        assert 1e-4 <= point["rate"] <= 1e-2
        assert 2 <= point["count"] <= 9
        assert point["values"] in range(4)
        assert point["maybe"] in range(2)


@pytest.mark.parametrize("bold", [True, False])
def test_the_point_beyond_the_first_that_failed(bold):
    points = [{"x": rung} for rung in range(15)]
    ladder = Ladder(points, 4, bold=bold)
    order = points if bold else points[::-1]
    least = order[0]
    assert ladder.beyond(least) == order[14]
    ladder.tell(7, holds=True)
    assert ladder.beyond(least) == order[14]
    ladder.tell(11, holds=False)
    assert ladder.beyond(least) == order[12]
    ladder.tell(9, holds=False)
    assert ladder.beyond(least) == order[10]
    assert ladder.beyond(order[8]) == order[10]
    assert ladder.beyond({"x": order[10]["x"] + 0.4}) == order[12], "it held what had failed"
    assert ladder.beyond(order[14]) == order[14]
    assert ladder.beyond({}) == order[10], "a point of another space"
    assert Ladder([], 4, bold=bold).beyond(least) is None
    edge = Ladder(points, 4, bold=bold)
    edge.tell(14, holds=False)
    assert edge.beyond(least) == order[14]


def test_each_value_goes_on_from_where_it_is():
    ladder = Ladder([{"x": rung, "y": 2 * rung, "z": 5} for rung in range(15)], 4, bold=True)
    ladder.tell(6, holds=False)
    assert ladder.beyond({"x": 5, "y": 16, "z": 5}) == {"x": 7, "y": 20, "z": 5}


def test_what_missed_the_limits_by_little_is_trained_longer_once():
    parameters = {"steps.2.steps": Choice((200, 600, 1800)), "x": Range(0.0, 1.0)}
    short, long = {"steps.2.steps": 1, "x": 0.5}, {"steps.2.steps": 2, "x": 0.7}
    name = "steps.2.steps"
    wanted = {"steps.2.steps": 2, "x": 0.5}
    assert longer([long, short], [], name, parameters) == wanted
    assert longer([long, short], [wanted], name, parameters) is None
    assert longer([{"x": 0.5}, {name: "1"}], [], name, parameters) is None
    assert longer([short], [], "", parameters) is None
    assert longer([short], [], "x", parameters) is None

"""Recipes with open values."""

from __future__ import annotations

import json
import random

import pytest

from modelcut.errors import RecipeError
from modelcut.recipe import recipe as recipes
from modelcut.recipe.space import Choice, Range, Space
from modelcut.recipe.yaml_text import loads
from modelcut.tuner.sampler import drawn_from

TEXT = """
steps:
  - maybe:
      prune: magnitude
      sparsity: {range: [0.5, 0.98]}
      overrides: {"class:Dense": {sparsity: {choose: [0.1, 0.2]}}}
  - choose:
      - {quantize: cluster, values: {range: [4, 32], log: true}}
      - {quantize: linear, bits: {choose: [4, 5, 6]}}
"""


def space(text=TEXT):
    return Space.of(loads(text, "r.yaml"))


def test_open_values_by_their_path():
    found = space().parameters
    assert found["steps.0.1.sparsity"] == Range(0.5, 0.98)
    assert found["steps.0.1.overrides.class:Dense.sparsity"] == Choice((0.1, 0.2))
    assert found["steps.1.0.values"] == Range(4, 32, log=True)
    assert found["steps.1.1.bits"] == Choice((4, 5, 6))
    assert len(found) == 6


def test_only_what_is_chosen_is_asked_for():
    asked = []

    def ask(name, parameter):
        asked.append(name)
        return {"steps.0": 0, "steps.1": 1, "steps.1.1.bits": 2}[name]

    made = space().fill(ask)
    assert made.to_dict()["steps"] == [{"quantize": "linear", "bits": 6}]
    assert asked == ["steps.0", "steps.1", "steps.1.1.bits"]


def test_values_that_are_given():
    made = space().at({"steps.0": 1, "steps.0.1.sparsity": 0.75})
    assert made.to_dict()["steps"] == [
        {"prune": "magnitude", "sparsity": 0.75, "overrides": {"class:Dense": {"sparsity": 0.1}}},
        {"quantize": "cluster", "values": 4},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [{prune: magnitude, sparsity: {range: [0.9, 0.5]}}]", "r.yaml:1:28: range takes"),
        ("steps: [{prune: magnitude, sparsity: {range: [0.5]}}]", "range takes"),
        ("steps: [{prune: magnitude, sparsity: {range: [0, 1], log: true}}]", "log"),
        ("steps: [{prune: magnitude, sparsity: {choose: []}}]", "choose takes a list"),
        ("seed: {maybe: 3}\nsteps: []", "'maybe' stands before a whole step"),
    ],
)
def test_what_is_written_wrongly(text, message):
    with pytest.raises(RecipeError, match=message):
        space(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [{prune: magnitude, sparsity: {range: [0.5, 1.5]}}]", "sparsity"),
        ("steps: [{maybe: {prune: magnitude, sparsity: {range: [0.5, 1.5]}}}]", "sparsity"),
        ("steps: [{choose: [{quantize: linear}, {quantize: lineal}]}]", "lineal"),
        ("steps: [{quantize: linear, bits: {choose: [4, 99]}}]", "bits"),
        ("steps: [{quantize: linear, bots: {choose: [4]}}]", "bots"),
    ],
)
def test_each_end_is_checked(text, message):
    with pytest.raises(RecipeError, match=message):
        space(text).check()


def test_a_recipe_with_open_values_is_not_run():
    with pytest.raises(RecipeError, match=r"r.yaml:3:5: 'maybe' leaves a value open"):
        recipes.parse(loads(TEXT, "r.yaml"))
    space().check()


def test_an_error_names_its_line_though_a_step_before_it_was_left_out():
    text = "steps:\n  - maybe: {quantize: float16}\n  - prune: magnitude\n    sparsity: x\n"
    with pytest.raises(RecipeError, match=r"r\.yaml:3"):
        space(text).at({"steps.0": 0})


def test_the_schema_knows_open_values():
    schema = recipes.schema()
    definitions = schema["$defs"]
    assert {"choose", "range", "step"} <= set(definitions)
    items = schema["properties"]["steps"]["items"]["anyOf"]
    assert [key for each in items for key in each.get("properties", {})] == ["maybe", "choose"]
    json.dumps(schema)


def test_draws_cover_a_parameter_evenly():
    generator = random.Random(0)
    draws = [generator.random() for _ in range(4000)]
    whole = [drawn_from(Range(2, 5), at) for at in draws]
    assert all(abs(whole.count(value) / 4000 - 0.25) < 0.03 for value in (2, 3, 4, 5))
    assert set(whole) == {2, 3, 4, 5}
    log = sorted(drawn_from(Range(1e-4, 1e-2, log=True), at) for at in draws)
    assert log[2000] == pytest.approx(1e-3, rel=0.15)
    assert log[0] >= 1e-4
    assert log[-1] <= 1e-2
    options = [drawn_from(Choice(("a", "b")), at) for at in (0.0, 0.49, 0.51, 1.0)]
    assert options == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "values",
    [
        {"steps.0": 0, "steps.1": 1, "steps.1.1.bits": 2},
        {
            "steps.0": 1,
            "steps.0.1.sparsity": 0.75,
            "steps.0.1.overrides.class:Dense.sparsity": 1,
            "steps.1": 0,
            "steps.1.0.values": 7,
        },
    ],
)
def test_the_values_of_a_recipe_are_found_again(values):
    assert space().locate({"steps": space().at(values).to_dict()["steps"]}) == values


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"quantize": "linear", "bits": 7}],
        [{"quantize": "linear", "bits": 4, "per": "channel"}],
        [{"quantize": "cluster", "values": 33}],
        [{"quantize": "cluster", "values": 7}, {"quantize": "float16"}],
    ],
)
def test_a_recipe_outside_the_space(steps):
    assert space().locate({"steps": steps}) is None

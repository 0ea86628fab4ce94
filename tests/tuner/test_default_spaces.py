"""Spaces and recipes that are made for a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcut.formats import registry
from modelcut.recipe import recipe as recipes
from modelcut.recipe.yaml_text import loads
from modelcut.tuner.default import Facts, space_of
from modelcut.tuner.starter import recipe_for

DEMO = Path(__file__).parents[2] / "modelcut" / "demo" / "digits.h5"


@pytest.fixture(scope="module")
def demo():
    with registry.open_model(DEMO) as model:
        yield model


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("suffix", [".mcut", ".h5", ".tflite"])
@pytest.mark.parametrize("objective", ["bytes", "latency_ms"])
def test_every_end_of_the_default_space_is_a_recipe(demo, train, suffix, objective):
    facts = Facts.of(
        demo, train=train, samples=train or suffix == ".h5", suffix=suffix, objective=objective
    )
    space, starts = space_of(facts)
    space.check()
    assert space.parameters
    trains = any("finetune" in step for step in space.at({}).to_dict()["steps"])
    assert trains == train
    for start in starts:
        space.at(start)
    if not starts:
        pytest.fail("there is a point to begin with")
    careful, _, bold = (space.at(start).to_dict() for start in starts)
    assert careful != bold


def test_what_the_demo_network_has(demo):
    facts = Facts.of(demo, train=True, samples=True, suffix=".mcut", objective="bytes")
    assert facts.convolutions
    assert facts.channels
    assert facts.last == "digit"
    assert facts.parameters == 55_082


@pytest.mark.parametrize("goal", ["size", "speed", "microcontroller"])
def test_a_recipe_for_a_goal(demo, goal):
    text = recipe_for(demo, goal)
    made = recipes.parse(loads(text, "new.yaml"))
    assert made.steps
    assert made.head.gates.max_accuracy_drop == 0.01
    families = [step.family for step in made.steps]
    assert families[0] == ("finetune" if goal == "size" else "prune")
    assert (made.head.export.type == "int8") == (goal != "size")
    assert "digits.h5" in text

"""Spaces and recipes that are made for a model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from toys import dense, toy_model

from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.recipe import recipe as recipes
from modelcut.recipe.yaml_text import loads
from modelcut.tuner.default import Facts, space_of
from modelcut.tuner.starter import recipe_for

DEMO = Path(__file__).parents[2] / "modelcut" / "demo" / "digits.h5"
MODELS = Path(__file__).parents[1] / "data" / "models"
GRAPHS = Path(__file__).parents[1] / "data" / "saved_models"


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
    space, first = space_of(facts)
    space.check()
    assert space.parameters
    assert len(first.ladder) == 23
    assert len({tuple(point) for point in first.ladder}) == 1, "all rungs have the same values"
    recipes_ = [space.at(point).to_dict()["steps"] for point in first.ladder]
    assert any("finetune" in step for step in recipes_[0]) == train
    assert recipes_[0] != recipes_[-1]
    # What the recipes int8 and int4-no-training do is tried where nothing else is known.
    known = [space.at(point).to_dict() for point in first.known]
    if suffix == ".tflite":
        assert known[0]["steps"] == []
    elif objective == "bytes" and not train:
        assert [steps["steps"][0]["bits"] for steps in known] == [8, 4]
    # Where steps train, eight bits without a training are there for the case that none is enough.
    untrained = [step["bits"] for step in first.untrained]
    assert untrained == ([8] if train and suffix != ".tflite" and objective == "bytes" else [])


def test_the_ladder_gets_bolder(demo):
    facts = Facts.of(demo, train=True, samples=True, suffix=".mcut", objective="bytes")
    space, first = space_of(facts)
    steps = [space.at(point).to_dict()["steps"] for point in first.ladder]
    sparsities = [one[0]["prune"]["sparsity"] for one in steps]
    assert sparsities == sorted(set(sparsities))
    values = [one[1]["values"] for one in steps]
    assert values == sorted(values, reverse=True)


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


@pytest.mark.parametrize(("last", "gate"), [("softmax", 0.01), ("linear", None)])
def test_the_gate_is_one_for_the_network(last, gate):
    layers = [dense("hidden", 3, activation="relu"), dense("out", 2, activation=last)]
    config = {"class_name": "Sequential", "config": {"name": "toy", "layers": layers}}
    arrays = {"hidden": (np.ones((4, 3), "f4"), None), "out": (np.ones((3, 2), "f4"), None)}
    text = recipe_for(toy_model(arrays, config), "size")
    assert recipes.parse(loads(text, "new.yaml")).head.gates.max_accuracy_drop == gate


def test_a_first_layer_with_most_of_the_weights_is_pruned_like_the_others():
    def facts_of(*widths):
        kernels = {
            f"d{number}": (np.ones(shape, np.float32), None)
            for number, shape in enumerate(itertools.pairwise(widths))
        }
        made = toy_model(kernels)
        return Facts.of(made, train=True, samples=True, suffix=".mcut", objective="bytes")

    wide, even = facts_of(784, 300, 100, 10), facts_of(10, 30, 100, 10)
    assert (wide.first, wide.last) == ("", "d2")
    assert (even.first, even.last) == ("d0", "d2")
    patterns = []
    for facts in (wide, even):
        _, first = space_of(facts)
        steps = space_of(facts)[0].at(first.ladder[7]).to_dict()["steps"]
        patterns.append(
            list(next(step for step in steps if "finetune" in step)["prune"]["overrides"])
        )
    assert patterns == [["path:d2", "role:bias?"], ["path:d0", "path:d2", "role:bias?"]]


@pytest.mark.parametrize("name", ["keras3_text.keras", "tf_keras_text.h5"])
@pytest.mark.parametrize("train", [True, False])
def test_embeddings_are_pruned_and_clustered(name, train):
    with registry.open_model(MODELS / name) as model:
        facts = Facts.of(model, train=train, samples=False, suffix=".mcut", objective="bytes")
        made = recipe_for(model, "size")
    assert facts.embeddings
    space, first = space_of(facts)
    steps = space.at(first.ladder[11]).to_dict()["steps"]
    pruning = steps[0]["prune"] if train else steps[0]
    assert "role:embedding?" in pruning["include"]
    assert "role:embedding?" in made
    if train:
        assert 0.5 < pruning["overrides"]["role:embedding?"] < pruning["sparsity"]
        assert "role:embedding?" in steps[1]["include"]


@pytest.mark.parametrize("name", ["keras3_cnn.keras", "tf_keras_cnn.h5"])
def test_the_small_kernels_of_separable_convolutions_are_pruned_less(name):
    with registry.open_model(MODELS / name) as model:
        facts = Facts.of(model, train=True, samples=False, suffix=".mcut", objective="bytes")
        roles = [t.role for layer in model.layers for t in layer.tensors]
    assert "depthwise_kernel" in roles
    space, first = space_of(facts)
    overrides = space.at(first.ladder[11]).to_dict()["steps"][0]["prune"]["overrides"]
    assert overrides["role:depthwise_kernel?"] < overrides["class:*Conv*?"]
    assert list(overrides).index("role:depthwise_kernel?") > list(overrides).index("class:*Conv*?")


@pytest.mark.parametrize("name", ["keras3.zip", "tf_keras.zip", "module.zip", "v1.zip"])
@pytest.mark.parametrize("suffix", [".mcut", ".tflite"])
def test_no_step_trains_the_graph_of_a_saved_model(name, suffix):
    with registry.open_model(GRAPHS / name) as model:
        facts = Facts.of(model, train=True, samples=True, suffix=suffix, objective="bytes")
        made = {goal: recipe_for(model, goal) for goal in ("size", "speed")}
    space, first = space_of(facts)
    assert "finetune" not in str(space.document.data)
    assert "gptq" not in str(space.document.data), "nothing can be tried out either"
    assert first.note.startswith("no step trains: a SavedModel runs as a finished graph")
    if suffix == ".tflite":
        assert space.at(first.known[0]).to_dict()["export"]["type"] == "int8"
    for text in made.values():
        assert "finetune" not in text
        assert "--train" not in text
        recipes.parse(loads(text, "new.yaml"))
    assert "--calibrate" in made["speed"]
    assert "--calibrate" not in made["size"]


def test_a_network_of_loops_is_not_converted_to_int8():
    with registry.open_model(MODELS / "keras3_text.keras") as model:
        facts = Facts.of(model, train=True, samples=True, suffix=".tflite", objective="latency_ms")
        text = recipe_for(model, "microcontroller")
    space, first = space_of(facts)
    assert space.at(first.known[0]).to_dict()["export"]["type"] == "dynamic"
    assert "int8" not in str(space.document.data)
    made = recipes.parse(loads(text, "new.yaml"))
    assert made.head.export.type == "dynamic"
    assert "--calibrate" not in text


def test_there_is_no_recipe_for_what_cannot_be_edited(demo, monkeypatch):
    monkeypatch.setattr(type(registry.of_model(demo)), "final", "it cannot be edited")
    with pytest.raises(InputError, match="cannot be edited"):
        recipe_for(demo, "size")

"""How a model was compiled goes from one format to the other."""

from __future__ import annotations

import pytest

from modelcut.formats.keras import compiled as keras_compiled
from modelcut.graph.architecture import Dialect

KERAS2, KERAS3 = Dialect.KERAS2, Dialect.KERAS3


def training(**changes):
    adam = {"class_name": "Adam", "config": {"learning_rate": 0.5}}
    return {"loss": "mse", "metrics": ["mae"], "loss_weights": None, "optimizer_config": adam} | (
        changes
    )


@pytest.mark.parametrize("dialect", [KERAS2, KERAS3])
def test_there_and_back(dialect):
    compiled = keras_compiled.for_keras(training(), dialect)
    assert compiled["optimizer"]["module"] == "keras.optimizers"
    assert compiled["metrics"] == ["mae"]
    assert keras_compiled.for_h5(compiled) == training()


def test_the_older_optimizers_of_keras_2():
    old = {"class_name": "RMSprop", "config": {"lr": 0.1, "decay": 0.0}}
    compiled = keras_compiled.for_keras(training(optimizer_config=old), KERAS2)
    assert compiled["optimizer"]["module"] == "keras.optimizers.legacy"
    newer = {"class_name": "Custom>Adam", "config": {"learning_rate": 0.1}}
    compiled = keras_compiled.for_keras(training(optimizer_config=newer), KERAS2)
    assert compiled["optimizer"]["class_name"] == "Adam"


def test_metrics_that_keras_2_made_of_functions():
    made = {"class_name": "MeanMetricWrapper", "config": {"name": "accuracy", "fn": "accuracy"}}
    assert keras_compiled.for_keras(training(metrics=[[made]]), KERAS2)["metrics"] == [["accuracy"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer_config": None},
        {"optimizer_config": {"class_name": "TFOptimizer", "config": {}}},
        {"optimizer_config": {"class_name": "Adam", "config": {"learning_rate": {
            "class_name": "ExponentialDecay", "config": {}}}}},
        {"loss": {"class_name": "Huber", "config": {}}},
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_left_out(changes):
    assert keras_compiled.for_keras(training(**changes), KERAS2) is None


@pytest.mark.parametrize("nothing", [None, {}, {"loss": "mse"}, {"optimizer": None}])
def test_no_optimizer_no_training(nothing):
    assert keras_compiled.for_h5(nothing) is None


def test_an_optimizer_by_name():
    found = keras_compiled.for_h5({"optimizer": "adam", "loss": "mse"})
    assert found == {
        "loss": "mse",
        "loss_weights": None,
        "optimizer_config": {"class_name": "adam", "config": {}},
    }

"""Which layers carry the loss, on numbers by hand."""

from __future__ import annotations

import pytest

from modelcut.budget.ranking import rank

BASE = {"accuracy": 1.0, "log_loss": 0.1}


def trials(*losses, accuracy=1.0):
    return [{"accuracy": accuracy, "log_loss": 0.1 + loss} for loss in losses]


def test_the_log_loss_tells_layers_apart_where_the_accuracy_does_not():
    layers = {
        "a": trials(0.0, 0.01, 0.02),
        "b": trials(0.01, 0.5, 0.9),
        "c": trials(0.0, 0.0, 0.01),
    }
    found = rank(BASE, (0.5, 0.8, 0.9), layers)
    assert found.measure == "log_loss"
    assert found.setting == 0.9
    assert list(found.losses) == ["b", "a", "c"]
    assert found.carrying == ("b",)
    assert found.fraction == pytest.approx(0.9 / 0.93)
    assert found.overrides == {"b": 0.5}


def test_the_strongest_setting_that_most_layers_bear():
    layers = {name: trials(0.0, 0.1) for name in "abc"}
    for own in layers.values():
        own[1]["accuracy"] = 0.9
    layers["a"][0]["log_loss"] = 5.0
    found = rank(BASE, (8, 4), layers)
    assert found.setting == 8
    assert found.carrying == ("a",)
    assert found.overrides == {"a": None}


def test_layers_that_are_alike():
    found = rank(BASE, (8, 4), {name: trials(0.1, 0.2) for name in "abc"})
    assert found.carrying == ()
    assert found.overrides == {}
    assert rank(BASE, (8, 4), {}) is None


def test_a_regression_goes_by_its_error():
    layers = {"a": [{"rmse": 2.0}], "b": [{"rmse": 1.0}], "c": [{"rmse": 1.0}]}
    found = rank({"rmse": 1.0}, (4,), layers)
    assert (found.measure, found.carrying) == ("rmse", ("a",))

"""Limits that are asked only where there is test data."""

from __future__ import annotations

from modelcut.metrics.limits import Gates


def test_those_that_need_data_are_moved():
    gates = Gates.model_validate(
        {
            "max_bytes": 1000,
            "max_accuracy_drop": {"digit": 0.01},
            "min_accuracy": 0.9,
            "if_data": {"min_accuracy": 0.5, "min_f1": 0.8},
        }
    )
    found = gates.asked_with_data()
    assert found == Gates.model_validate(
        {
            "max_bytes": 1000,
            "if_data": {"max_accuracy_drop": {"digit": 0.01}, "min_accuracy": 0.9, "min_f1": 0.8},
        }
    )
    assert not found.needing_data()
    assert found.asked_with_data() == found


def test_others_stay():
    gates = Gates(max_bytes=1000)
    assert gates.asked_with_data() == gates
    assert gates.asked_with_data().if_data is None

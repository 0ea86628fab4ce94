"""Phases follow one another; work is summed over threads."""

import time

import pytest

from modelcut.arrays.blocks import in_threads
from modelcut.arrays.clock import Clock, working


def busy(_):
    end = time.thread_time() + 0.02
    with working("spin"):
        while time.thread_time() < end:
            pass


def test_phases_add_up_and_work_is_counted_in_all_threads():
    with Clock("one") as clock:
        list(in_threads(busy, range(5)))
        clock.begin("two")
        time.sleep(0.02)
        clock.begin("one")
        time.sleep(0.01)
        seconds = clock.seconds()
        assert set(seconds) == {"one", "two", "total"}
        assert seconds["one"] + seconds["two"] == pytest.approx(seconds["total"], abs=1e-6)
        assert seconds["two"] >= 0.02
        used = clock.cpu_seconds()
        assert used["spin"] == pytest.approx(0.1, abs=0.05)
        assert used["total"] >= used["spin"]


def test_work_without_a_clock_is_not_counted():
    with Clock("one") as clock:
        pass
    busy(0)
    assert "spin" not in clock.cpu_seconds()

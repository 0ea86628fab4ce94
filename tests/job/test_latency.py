"""Latencies measured in turn, of networks whose speed is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from modelcut.data import InputSpec
from modelcut.data.table import Batch
from modelcut.job import latency
from modelcut.metrics.limits import Gates, uncertain


class Timed:
    """Says how long its calls took, as an engine in another process does."""

    engine, fixed_batch = "by hand", None

    def __init__(self, clock, factor=1.0, engine="by hand"):
        self.inputs = (InputSpec("x", (3,)),)
        self.clock, self.factor, self.engine = clock, factor, engine
        self.seconds = 0.0

    def predict(self, inputs, *, exact=False):
        assert exact
        assert inputs["x"].shape == (1, 3)
        self.seconds = self.factor * self.clock()
        return [np.zeros((1, 2))]


def measure(*networks):
    sample = Batch({"x": np.zeros((20, 3), np.float32)}, None)
    return latency.measure(networks, sample, lambda inputs, network: inputs)


class Noisy:
    """A machine that becomes slower and faster all the time, by up to five times."""

    def __init__(self, seed):
        self.rng, self.speed = np.random.default_rng(seed), 1.0

    def __call__(self):
        self.speed = float(np.clip(self.speed * self.rng.lognormal(0, 0.05), 0.4, 2.0))
        return 0.001 * self.speed * self.rng.lognormal(0, 0.1)


def test_the_same_network_twice_shows_no_change():
    seen = 0
    for seed in range(40):
        clock = Noisy(seed)
        _, (found,) = measure(Timed(clock), Timed(clock))
        low, high = found["interval"]
        assert found["measurable"] is not (low <= 1 <= high)
        seen += found["measurable"]
    assert seen <= 2, seen  # one of a hundred, by chance


def test_a_faster_network_is_seen_through_the_noise():
    clock = Noisy(0)
    (one, two), (found,) = measure(Timed(clock), Timed(clock, 0.5))
    assert found["measurable"]
    assert found["interval"][0] < 0.5 < found["interval"][1]
    assert found["ratio"] == pytest.approx(0.5, abs=0.05)
    assert one["interval_ms"][0] <= one["median_ms"] <= one["interval_ms"][1]
    assert two["batch"] == 1
    assert two["runs"] >= two["blocks"] >= 9


def test_a_slow_network_is_measured_a_few_times_only():
    class Slow(Timed):
        def predict(self, inputs, *, exact=False):
            time.sleep(0.12)
            return super().predict(inputs, exact=exact)

    began = time.monotonic()
    (found,), _ = measure(Slow(lambda: 0.12))
    assert found["blocks"] < 20
    assert time.monotonic() - began < 5


def test_engines_that_differ_are_named():
    clock = Noisy(1)
    _, (found,) = measure(Timed(clock), Timed(clock, 0.1, "LiteRT"))
    assert found["engines"] == ["by hand", "LiteRT"]
    assert not found["same_engine"]


@pytest.mark.parametrize(
    ("limit", "held", "told"), [(0.8, False, 0), (0.95, True, 1), (1.2, True, 0)]
)
def test_a_gate_fails_where_all_of_the_interval_is_beyond_it(limit, held, told):
    report = {"evaluation": {"latency": {"ratio": 1.0, "interval": [0.9, 1.1]}}}
    (verdict,) = Gates(max_latency_ratio=limit).judge(report)
    assert verdict["held"] is held
    assert verdict["interval"] == [0.9, 1.1]
    assert len(uncertain([verdict])) == told


def test_without_an_interval_the_value_decides():
    report = {"evaluation": {"after": {"latency": {"median_ms": 2.0}}}}
    assert not Gates(max_latency_ms=1).judge(report)[0]["held"]
    assert Gates(max_latency_ms=3).judge(report)[0]["held"]

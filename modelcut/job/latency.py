"""How long single samples take, of several networks in turn: what disturbs one disturbs all.

A processor's speed changes from second to second with its clock, its caches and what else runs:
two numbers that were measured one after the other differ for the same network. So the networks
take turns in many short blocks, and what is told of two of them is the median of the ratios of
neighbouring blocks, with its interval.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.data.table import Batch
from modelcut.engines import Network, quiet
from modelcut.metrics import intervals

_WARM_UP = 5
_BLOCK_SECONDS = 0.004
_MOST_CALLS = 50
_ROUNDS = (9, 51)
CONFIDENCE = 0.99
"""Higher than that of the metrics: who measures each night meets one chance in twenty soon."""
_SECONDS = 2.0
"""For each network; a few rounds are measured however long they take."""


@dataclass
class _Runner:
    """One network's calls: of the sample's rows, one after the other."""

    network: Network
    inputs: Mapping[str, np.ndarray]
    rows: int
    start: int = 0

    def call(self) -> float:
        """Seconds of one call, the engine's own count where it runs in another process."""
        size = len(next(iter(self.inputs.values())))
        at = self.start % max(1, size - self.rows + 1)
        self.start += self.rows
        part = {name: values[at : at + self.rows] for name, values in self.inputs.items()}
        began = time.perf_counter()
        self.network.predict(part, exact=True)
        took = time.perf_counter() - began
        inside: float | None = getattr(self.network, "seconds", None)
        return took if inside is None else inside


def measure(
    networks: Sequence[Network],
    sample: Batch,
    named: Callable[[Mapping[str, np.ndarray], Network], Mapping[str, np.ndarray]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Times networks in turn, after a warm-up.

    Args:
        networks: the first is the one that the others are compared with.
        sample: samples to take the inputs from.
        named: gives inputs under a network's own names.

    Returns:
        Of each network its latency in milliseconds; and of each one but the first how it compares.
    """
    runners = [_Runner(n, named(sample.inputs, n), n.fixed_batch or 1) for n in networks]
    collects = gc.isenabled()
    gc.disable()
    try:
        with quiet():
            calls = [_warmed(runner) for runner in runners]
            blocks, times = _rounds(runners, calls)
    finally:
        if collects:
            gc.enable()
    found = [
        {
            "batch": runner.rows,
            "runs": len(all_of),
            "median_ms": 1000 * float(np.median(each)),
            "p90_ms": 1000 * float(np.percentile(all_of, 90)),
            "interval_ms": [1000 * end for end in intervals.of_median(each, CONFIDENCE)],
            "blocks": len(each),
        }
        for runner, each, all_of in zip(runners, blocks, times, strict=True)
    ]
    compared = [
        against(networks[0].engine, network.engine, blocks[0], blocks[index])
        for index, network in enumerate(networks)
        if index
    ]
    return found, compared


def _warmed(runner: _Runner) -> int:
    """Runs a network in; gives the number of calls that make a block."""
    spent: list[float] = []
    began = time.perf_counter()
    for _ in range(_WARM_UP):
        spent.append(runner.call())
        if time.perf_counter() - began > _SECONDS / 2:
            break
    return int(np.clip(_BLOCK_SECONDS / max(1e-9, min(spent)), 1, _MOST_CALLS))


def _rounds(
    runners: Sequence[_Runner], calls: Sequence[int]
) -> tuple[list[list[float]], list[list[float]]]:
    """Medians of the blocks, and the times of all calls, of each network."""
    blocks: list[list[float]] = [[] for _ in runners]
    times: list[list[float]] = [[] for _ in runners]
    began = time.perf_counter()
    for number in range(_ROUNDS[1]):
        if number >= _ROUNDS[0] and time.perf_counter() - began > _SECONDS * len(runners):
            break
        order = range(len(runners))
        for index in order if number % 2 else reversed(order):
            runners[index].call()  # what the others have put into the caches is no part of it
            block = [runners[index].call() for _ in range(calls[index])]
            blocks[index].append(float(np.median(block)))
            times[index] += block
    return blocks, times


def against(first: str, second: str, one: Sequence[float], two: Sequence[float]) -> dict[str, Any]:
    """How a network's latency compares with another one's.

    Args:
        first: name and version of the other one's engine.
        second: name and version of its own engine.
        one: the other one's blocks, in seconds.
        two: its own blocks, each measured next to the other one's.

    Returns:
        `ratio`, the median of the paired ratios, its `interval` and `confidence`, `blocks`, whether
        both have the `same_engine`, and whether the change is `measurable`: 1 lies outside of the
        interval.
    """
    ratios = [late / early for early, late in zip(one, two, strict=True) if early > 0]
    low, high = intervals.of_median(ratios, CONFIDENCE) if ratios else (None, None)
    return {
        "ratio": float(np.median(ratios)) if ratios else None,
        "interval": [low, high] if ratios else None,
        "confidence": CONFIDENCE,
        "blocks": len(ratios),
        "engines": [first, second],
        "same_engine": first == second,
        "measurable": low is not None and high is not None and not low <= 1 <= high,
    }

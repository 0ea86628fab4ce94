"""What is tried next: Optuna where it is installed, else a plain random search over the same space.

Both are asked and told by the one process that leads the search.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from modelcut.recipe.space import Choice, Parameter, Range
from modelcut.tuner.goal import Goal
from modelcut.tuner.trial import Result

Fill = Callable[[Callable[[str, Parameter], Any]], Any]


class Asked(Protocol):
    """A point of the space that is to be tried.

    Attributes:
        number: number of the trial, from 0.
        point: the values so far by parameter, as they are given to `Sampler.ask` again.
    """

    number: int

    @property
    def point(self) -> Mapping[str, Any]: ...

    def value(self, name: str, parameter: Parameter) -> Any:
        """The value of a parameter at this point; see `space.Ask`."""


class Sampler(Protocol):
    """Chooses points of a space.

    Attributes:
        name: what chooses, with its version, for the record.
    """

    name: str

    def ask(self, given: Mapping[str, Any] | None = None, number: int | None = None) -> Asked:
        """The next point, or the one with the given values by parameter.

        Args:
            given: values by parameter.
            number: number of a trial that an interrupted search has done.
        """

    def tell(self, asked: Asked, result: Result) -> None:
        """What became of a point."""


def open_sampler(goal: Goal, seed: int, trials: int) -> Sampler:
    """Optuna's sampler if the package is installed, else a random one.

    Args:
        goal: the objectives.
        seed: seed of the choice.
        trials: number of trials that are planned.
    """
    if find_spec("optuna") is None:
        return Random(seed)
    from modelcut.tuner.bayes import Bayes

    return Bayes(goal, seed, trials)


class Point:
    """A point chosen at random, parameter by parameter; see `Asked`."""

    def __init__(self, number: int, seed: int, given: Mapping[str, Any]) -> None:
        self.number = number
        self.point = dict(given)
        self._random = random.Random(json.dumps([seed, number]))

    def value(self, name: str, parameter: Parameter) -> Any:
        drawn = drawn_from(parameter, self._random.random())
        return self.point.setdefault(name, drawn)


class Random:
    """Points that depend on the seed and their number alone."""

    name = "random search (install modelcut[search] for Optuna's samplers)"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._next = 0

    def ask(self, given: Mapping[str, Any] | None = None, number: int | None = None) -> Point:
        if number is None:
            number = self._next
        self._next = max(self._next, number + 1)
        return Point(number, self._seed, given or {})

    def tell(self, asked: Asked, result: Result) -> None:
        """Nothing is learned from it."""


def drawn_from(parameter: Parameter, at: float) -> Any:
    """The value of a parameter at a fraction of its distribution, 0 to 1."""
    if isinstance(parameter, Choice):
        return min(int(at * len(parameter.values)), len(parameter.values) - 1)
    assert isinstance(parameter, Range)
    low, high = parameter.low, parameter.high
    if parameter.whole:
        # Each integer has an interval of its own.
        low, high = low - 0.5, high + 0.5
        low = max(low, 0.5) if parameter.log else low
    found = low * (high / low) ** at if parameter.log else low + (high - low) * at
    if not parameter.whole:
        return float(f"{found:.4g}")
    return int(min(max(round(found), parameter.low), parameter.high))

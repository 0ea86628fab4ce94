"""Points between the best one so far and a bolder one: what a short search tries next.

A sampler has little to learn from after the few trials of the ladder, and would draw at random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from modelcut.recipe.space import Choice, Parameter

_MOVED = 0.6
"""Probability that a number moves towards the bolder point."""
_BEYOND = 1.25
"""How far it moves at most: a little further than that point."""
_NOISE = 0.07
"""Standard deviation of what is added to a number, as a fraction of its range."""
_TAKEN = 0.35
"""Probability that a choice is that of the bolder point."""
_STEP = 0.1
"""Probability that a choice is one further or one back."""


def longer(
    missed: Iterable[Mapping[str, Any]],
    tried: Collection[Mapping[str, Any]],
    name: str,
    parameters: Mapping[str, Parameter],
) -> dict[str, Any] | None:
    """A point that missed the limits by little, with a longer last training, if there is one.

    The trainings before it are not done again, and a longer one helps as a rule.

    Args:
        missed: points that missed the limits by little, the most promising first.
        tried: all points that were tried.
        name: the length of the last training; "": there is none.
        parameters: of the space.
    """
    parameter = parameters.get(name)
    if not isinstance(parameter, Choice):
        return None
    for point in missed:
        at = point.get(name, len(parameter.values))
        if at in range(len(parameter.values) - 1):
            found = {**point, name: at + 1}
            if found not in tried:
                return found
    return None


def near(
    best: Mapping[str, Any],
    bolder: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    seed: object,
) -> dict[str, Any]:
    """A point near the best one, mostly on the side of a bolder one.

    Each value by itself stays, goes some part of the way to the bolder point, or is varied a
    little, so that layers which bear more are told from those which do not.

    Args:
        best: the best point so far, by parameter.
        bolder: a point that is too bold.
        parameters: of the space.
        seed: decides it, by its text.
    """
    draw = random.Random(str(seed))
    return {
        name: _moved(value, bolder.get(name, value), parameters[name], draw)
        for name, value in best.items()
        if name in parameters
    }


def _moved(value: Any, bold: Any, parameter: Parameter, draw: random.Random) -> Any:
    moves, far, noise = draw.random() < _MOVED, draw.random(), draw.gauss(0.0, _NOISE)
    if isinstance(parameter, Choice):
        numbers = range(len(parameter.values))
        here = value if value in numbers else numbers[0]
        if far < _TAKEN and bold in numbers:
            return bold
        other = here + (1 if noise > 0 else -1)
        return other if far > 1 - _STEP and other in numbers else here
    way, back = (math.log, math.exp) if parameter.log else (float, float)
    low, high, here, there = (
        # What an interrupted search has left may be anything.
        way(min(max(parameter.low, x), parameter.high))
        for x in (parameter.low, parameter.high, value, bold)
    )
    if here == there:
        at = here + (noise * (high - low) if moves else 0.0)
    else:
        at = here + (far * _BEYOND * (there - here) if moves else 0.0)
    found = min(max(back(at), parameter.low), parameter.high)
    return round(found) if parameter.whole else float(f"{found:.4g}")

"""What was tried: a trial, and what is to be said of all of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelcut.tuner.request import Request
from modelcut.tuner.trial import Result


@dataclass(frozen=True)
class Trial:
    """A point that was tried.

    Attributes:
        number: number of the trial, from 0.
        recipe: the recipe as plain data.
        result: what it gave.
        pruned: whether it was given up before the whole training.
        rung: which point of the ladder it is (see `ladder.Ladder`); None: none.
        point: the open values by parameter, as the sampler knows them.
        stages: of shorter trainings before, the fraction of the epochs and the costs.
        factor: what the lengths of its trainings were multiplied by (see `pace.Pace`).
    """

    number: int
    recipe: Mapping[str, Any]
    result: Result
    pruned: bool = False
    rung: int | None = None
    point: Mapping[str, int | float] = field(default_factory=dict)
    stages: tuple[tuple[int | float, ...], ...] = ()
    factor: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "number": self.number,
            "recipe": dict(self.recipe),
            "pruned": self.pruned,
            "rung": self.rung,
            "point": dict(self.point),
            "stages": [list(stage) for stage in self.stages],
            "factor": self.factor,
            **self.result.to_dict(),
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Trial:
        """A trial from its JSON data.

        Raises:
            ValueError: the data is of another form.
        """
        own = {name: record[name] for name in _OWN if name in record}
        rest = {name: v for name, v in record.items() if name not in (*_OWN, "sure")}
        return _form().validate_python({**own, "result": rest})


_OWN = ("number", "recipe", "pruned", "rung", "point", "stages", "factor")


@functools.cache
def _form() -> Any:
    """Checks the types of a trial that was read; in JSON a tuple is a list."""
    from pydantic import TypeAdapter

    return TypeAdapter(Trial)


def samples_of(trials: Sequence[Trial]) -> int:
    """How many validation samples the trials were measured on."""
    return max((trial.result.measured.get("samples", 0) for trial in trials), default=0)


def original_accuracy(trial: Trial) -> float | None:
    """The original's accuracy on the validation samples; None where none was measured."""
    measured = trial.result.measured
    if "accuracy" not in measured or "accuracy_drop" not in measured:
        return None
    return float(measured["accuracy"] + measured["accuracy_drop"])


def warnings_of(
    request: Request, trials: Sequence[Trial], chosen: Trial, *, sure: bool
) -> list[str]:
    """What a user should know of the choice."""
    found = [request.first.note] if request.first.note else []
    samples = samples_of(trials)
    drop = request.goal.gates.max_accuracy_drop
    if isinstance(drop, float) and samples and drop * samples < 1:
        found.append(
            f"{samples} validation samples cannot tell a drop of {drop:g}: one sample is "
            f"{1 / samples:.2g}"
        )
    if isinstance(drop, float) and samples:
        told = request.goal.told(drop, samples)
        if told < request.goal.confidence - 0.005:
            found.append(
                f"{samples} validation samples tell a drop of {drop:g} with a confidence of "
                f"{told:.0%} at most, not {request.goal.confidence:.0%}"
            )
    if not sure:
        others = "others" if request.test is None else "the test samples"
        found.append(
            f"trial {chosen.number + 1} meets the limits on the validation samples, but not with "
            f"{request.goal.confidence:.0%} confidence on {others}: more samples, or a larger limit"
        )
    failed = [trial for trial in trials if trial.result.error]
    if failed:
        found.append(
            f"{len(failed)} of {len(trials)} trials failed; the first: {failed[0].result.error}"
        )
    return found


def none_meets(request: Request, trials: Sequence[Trial], record: Path) -> tuple[str, str]:
    """What is to be said where no trial meets the limits."""
    measured = [trial for trial in trials if not trial.result.error]
    if not measured:
        why = trials[-1].result.error if trials else "no trial was made"
        return f"{request.model}: every trial failed: {why}", f"{record} has all of them"
    nearest = min(measured, key=lambda trial: trial.result.excess)
    timed = request.seconds is not None and len(trials) < request.trials
    option = "--time" if timed else "--trials"
    failed = ", ".join(
        f"{gate['name']} {gate['value']:.4g} (limit {gate['limit']:g})"
        for gate in nearest.result.gates
        if not gate["held"] and gate["value"] is not None
    )
    return (
        f"{request.model}: none of {len(trials)} trials meets the limits; the nearest: {failed}",
        f"{record} has all of them; allow more, or try more with {option}",
    )

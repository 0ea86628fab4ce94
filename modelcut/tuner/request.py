"""What was asked of a search, and whether it goes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.errors import UsageError
from modelcut.formats import registry
from modelcut.job.request import Trust
from modelcut.metrics.limits import Gates
from modelcut.recipe.recipe import Head, place_of
from modelcut.recipe.space import Space
from modelcut.recipe.yaml_text import Document, load_file
from modelcut.tuner import default
from modelcut.tuner.goal import Goal, Objective
from modelcut.tuner.ladder import First

_MOST_WORKERS = 1000
"""Local processes; more is a slip."""


@dataclass(frozen=True)
class Request:
    """All that `modelcut search` was told.

    Attributes:
        model: the model file.
        space: the recipe with open values.
        goal: objectives and limits.
        output: the file to write.
        test: CSV on which the result is tested, once; None: it is not.
        train: CSV of training data; None: none.
        validation: CSV on which trials are measured; None: a part of `train`.
        fraction: of the training samples, those that are set aside as validation samples.
        calibrate: CSV of calibration data; None: `train`.
        trust: which code of the file may run.
        trials: number of trials.
        seconds: wall time after which no further trial is begun; None: no limit.
        seed: seed of the choice of trials.
        workers: number of local processes.
        scheduler: address of a Dask scheduler, or "".
        keep_best: an interrupt ends the search, not the command: the best so far is written.
        force: replace an output that modelcut did not write.
        first: points that are tried before a sampler is asked.
        options: further options of a job: compression, coder, keep_optimizer.
    """

    model: Path
    space: Space
    goal: Goal
    output: Path
    test: Path | None = None
    train: Path | None = None
    validation: Path | None = None
    fraction: float = 0.2
    calibrate: Path | None = None
    trust: Trust = field(default_factory=Trust)
    trials: int = 40
    seconds: float | None = None
    seed: int = 0
    workers: int = 1
    scheduler: str = ""
    keep_best: bool = False
    force: bool = False
    first: First = field(default_factory=First)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where an interrupted search is kept: `best.mcut.search` beside `best.mcut`."""
        return folder_of(self.output)

    @property
    def sources(self) -> list[Path]:
        """All files that are read: none of them may be lost."""
        data = (self.test, self.train, self.validation, self.calibrate)
        others = (Path(self.space.document.name), Path(self.trust.custom_objects))
        files = [path for path in others if path.is_file()]
        return [self.model, *(path for path in data if path is not None), *files]


def folder_of(output: Path) -> Path:
    """Where an interrupted search for this output is kept."""
    return output.with_name(output.name + ".search")


def check(request: Request) -> None:
    """Refuses what cannot be searched.

    Raises:
        UsageError: with what to add.
    """
    goal = request.goal
    request.space.check()
    if not request.space.parameters:
        raise UsageError(
            f"{request.space.document.name}: nothing is open in this recipe",
            "{choose: [4, 5]} or {range: [0.5, 0.98]} in the place of a value, {maybe: step}",
        )
    data = [each.name for each in goal.objectives if each.needs_data]
    data += [limit.shown for limit in goal.gates.each() if limit.needs_data]
    if not data:
        raise UsageError(
            "nothing is said of what must be kept, so that the emptiest model would be the best",
            "add a limit such as --max-accuracy-drop 0.01",
        )
    if request.validation is None and request.train is None:
        raise UsageError(
            f"{data[0]} is measured on validation data",
            "add --validate FILE.csv, or --train FILE.csv, of which a part is set aside",
        )
    for path in (request.validation, request.train):
        if (
            path is not None
            and request.test is not None
            and path.resolve() == request.test.resolve()
        ):
            raise UsageError(
                f"{path}: is the test data, too", "what is chosen on it cannot be judged by it"
            )
    if request.trials < 1:
        raise UsageError("--trials: at least one")
    if not 1 <= request.workers <= _MOST_WORKERS:
        raise UsageError(f"--workers: {request.workers} is not from 1 to {_MOST_WORKERS}")
    if not 0 < request.fraction < 1:
        raise UsageError(
            f"--validation-fraction: {request.fraction:g} is not between 0 and 1", "such as 0.2"
        )


def goal_of(
    minimize: Sequence[str], maximize: Sequence[str], gates: Gates, confidence: float
) -> Goal:
    """The goal in words of the command; with limits alone, the smallest file.

    Raises:
        UsageError: a name is not known, or the confidence is no probability.
    """
    if not 0.5 <= confidence < 1:
        raise UsageError(f"--confidence: {confidence:g} is not from 0.5 to below 1")
    found = [Objective.of(name, minimize=True) for name in minimize]
    found += [Objective.of(name, minimize=False) for name in maximize]
    return Goal(tuple(found or [Objective.of("bytes", minimize=True)]), gates, confidence)


def space_for(
    recipe: Path | None, model: Path, output: Path, goal: Goal, *, train: bool, samples: bool
) -> tuple[Space, First]:
    """The space of a recipe file, or the default one for a model; and the points to try first.

    Args:
        recipe: a recipe with open values; None: the default space.
        model: the model file.
        output: the file to write, whose suffix selects the format.
        goal: what is wanted.
        train: whether there is training data.
        samples: whether there are calibration samples.
    """
    if recipe is not None:
        return Space.of(load_file(place_of(recipe))), First()
    safety.check_path(model)
    suffix = registry.suffix_of(output).lower()
    with registry.open_model(model) as opened:
        facts = default.Facts.of(
            opened,
            train=train,
            samples=samples,
            suffix=suffix,
            objective=goal.objectives[0].name,
        )
    return default.space_of(facts)


def with_head(space: Space, head: Head) -> Space:
    """The space with what was set besides the recipe in place of what the recipe says."""
    data = dict(space.document.data)
    for name, value in head.model_dump(mode="json", exclude_unset=True).items():
        own = data.get(name)
        if isinstance(own, dict) and isinstance(value, dict):
            data[name] = {**own, **value}
        else:
            data[name] = value
    document = space.document
    return Space.of(Document(document.name, data, document.places))

"""Which samples a search trains with, and on which it measures what came of it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

from modelcut.data.split import split, split_paths
from modelcut.data.table import Table
from modelcut.formats import registry
from modelcut.job.data_check import check_data, declared_table
from modelcut.job.evaluate import open_evaluator
from modelcut.job.targets import Wanted
from modelcut.metrics.scores import check_limits
from modelcut.model.model import Model
from modelcut.recipe.space import Space
from modelcut.tuner.request import Request

Say = Callable[[str], None]


def check(request: Request, model: Model, say: Say) -> float:
    """Holds all samples against the model as far as its architecture tells.

    What does not fit is found before the first trial, not after the last one.

    Args:
        request: names the sources.
        model: the original.
        say: takes a line about progress.

    Returns:
        Number of test samples; infinite where there are none, 1 where an engine has to tell.

    Raises:
        ModelcutError: samples do not fit the model.
    """
    head = request.space.at({}).head
    wanted = Wanted(head.task, head.from_logits)
    trained = request.validation is None or _trains(request.space)
    sources = (request.validation, request.train, request.calibrate)
    for path, labelled in zip(sources, (True, trained, False), strict=True):
        if path is not None:
            check_data(model, path, head.data, wanted, labelled=labelled)
    if request.test is None:
        return inf
    say("reading the test samples")  # all of them: nothing else does before the search is over
    return check_data(model, request.test, head.data, wanted, seconds=inf) or 1


def of(request: Request, folder: Path, say: Say) -> tuple[Path | None, Path]:
    """Samples for training, and those for measuring trials; parts of one source if need be.

    Args:
        request: names the sources.
        folder: where parts are written; those of an interrupted search are there.
        say: takes a line about progress.
    """
    if request.validation is not None:
        return request.train, request.validation
    assert request.train is not None
    if not _trains(request.space):
        return request.train, request.train  # no trial has seen the samples
    train, validation = split_paths(request.train, folder)
    if not (train.exists() and validation.exists()):
        say("setting validation samples aside")
        split(_table(request), request.fraction, request.seed, folder)
    return train, validation


def _table(request: Request) -> Table:
    """The training samples, bound to the network's inputs; an engine is started if need be."""
    assert request.train is not None
    recipe = request.space.at({})
    head = recipe.head
    with registry.open_model(request.model) as model:
        wanted = Wanted(head.task, head.from_logits)
        found = declared_table(model, request.train, head.data, wanted)
        # An engine may know an output by another name.
        named = any(limit.output for limit in head.gates.each())
        if found is not None and found[1] and not named:
            table, targets = found
            check_limits(head.gates, targets, compared=True)
            return table
        return open_evaluator(
            recipe,
            request.train,
            request.model,
            model,
            request.trust,
            beside=False,
            compared=True,
        ).table


def _trains(space: Space) -> bool:
    """Whether any recipe of the space has steps that see training samples."""

    def look(value: Any) -> bool:
        if isinstance(value, dict):
            return "finetune" in value or "budget" in value or any(map(look, value.values()))
        return isinstance(value, list) and any(map(look, value))

    return look(space.document.data)

"""Several recipes on one model: the smallest result that passes the gates is written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelcut.errors import InputError, ModelcutError, RecipeError, UsageError
from modelcut.formats import registry
from modelcut.job import pipeline
from modelcut.job.request import Job, Say
from modelcut.job.session import Session
from modelcut.report.schema import Report, TriedRecipe


def run(jobs: Sequence[Job], say: Say) -> Report:
    """Does each job beside its place, and the best one once more at its place.

    The best is the smallest file of those that pass all gates; where none does, of those that fail
    the fewest. The original's network is opened once, and no training is done twice.

    Args:
        jobs: the same but for their recipes.
        say: takes a line about progress.

    Returns:
        The report of the best one, with all of them as `tried`.

    Raises:
        ModelcutError: none of the recipes can be run; the first one's reason.
    """
    found: list[TriedRecipe] = []
    failures: list[ModelcutError] = []
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        session = Session(Path(folder) / "states")
        for index, job in enumerate(jobs):
            name = job.recipe.name
            prefix = f"recipe {index + 1}/{len(jobs)}, {Path(name).stem}"
            say(prefix)
            place = Path(folder) / f"{index}{registry.suffix_of(job.output)}"
            trial = replace(job, output=place, report=False, keep_on_failure=True, in_place=False)
            try:
                report = pipeline.run(trial, _prefixed(say, prefix), session)
            except (InputError, RecipeError, UsageError) as error:
                failures.append(error)
                found.append(TriedRecipe(name, error=error.message))
                continue
            assert isinstance(report, Report)
            found.append(_measured(name, report))
        if len(failures) == len(jobs):
            raise failures[0]
        best = min(
            (index for index, one in enumerate(found) if not one.error),
            key=lambda index: (len(found[index].failed), found[index].bytes or 0, index),
        )
        say(f"writing {Path(found[best].recipe).stem}")
        report = pipeline.run(jobs[best], say, session, tuple(found))
    assert isinstance(report, Report)
    return report


def _prefixed(say: Say, prefix: str) -> Say:
    return lambda line: say(f"{prefix}: {line}" if line else line)


def _measured(name: str, report: Report) -> TriedRecipe:
    assert report.output is not None
    metrics = {}
    if report.evaluation is not None:
        metrics = {
            key: value
            for key, value in report.evaluation.after["metrics"].items()
            if isinstance(value, (int, float))
        }
    failed = tuple(gate["name"] for gate in report.gates if not gate["held"])
    return TriedRecipe(name, report.output.bytes, metrics, failed)

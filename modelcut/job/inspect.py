"""Measuring a model without writing anything: `inspect`, and dry runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from modelcut import safety
from modelcut.formats import registry
from modelcut.job import start
from modelcut.job.check import check_needs
from modelcut.job.describe import describe, passage_of, warnings_of
from modelcut.job.digest import Digest
from modelcut.job.fold import Folded, fold
from modelcut.job.request import Say, Trust
from modelcut.job.verify import measure_rest
from modelcut.model.measure import Meter
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.report.build import Identity
from modelcut.report.schema import Report


@contextlib.contextmanager
def look(
    path: Path,
    recipe: Recipe | None = None,
    say: Say = lambda _: None,
    train: Path | None = None,
    validate: Path | None = None,
    trust: Trust | None = None,
    test: Path | None = None,
) -> Iterator[tuple[Model, Report]]:
    """Reads a model and measures it without changing or writing anything.

    Args:
        path: the model.
        recipe: planned on it (a dry run): the report then tells what it would do.
        say: takes a line about progress.
        train: CSV for the steps that train.
        validate: CSV for the steps that search.
        trust: what of the file's code may run for them.
        test: CSV that the recipe would be judged on; a warning says that it is not.

    Yields:
        The model, open until the end of the context, and a report without output and evaluation.
    """
    for each in (path, train, validate, test):
        if each is not None:
            safety.check_path(each)
    if recipe:
        check_needs(recipe, train, validate, test, dry=True)
    with contextlib.ExitStack() as opened:
        with Digest(path) as digest:
            model = opened.enter_context(registry.open_model(path))
            runtime = None
            if recipe:
                runtime = start.runtime_for(model, recipe, train, validate, trust or Trust())
            folded = fold(model, recipe, say, runtime) if recipe else Folded((model,))
            meters: dict[Identity, Meter] = {}
            measure_rest(folded.models, meters)
            passage = passage_of(folded, recipe, meters)
            report = describe(passage, path, None, digest, recipe)
            warnings = [*warnings_of(passage), *(runtime.notes if runtime else ())]
            if test is not None or (recipe and list(recipe.head.gates.items())):
                warnings.append("a dry run judges neither accuracy nor gates")
        yield model, replace(report, warnings=tuple(warnings))

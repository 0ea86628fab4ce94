"""`modelcut eval`: measures a model, alone or beside another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from modelcut.cli import flags, options
from modelcut.errors import UsageError
from modelcut.recipe.recipe import Recipe


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model to evaluate."),
        flags.option("test", "CSV to evaluate the model on.", metavar="CSV"),
        flags.option("against", "Model to compare with, such as the original.", metavar="FILE"),
        *options.MEASURE,
        *options.TRUST,
        *options.SHOW,
    ]
    app.command(name)(flags.command(parameters, evaluate))


def evaluate(**values: Any) -> None:
    """Measure a model on a CSV: accuracy, recall, F1, latency; alone or against another."""
    if not values.get("test"):
        raise UsageError("no test data named", "add --test FILE.csv")
    options.check_summary(values)
    from modelcut.job import assess
    from modelcut.job.request import Trust

    report = assess.assess(
        Path(values["model"]),
        options.path_of(values.get("against")),
        Path(values["test"]),
        Recipe((), options.head_from(values), "modelcut eval"),
        Trust(bool(values.get("trust")), values.get("custom_objects") or ""),
        options.progress(values),
    )
    options.finish(report, values)

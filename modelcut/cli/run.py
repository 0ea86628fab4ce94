"""`modelcut run`: a whole recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from modelcut.cli import flags, options
from modelcut.recipe.recipe import load


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model to read: .h5, .hdf5, .keras, .mcut or a SavedModel folder."),
        flags.option("recipe", "Recipe file (YAML).", "--recipe", "-r", metavar="YAML"),
        *options.JOB,
        *options.MEASURE,
        *options.TRUST,
        *options.SHOW,
    ]
    app.command(name)(flags.command(parameters, run))


def run(**values: Any) -> None:
    """Apply a recipe to a model, evaluate it before and after, check the gates."""
    from modelcut.errors import UsageError

    if not values.get("recipe"):
        raise UsageError("no recipe named", "add --recipe FILE; `modelcut recipe show` prints one")
    recipe = load(Path(values["recipe"]))
    recipe = replace(recipe, head=options.head_from(values, recipe.head))
    options.execute(recipe, values)

"""`modelcut run`: a whole recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from modelcut.cli import complete, flags, options, panels
from modelcut.recipe.recipe import load


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument(
            "model",
            "Model to read: .h5, .hdf5, .keras, .mcut or a SavedModel folder.",
            panel=options.MODEL,
        ),
        flags.option(
            "recipe",
            "Recipe file (YAML).",
            "--recipe",
            "-r",
            metavar="YAML",
            panel=options.RECIPE,
            complete=complete.recipes,
        ),
        *options.job(),
        *options.MEASURE,
        *options.TRUST,
        *options.SHOW,
    ]
    example = "modelcut run model.h5 -r small --test test.csv -o small.h5"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, run))


def run(**values: Any) -> None:
    """Apply a recipe to a model, evaluate it before and after, check the gates."""
    from modelcut.errors import UsageError

    if not values.get("recipe"):
        raise UsageError("no recipe named", "add --recipe FILE; `modelcut recipe show` prints one")
    recipe = load(Path(values["recipe"]))
    recipe = replace(recipe, head=options.head_from(values, recipe.head))
    options.execute(recipe, values)

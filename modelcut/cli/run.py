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
            "Recipe file (YAML), or the name of a built-in recipe (`modelcut recipe show`); of "
            "several, each is tried, and the smallest result that passes the gates is written.",
            "--recipe",
            "-r",
            metavar="RECIPE",
            kind=list[str],
            panel=options.RECIPE,
            complete=complete.recipes,
        ),
        flags.option(
            "set_",
            "Set a value of the recipe, such as steps.0.sparsity=0.8; can be repeated.",
            "--set",
            metavar="PATH=VALUE",
            kind=list[str],
            panel=options.RECIPE,
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
        raise UsageError(
            "no recipe named", "add --recipe FILE or a name that `modelcut recipe show` lists"
        )
    recipes = []
    for name in values["recipe"]:
        recipe = load(Path(name), values.get("set_") or ())
        recipes.append(replace(recipe, head=options.head_from(values, recipe.head)))
    options.execute(recipes[0], values, others=recipes[1:])

"""`modelcut recipe check | new | schema | show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from modelcut.cli import complete, flags, panels
from modelcut.errors import UsageError


def register(app: typer.Typer, name: str) -> None:
    """Adds the four commands below `recipe`."""
    group = typer.Typer(
        cls=panels.Group, rich_markup_mode=None, no_args_is_help=True, add_completion=False
    )
    app.add_typer(
        group,
        name=name,
        help="Check recipes, make one for a model, print their JSON Schema, show examples.",
    )
    check_parameters = [
        flags.argument(
            "recipe",
            "Recipe file (YAML), or the name of a built-in recipe.",
            complete=complete.recipes,
        ),
        flags.option("model", "Model file to check the recipe against.", metavar="FILE"),
    ]
    group.command("check", cls=panels.Command, epilog="modelcut recipe check recipe.yaml")(
        flags.command(check_parameters, check)
    )
    new_parameters = [
        flags.argument("model", "Model that the recipe is for."),
        flags.option(
            "goal",
            "What the recipe is to achieve: a small file, a fast network, or a .tflite for a "
            "microcontroller (default: size).",
            metavar="size|speed|microcontroller",
        ),
    ]
    group.command("new", cls=panels.Command, epilog="modelcut recipe new model.h5")(
        flags.command(new_parameters, new)
    )
    group.command("schema", cls=panels.Command, epilog="modelcut recipe schema")(
        flags.command([], schema)
    )
    shown = [
        flags.argument(
            "name", "Name of the recipe; without it, the recipes are listed.", required=False
        )
    ]
    group.command("show", cls=panels.Command, epilog="modelcut recipe show small")(
        flags.command(shown, show)
    )


def check(**values: Any) -> None:
    """Check a recipe and list all its errors; nothing is written."""
    from dataclasses import replace

    from modelcut import safety
    from modelcut.formats import registry
    from modelcut.job import fold
    from modelcut.recipe.recipe import parse, place_of
    from modelcut.recipe.space import Space
    from modelcut.recipe.yaml_text import load_file

    space = Space.of(load_file(place_of(values["recipe"])))
    if space.parameters:
        space.check()
    recipe = space.at({}) if space.parameters else parse(space.document)
    tried = len(recipe.steps)
    if values.get("model"):
        with_data = {"train", "validation", "calibration", "loop"}
        needing = (at for at, step in enumerate(recipe.steps) if step.needs & with_data)
        tried = next(needing, tried)
        safety.check_path(Path(values["model"]))
        with registry.open_model(Path(values["model"])) as model:
            fold.fold(model, replace(recipe, steps=recipe.steps[:tried]), lambda _: None)
    left = f", {len(space.parameters)} values for a search to decide" if space.parameters else ""
    typer.echo(f"{values['recipe']}: {len(recipe.steps)} steps{left}, no errors")
    if tried < len(recipe.steps):
        line = f"step {tried + 1} and those after it need data and were not tried on the model"
        typer.echo(line)


def new(**values: Any) -> None:
    """Print a recipe for a model and a goal, with comments; nothing is tried."""
    from modelcut import safety
    from modelcut.cli.options import choice
    from modelcut.formats import registry
    from modelcut.tuner import starter

    goal: starter.Goal = choice(values, "goal", starter.Goal) or "size"
    path = Path(values["model"])
    safety.check_path(path)
    with registry.open_model(path) as model:
        typer.echo(starter.recipe_for(model, goal), nl=False)


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    import json

    from modelcut.recipe.recipe import schema as recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=1))


def show(**values: Any) -> None:
    """Print one of the recipes that come with modelcut."""
    from modelcut.recipe.recipe import shipped

    files = shipped()
    name = values.get("name")
    if not name:
        width = max(map(len, files))
        for each, path in files.items():
            first = path.read_text(encoding="utf-8").splitlines()[0]
            typer.echo(f"{each:{width}}  {first.lstrip('# ')}")
        return
    if name not in files:
        raise UsageError(f"no recipe is called {name!r}", f"known: {', '.join(files)}")
    typer.echo(files[name].read_text(encoding="utf-8"), nl=False)

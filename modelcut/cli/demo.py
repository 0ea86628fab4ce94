"""`modelcut demo`: the whole main job on a small real model that comes with the package."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import Any

import typer

import modelcut
from modelcut.cli import flags, options, panels
from modelcut.errors import UsageError

FILES = ("digits.h5", "digits_test.csv", "digits_train.csv")


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument(
            "folder",
            "Folder for the files of the demo (default: ./modelcut-demo).",
            required=False,
            panel=options.OUT,
        ),
        flags.option(
            "force",
            "Overwrite files in the folder that are not the demo's.",
            kind=bool,
            panel=options.OUT,
        ),
        *options.SHOW,
    ]
    call = flags.command(parameters, demo)
    app.command(name, cls=panels.Command, epilog="modelcut demo")(call)


def demo(**values: Any) -> None:
    """Compress a small trained model, evaluate it before and after, and say where all of it is."""
    from modelcut.recipe.recipe import load

    folder = Path(values.get("folder") or "modelcut-demo")
    _unpack(folder, force=bool(values.get("force")))
    recipe = load(folder / "recipe.yaml")
    job = {
        **values,
        "model": str(folder / "digits.h5"),
        "test": str(folder / "digits_test.csv"),
        "output": str(folder / "small.h5"),
    }
    try:
        options.execute(recipe, job)
    finally:
        if not values.get("json") and not values.get("quiet"):
            _tell(folder)


def _unpack(folder: Path, *, force: bool) -> None:
    """Copies the demo's files; the user's own recipe, once changed, is kept."""
    from modelcut.recipe.recipe import shipped

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file", "name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(modelcut.__file__).parent / "demo"
    for name in FILES:
        target, original = folder / name, source / name
        if target.exists() and not force and not filecmp.cmp(target, original, shallow=False):
            raise UsageError(
                f"{target}: exists, and is not the demo's", "name another folder, or --force"
            )
        if force or not target.exists():
            shutil.copyfile(original, target)
    if force or not (folder / "recipe.yaml").exists():
        shutil.copyfile(shipped()["demo"], folder / "recipe.yaml")


def _tell(folder: Path) -> None:
    lines = {
        "model": "digits.h5",
        "recipe": "recipe.yaml",
        "test data": "digits_test.csv",
        "training data": "digits_train.csv",
        "result": "small.h5",
        "report": "small.report.html",
    }
    for what, name in lines.items():
        if (folder / name).exists():
            typer.echo(f"{what + ':':15}{folder / name}")
    typer.echo(
        f"next: change {folder / 'recipe.yaml'}, then\n"
        f"  modelcut run {folder / 'digits.h5'} --recipe {folder / 'recipe.yaml'} "
        f"--test {folder / 'digits_test.csv'} -o {folder / 'small.h5'}"
    )

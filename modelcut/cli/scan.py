"""`modelcut scan`: what in a file could execute, read, write or exhaust."""

from __future__ import annotations

from typing import Any

import typer

import modelcut
from modelcut.cli import flags, panels
from modelcut.errors import ExitCode


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model file or SavedModel folder to look through."),
        flags.option("json", "Print the result as JSON on stdout.", kind=bool),
    ]
    example = "modelcut scan model.h5"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, scan))


def scan(**values: Any) -> None:
    """Tell what a file holds that could execute, read, write or exhaust; exit 3 where unsafe."""
    from modelcut.report import render, scan, terminal
    from modelcut.safety import printable

    found = modelcut.scan(values["model"])
    if values.get("json"):
        typer.echo(render(found, "json"), nl=False)
    else:
        verdict = "nothing found" if found.safe else f"unsafe: {len(found.findings)} found"
        typer.echo(f"{printable(found.path)}: {verdict}")
        terminal.draw(scan.tables(found))
    if not found.safe:
        raise typer.Exit(ExitCode.UNSAFE)

"""`modelcut verify`: whether the values in a file are those that were written."""

from __future__ import annotations

from typing import Any

import typer

import modelcut
from modelcut.cli import flags
from modelcut.errors import ExitCode


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model file or SavedModel folder to read."),
        flags.option("json", "Print the result as JSON on stdout.", kind=bool),
    ]
    app.command(name)(flags.command(parameters, verify))


def verify(**values: Any) -> None:
    """Check the values in a file against the checksums kept of them; exit 2 where damaged."""
    from modelcut.report import render
    from modelcut.safety import printable

    found = modelcut.verify(values["model"])
    if values.get("json"):
        typer.echo(render(found, "json"), nl=False)
    else:
        ways = [found.checksums] if found.checksums else []
        if found.matched:
            ways.insert(0, f"{found.matched} checksums that modelcut kept")
        by = " and ".join(ways) or "nothing: neither the format nor modelcut kept checksums"
        verdict = "no damage found" if found.sound else f"{len(found.damaged)} damaged"
        typer.echo(f"{printable(found.path)}: {found.tensors} tensors, {verdict}; told by {by}")
        for one in found.damaged:
            typer.echo(f"  {printable(one.tensor)}: {printable(one.what, 200)}")
    if not found.sound:
        raise typer.Exit(ExitCode.USAGE)

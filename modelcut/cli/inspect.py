"""`modelcut inspect`: what is in a model file."""

from __future__ import annotations

from typing import Any

import typer

import modelcut
from modelcut.cli import flags, panels


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model file or SavedModel folder to read."),
        flags.option(
            "graph",
            "Show which layers share channels, and why layers keep theirs (prune: channels).",
            kind=bool,
        ),
        flags.option(
            "tensors", "Show a row for each tensor, in place of one for each layer.", kind=bool
        ),
        flags.option("sha256", "Report the SHA-256 of the file too.", kind=bool),
        flags.option("json", "Print the result as JSON on stdout.", kind=bool),
    ]
    example = "modelcut inspect model.h5"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, inspect))


def inspect(**values: Any) -> None:
    """Show a file's layers, shapes, sparsity, encodings and provenance; runs nothing in it."""
    from modelcut.report import render, terminal
    from modelcut.safety import printable

    report = modelcut.inspect(
        values["model"], graph=bool(values.get("graph")), sha256=bool(values.get("sha256"))
    )
    if values.get("json"):
        typer.echo(render(report, "json"), nl=False)
        return
    found = report.input
    kind = f"{found.format}, packed {found.packed}" if found.packed else found.format
    typer.echo(f"{printable(found.path)}: {kind}, written by {printable(found.writer)}")
    if found.sha256:
        typer.echo(f"BLAKE3 {found.blake3}\nSHA-256 {found.sha256}")
    for line in found.left_out:
        typer.echo(f"a rewrite leaves out: {printable(line)}")
    for entry in (report.provenance or {}).get("history", []):
        recipe = entry.get("recipe", {}).get("steps", [])
        names = ", ".join(f"{key}: {value}" for step in recipe for key, value in step.items())
        names = printable(names, 300) or "packed or copied, nothing changed"
        typer.echo(f"made by modelcut {printable(str(entry.get('modelcut')), 40)}: {names}")
    terminal.show(report, layers=not values.get("tensors"))
    if report.graph is None:
        return
    typer.echo("groups of channels that are removed together")
    for group in report.graph.groups:
        made_by = ", ".join(printable(name) for name in group.made_by)
        keys = dict.fromkeys(size.rpartition("/")[2] for size in group.sizes)
        said = ", ".join(printable(key) for key in keys if key not in _OF_CHANNELS)
        more = f"{said}; {len(group.weights)}" if said else f"{len(group.weights)}"
        typer.echo(f"  {group.channels} channels of {made_by} ({more} tensors)")
    for name, reason in report.graph.kept.items():
        typer.echo(f"{printable(name)} keeps its channels: {printable(reason, 300)}")


_OF_CHANNELS = ("units", "filters", "output_dim", "nb_filter", "target_shape", "projection_dim")
"""Keys that say no more than that they count channels."""

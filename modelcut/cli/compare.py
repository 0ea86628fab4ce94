"""`modelcut compare`: any number of models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import modelcut
from modelcut.cli import flags, options, panels
from modelcut.cli.report import OUTPUT, check_place, chosen, deliver
from modelcut.errors import UsageError


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    declared = typer.Argument(
        help="Models to compare; the first is the reference.",
        metavar="MODELS",
        rich_help_panel=options.MODEL,
    )
    models = flags.Parameter(
        "models",
        flags.Parameter.KEYWORD_ONLY,
        default=flags.Parameter.empty,
        annotation=Annotated[list[str], declared],
    )
    parameters = [
        models,
        flags.option("test", "CSV to evaluate the models on.", metavar="CSV", panel=options.DATA),
        *OUTPUT,
        *options.DATA_OPTIONS,
        *options.TRUST,
        flags.option(
            "quiet", "Print errors only.", "--quiet", "-q", kind=bool, panel=options.SHOWN
        ),
    ]
    example = "modelcut compare model.h5 small.h5 small.tflite --test test.csv -o compare.html"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, compare))


def compare(**values: Any) -> None:
    """Compare models on a CSV: size, scores with intervals, agreement, latency in turn."""
    if not values.get("test"):
        raise UsageError("no test data named", "add --test FILE.csv")
    form = chosen(values)
    head = options.head_from(values)
    read = [Path(name) for name in (*values["models"], values["test"])]
    check_place(values, read)
    say = options.progress(values)
    found = modelcut.compare(
        *values["models"],
        test=values["test"],
        trust=bool(values.get("trust")),
        custom_objects=values.get("custom_objects") or "",
        max_memory=values.get("max_memory"),
        say=say,
        data=head.data,
        task=head.task,
        from_logits=head.from_logits,
    )
    from modelcut.report import comparison, terminal
    from modelcut.safety import printable

    say("")
    if form:
        deliver(comparison.render(found, form), values, read)
    if not form or (values.get("output") and not values.get("quiet")):
        terminal.draw(comparison.tables(found))
        for line in found.warnings:
            typer.echo(f"warning: {printable(line, 300)}")

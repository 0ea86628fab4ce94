"""`modelcut eval`: measures a model, alone or beside another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

import modelcut
from modelcut.cli import flags, options, panels
from modelcut.cli.report import OUTPUT, check_place, chosen, deliver
from modelcut.errors import UsageError


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model to evaluate.", panel=options.MODEL),
        flags.option("test", "CSV to evaluate the model on.", metavar="CSV", panel=options.DATA),
        flags.option(
            "against",
            "Model to compare with, such as the original.",
            metavar="FILE",
            panel=options.MODEL,
        ),
        *options.DATA_OPTIONS,
        *options.gates("output."),
        *options.TRUST,
        *(option for option in OUTPUT if option.name != "json"),
        *options.SHOW,
    ]
    example = "modelcut eval small.h5 --against model.h5 --test test.csv -o eval.html"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, evaluate))


def evaluate(**values: Any) -> None:
    """Measure a model on a CSV: accuracy, recall, F1, latency; alone or against another."""
    if not values.get("test"):
        raise UsageError("no test data named", "add --test FILE.csv")
    options.check_summary(values)
    form = chosen({**values, "json": None})
    named = (values["model"], values.get("against"), values["test"])
    read = [Path(name) for name in named if name]
    check_place(values, read)
    head = options.head_from(values)
    report = modelcut.evaluate(
        values["model"],
        values["test"],
        against=values.get("against"),
        trust=bool(values.get("trust")),
        custom_objects=values.get("custom_objects") or "",
        max_memory=values.get("max_memory"),
        say=options.progress(values),
        data=head.data,
        gates=head.gates,
        task=head.task,
        from_logits=head.from_logits,
    )
    if form:
        from modelcut.report import render

        options.progress(values)("")
        deliver(render(report, form), values, read)
        if not values.get("output"):
            sys.stdout.flush()
            values = {**values, "quiet": True, "json": None}
    options.finish(report, values)

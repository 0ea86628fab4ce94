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
        flags.option(
            "activations",
            "Also evaluate the model in simulated integers, as an int8 .tflite computes: "
            "activations of so many bits (4 to 8), kernels of 8 where they are not quantized.",
            metavar="BITS",
            panel=options.DATA,
        ),
        flags.option(
            "calibrate",
            "CSV of the samples that give the ranges of --activations; labels are not needed.",
            metavar="CSV",
            panel=options.DATA,
        ),
        *options.DATA_OPTIONS,
        *options.gates("output."),
        *options.TRUST,
        *(option for option in OUTPUT if option.name != "json"),
        *options.SHOW,
    ]
    example = "modelcut eval small.h5 --against model.h5 --test test.csv -o eval.html"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, evaluate))


def _bits(value: str | None) -> int:
    """The bits of activations; 0: none were given.

    Raises:
        UsageError: they are no number.
    """
    if value is None:
        return 0
    if not value.isdecimal() or not int(value[:9]):
        raise UsageError(f"--activations {value}: is no number of bits", "--activations 8")
    return int(value[:9])


def evaluate(**values: Any) -> None:
    """Measure a model on a CSV: accuracy, recall, F1, latency; alone or against another."""
    if not values.get("test"):
        raise UsageError("no test data named", "add --test FILE.csv")
    options.check_summary(values)
    form = chosen({**values, "json": None})
    named = (values["model"], values.get("against"), values["test"], values.get("calibrate"))
    read = [Path(name) for name in named if name]
    check_place(values, read)
    head = options.head_from(values)
    report = modelcut.evaluate(
        values["model"],
        values["test"],
        against=values.get("against"),
        activations=_bits(values.get("activations")),
        calibrate=values.get("calibrate"),
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

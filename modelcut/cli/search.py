"""`modelcut search`: from a goal to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

import modelcut
from modelcut.cli import complete, flags, options, panels
from modelcut.errors import UsageError

_SEARCH = "Search"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument(
            "model",
            "Model to read: .h5, .hdf5, .keras, .mcut or a SavedModel folder.",
            panel=options.MODEL,
        ),
        options.OUTPUT,
        flags.option(
            "recipe",
            "Recipe with open values, such as {range: [0.5, 0.98]} or {choose: [4, 8]}; by "
            "default one is made for the model.",
            "--recipe",
            "-r",
            metavar="YAML",
            panel=options.RECIPE,
            complete=complete.recipes,
        ),
        flags.option(
            "minimize",
            "Number to minimize: bytes, latency_ms, macs, or another gate's name without max_; "
            "can be repeated for a Pareto front.",
            metavar="NAME",
            kind=list[str],
            panel=_SEARCH,
        ),
        flags.option(
            "maximize",
            "Number to maximize: accuracy, f1, or another gate's name without min_; can be "
            "repeated.",
            metavar="NAME",
            kind=list[str],
            panel=_SEARCH,
        ),
        flags.option(
            "train",
            "CSV of training data; without it no step trains.",
            metavar="CSV",
            panel=options.DATA,
        ),
        flags.option(
            "validate",
            "CSV of validation data, on which candidates are measured; by default a part of "
            "--train, or all of it if no step trains.",
            metavar="CSV",
            panel=options.DATA,
        ),
        flags.option(
            "validation_fraction",
            "Fraction of --train that is set aside for validation (default: 0.2).",
            metavar="NUMBER",
            panel=options.DATA,
        ),
        flags.option(
            "test",
            "CSV of test data; only the chosen model is measured on it.",
            metavar="CSV",
            panel=options.DATA,
        ),
        flags.option(
            "calibrate",
            "CSV of calibration data, for rounding by outputs and an int8 .tflite (default: "
            "--train).",
            metavar="CSV",
            panel=options.DATA,
        ),
        flags.option(
            "trials", "Number of candidates to try (default: 40).", metavar="INT", panel=_SEARCH
        ),
        flags.option(
            "time",
            "Time for trying candidates, such as 90s, 30m or 2h. Trainings of the default space "
            "are shortened, so that about six or more fit in; the final training is not "
            "counted.",
            metavar="TIME",
            panel=_SEARCH,
        ),
        flags.option(
            "confidence",
            "Probability with which the limit on the accuracy drop shall hold on the test data, or "
            "without it on all samples like the validation data, 0.5 to 1 (default: 0.9).",
            metavar="NUMBER",
            panel=_SEARCH,
        ),
        flags.option(
            "workers", "Number of local processes (default: 1).", metavar="INT", panel=options.SPEED
        ),
        flags.option(
            "scheduler",
            "Address of a Dask scheduler whose workers try the candidates.",
            metavar="ADDRESS",
            panel=options.SPEED,
        ),
        flags.option(
            "keep_best",
            "On an interrupt (Ctrl-C), write the best candidate so far.",
            kind=bool,
            panel=_SEARCH,
        ),
        flags.option(
            "restart",
            "Discard the trials of an interrupted search and begin anew.",
            kind=bool,
            panel=_SEARCH,
        ),
        flags.option(
            "discard",
            "Remove what an interrupted search for this output has kept, and end.",
            kind=bool,
            panel=_SEARCH,
        ),
        options.SEED,
        *options.MEASURE,
        *options.TRUST,
        options.FORCE,
        options.COMPRESSION,
        options.CODER,
        *options.SHOW,
    ]
    example = (
        "modelcut search model.h5 --train train.csv --test test.csv --max-accuracy-drop 0.01 "
        "--trials 10 -o best.mcut"
    )
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, search))


def search(**values: Any) -> None:
    """Search for the best model within limits: which steps, at which strength."""
    if not values.get("output"):
        raise UsageError("no output named", "add -o FILE")
    if values.get("discard"):
        _discard(Path(values["output"]))
        return
    options.check_summary(values, Path(values["output"]))
    from modelcut.job import limits

    with limits.at_most(values.get("max_memory"), derived=False):
        report = modelcut.search(
            values["model"],
            values["output"],
            recipe=values.get("recipe"),
            minimize=values.get("minimize") or (),
            maximize=values.get("maximize") or (),
            **{name: values.get(name) for name in ("train", "validate", "test", "calibrate")},
            head=options.head_from(values),
            trials=_number(values, "trials", int, 40),
            seconds=_seconds(values.get("time")),
            validation_fraction=_number(values, "validation_fraction", float, 0.2),
            confidence=_number(values, "confidence", float, 0.9),
            workers=_number(values, "workers", int, 1),
            scheduler=values.get("scheduler") or "",
            keep_best=bool(values.get("keep_best")),
            restart=bool(values.get("restart")),
            trust=bool(values.get("trust")),
            custom_objects=values.get("custom_objects") or "",
            force=bool(values.get("force")),
            compression=values.get("compression"),
            coder=values.get("coder"),
            say=options.progress(values),
        )
    options.finish(report, values)


def _discard(output: Path) -> None:
    """Removes the trials and the states of trainings of an interrupted search."""
    from modelcut.tuner import journal, request

    folder = request.folder_of(output)
    size = journal.discard(folder)
    typer.echo(f"{folder}: {size:,} bytes removed" if size else f"{folder}: there is none")


def _number(values: Any, name: str, kind: type, default: Any) -> Any:
    """The value of a flag as a number.

    Raises:
        UsageError: it is none.
    """
    text = values.get(name)
    if text is None:
        return default
    try:
        return kind(text)
    except ValueError:
        flag = name.replace("_", "-")
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"--{flag}: {text!r} is not {what}") from None


def _seconds(text: str | None) -> float | None:
    """Seconds from words such as "30m".

    Raises:
        UsageError: it is no time.
    """
    if text is None:
        return None
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        found = float(number) * _UNITS[unit]
    except ValueError:
        found = -1.0
    if not 0 < found < float("inf"):
        raise UsageError(f"--time: {text!r} is no time", "such as 90s, 30m or 2h")
    return found

"""`modelcut sensitivity`: what each layer alone can bear."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import typer

from modelcut import steps
from modelcut.cli import complete, flags, options, panels
from modelcut.errors import UsageError
from modelcut.recipe.recipe import Recipe
from modelcut.steps.strength import Budgeted


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model to read: .h5, .hdf5, .keras or .mcut.", panel=options.MODEL),
        flags.option(
            "data",
            "CSV of labelled validation data, not the test data.",
            "--validate",
            "--data",
            metavar="CSV",
            panel=options.DATA,
        ),
        flags.option(
            "method",
            "Method to profile, can be repeated (default: the default method of each family).",
            metavar="|".join(methods()),
            kind=list[str],
            panel="Method",
        ),
        flags.option(
            "settings",
            "List of settings to try, such as [0.5, 0.9].",
            metavar="LIST",
            panel="Method",
        ),
        flags.option(
            "include",
            "Profile only layers that match this pattern, can be repeated.",
            kind=list[str],
            panel="Method",
            complete=complete.layers,
        ),
        flags.option(
            "exclude",
            "Exclude layers that match this pattern, can be repeated.",
            kind=list[str],
            panel="Method",
            complete=complete.layers,
        ),
        flags.option(
            "train",
            "CSV of training data, for methods that run the network.",
            metavar="CSV",
            panel=options.DATA,
        ),
        options.SEED,
        *options.DATA_OPTIONS,
        *options.TRUST,
        flags.option(
            "output",
            "Write the profile to this file: as JSON, or NAME.html as a page with charts.",
            "--output",
            "-o",
            metavar="FILE",
            panel=options.OUT,
        ),
        options.FORCE,
        flags.option(
            "json", "Print the profile as JSON on stdout.", kind=bool, panel=options.SHOWN
        ),
        flags.option(
            "quiet", "Do not show progress.", "--quiet", "-q", kind=bool, panel=options.SHOWN
        ),
    ]
    example = "modelcut sensitivity model.h5 --validate train.csv --method linear"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, sensitivity))


def methods() -> dict[str, type[Budgeted]]:
    """The methods that have a strength, by name."""
    found = {}
    for family in steps.families():
        for method in steps.methods(family):
            cls = steps.find(family, method)
            if issubclass(cls, Budgeted) and cls.by_layer:
                found[method] = cls
    return found


def sensitivity(**values: Any) -> None:
    """Profile the sensitivity of each layer: the accuracy with only that layer changed."""
    if not values.get("data"):
        raise UsageError("no validation data named", "add --validate FILE.csv, not the test data")
    known = methods()
    own = [steps.default(name) for name in steps.families()]
    former = {old: new for name in steps.families() for old, new in steps.aliases(name).items()}
    given = [former.get(name, name) for name in values.get("method") or ()]
    wanted = given or [name for name in own if name in known]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"--method {name}: has no strength to vary", f"known: {', '.join(known)}"
            )
    if values.get("settings") and len(wanted) > 1:
        raise UsageError("--settings needs a method", "name one with --method")
    made = tuple(_step(known[name], values) for name in wanted)
    from modelcut.data.stdin import path_from
    from modelcut.job import limits, sensitivity
    from modelcut.job.outputs import Outputs
    from modelcut.job.request import Trust
    from modelcut.report import profile, render, terminal

    place = options.path_of(values.get("output"))
    read = [Path(values[name]) for name in ("model", "data", "train") if values.get(name)]
    with (
        limits.at_most(values.get("max_memory")),
        Outputs(read, force=bool(values.get("force")), ours=_is_ours) as outputs,
    ):
        draft = None if place is None else outputs.add(place)
        report = sensitivity.assess(
            Path(values["model"]),
            path_from(values["data"]),
            Recipe(made, options.head_from(values), "modelcut sensitivity"),
            Trust(bool(values.get("trust")), values.get("custom_objects") or ""),
            train=options.path_of(values.get("train")),
            say=(say := options.progress(values)),
        )
        say("")
        if draft is not None:
            paged = place is not None and place.suffix.lower() == ".html"
            text = profile.page(report) if paged else render(report, "json")
            draft.write_text(text, encoding="utf-8")
            outputs.publish()
    if values.get("json"):
        typer.echo(render(report, "json"), nl=False)
    else:
        terminal.draw(profile.tables(report))
        for line in profile.recommendations(report):
            typer.echo(line)


def _is_ours(path: Path) -> bool:
    """Whether an earlier profile is there."""
    with path.open("rb") as file:
        return b'"modelcut-sensitivity/' in file.read(200)


def _numbers(text: str) -> list[float]:
    """The settings.

    Raises:
        UsageError: it is no list of numbers.
    """
    from modelcut.recipe.yaml_text import loads

    found = loads(text, "--settings").data
    if (
        isinstance(found, list)
        and found
        and all(type(one) in (int, float) and isfinite(one) for one in found)
    ):
        return found
    raise UsageError("--settings: is no list of numbers", "such as --settings '[0.5, 0.9]'")


def _step(cls: type[Budgeted], values: dict[str, Any]) -> Budgeted:
    """The step whose settings are tried; how much may be lost does not matter to a profile."""
    fields = {name: values[name] for name in ("include", "exclude") if values.get(name)}
    budget: dict[str, Any] = {"max_accuracy_drop": 1}
    if values.get("settings"):
        budget["candidates"] = _numbers(values["settings"])
    step: Budgeted = flags.build(cls, {**fields, "budget": budget})
    return step

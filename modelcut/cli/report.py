"""`modelcut report schema | show`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from modelcut.cli import flags, panels
from modelcut.errors import InputError, UsageError

_OUT = "Output"
_FORMS = {".html": "html", ".htm": "html", ".md": "md", ".json": "json"}


OUTPUT = (
    flags.option(
        "output",
        "File to write; its suffix (.html, .md, .json) selects the form.",
        "--output",
        "-o",
        metavar="FILE",
        panel=_OUT,
    ),
    flags.option(
        "force", "Overwrite an existing file that modelcut did not write.", kind=bool, panel=_OUT
    ),
    flags.option("json", "Print JSON.", kind=bool, panel=_OUT),
    flags.option("md", "Print Markdown.", kind=bool, panel=_OUT),
    flags.option("html", "Print HTML.", kind=bool, panel=_OUT),
)


def register(app: typer.Typer, name: str) -> None:
    """Adds the two commands below `report`."""
    group = typer.Typer(
        cls=panels.Group, rich_markup_mode=None, no_args_is_help=True, add_completion=False
    )
    app.add_typer(group, name=name, help="Show a saved report again, print its JSON Schema.")
    group.command("schema", cls=panels.Command, epilog="modelcut report schema")(
        flags.command([], schema)
    )
    shown = [
        flags.argument("file", "Saved report (NAME.report.json).", panel="Report"),
        *OUTPUT,
    ]
    example = "modelcut report show small.report.json -o small.html"
    group.command("show", cls=panels.Command, epilog=example)(flags.command(shown, show))


def schema() -> None:
    """Print the JSON Schema of the report."""
    import json

    from modelcut.report.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))


def show(**values: Any) -> None:
    """Show a saved report: as tables, or as --json, --md or --html."""
    from modelcut.report import render, terminal
    from modelcut.report.load import load

    path = Path(values["file"])
    form = chosen(values)
    report = load(path)
    try:
        text = render(report, form) if form else ""
        if not form:
            terminal.show(report)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        where = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path}: the report does not hang together: {where}", "it is damaged, or was edited"
        ) from None
    deliver(text, values, [path])


def chosen(values: Any) -> str:
    """The form that the flags name; "" for tables on the terminal.

    Raises:
        UsageError: more than one, or a file whose suffix names none.
    """
    forms = [name for name in ("json", "md", "html") if values.get(name)]
    output = values.get("output")
    if output:
        form = _FORMS.get(Path(output).suffix.lower(), "")
        if not form:
            raise UsageError(
                f"-o {output}: the suffix names no form", "name it .html, .md or .json"
            )
        forms = [*dict.fromkeys([*forms, form])]
    if len(forms) > 1:
        raise UsageError(f"{' and '.join(forms)}: which of these?", "one form at a time")
    return forms[0] if forms else ""


def check_place(values: Any, inputs: list[Path]) -> None:
    """Refuses a file that may not be written, before any work.

    Raises:
        UsageError: it is read, or another's.
    """
    if values.get("output"):
        from modelcut.job.outputs import Outputs
        from modelcut.report.schema import is_marked

        with Outputs(inputs, force=bool(values.get("force")), ours=is_marked) as outputs:
            outputs.check(Path(values["output"]))


def deliver(text: str, values: Any, inputs: list[Path]) -> None:
    """Prints a text, or writes it to the file that the flags name."""
    output = values.get("output")
    if not output:
        sys.stdout.write(text)
        return
    from modelcut.job.outputs import Outputs
    from modelcut.report.schema import is_marked

    with Outputs(inputs, force=bool(values.get("force")), ours=is_marked) as outputs:
        place = outputs.add(Path(output))
        place.write_text(text, encoding="utf-8")
        outputs.publish()

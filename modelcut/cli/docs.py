"""`modelcut docs`: the documentation that comes with modelcut."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Any

import typer

import modelcut
from modelcut.cli import flags, panels
from modelcut.errors import UsageError


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument(
            "topic",
            "Topic to print; without it, all topics are listed.",
            required=False,
            complete=lambda incomplete: [name for name in topics() if name.startswith(incomplete)],
        )
    ]
    call = flags.command(parameters, docs)
    app.command(name, cls=panels.Command, epilog="modelcut docs steps")(call)


def docs(**values: Any) -> None:
    """Print the documentation of a topic: rendered on a terminal, plain Markdown when piped."""
    pages, topic = topics(), values.get("topic")
    if not topic:
        width = max(map(len, pages)) + 2
        for name, path in pages.items():
            typer.echo(f"{name:{width}}{summary(path)}")
        return
    if topic not in pages:
        near = difflib.get_close_matches(topic.lower(), pages, 3, 0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"topics: {', '.join(pages)}"
        raise UsageError(f"no documentation topic is called {topic!r}", hint)
    text = re.sub(r"<!--.*?-->\n*", "", pages[topic].read_text(encoding="utf-8"))
    if _on_terminal():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        typer.echo(text, nl=False)


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def topics() -> dict[str, Path]:
    """The pages of the documentation, by topic."""
    folder = Path(modelcut.__file__).parent / "docs"
    return {path.stem: path for path in sorted(folder.glob("*.md"))}


def summary(path: Path) -> str:
    """The sentence below a page's title."""
    _, _, rest = path.read_text(encoding="utf-8").partition("\n\n")
    return " ".join(rest.partition("\n\n")[0].split())

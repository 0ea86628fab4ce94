"""Help in panels: Typer knows the panel of each option, this draws them.

Typer's own drawing cuts names such as `--max-accuracy-drop` at 80 columns, and importing Rich for
it takes longer than all the rest of `modelcut --help`.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import typer.core

Row = tuple[str, str]

_LEFT = 30
"""Columns of the names of options; the text of a longer one begins on the next line."""
_WIDEST = 110
_BOLD, _CYAN, _DIM, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"

PANELS = (
    "Methods",
    "Method",
    "Recipe",
    "Search",
    "Model",
    "Data",
    "Output",
    "Gates",
    "Training",
    "LiteRT",
    "Speed and memory",
    "CI and Make",
    "Report",
    "Options",
)
"""The order in which panels stand; a panel of another name stands before `Options`."""

COMMON = frozenset(
    "model method recipe set_ output test train label scale limit max_accuracy_drop min_accuracy "
    "max_bytes type calibrate json summary minimize maximize trials time against in_place "
    "dry_run graph tensors name folder topic help_".split()
)
"""Options that `-h` shows, beside those of a method; `--help` shows all."""


class Command(typer.core.TyperCommand):
    """A command whose help is in panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        brief = _is_brief(ctx)
        methods = getattr(self.callback, "methods", ())
        rows: dict[str, list[Row]] = {"Methods": list(methods)} if methods else {}
        hidden = 0
        for parameter in self.get_params(ctx):
            if getattr(parameter, "hidden", False) or parameter.name == "help":
                continue
            panel = getattr(parameter, "rich_help_panel", None) or "Options"
            if brief and not (panel in ("Method", "Search") or parameter.name in COMMON):
                hidden += 1
                continue
            rows.setdefault(panel, []).append(row_of(parameter))
        text = [_usage(self, ctx), *_paragraphs(self.help), *_example(self.epilog)]
        last: tuple[str, ...] = () if brief else _AFTER
        if hidden:
            method = getattr(self.callback, "method", "")
            called = f"{ctx.command_path} {method}".rstrip()
            last = (f"{hidden} more options: {called} --help",)
        formatter.write(page(text, rows, last))


class Group(typer.core.TyperGroup):
    """The commands, in panels; and commands below a command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        rows: dict[str, list[Row]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is None or command.hidden:
                continue
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            about = (command.short_help or command.help or "").split("\n\n")[0]
            rows.setdefault(str(panel), []).append((name, " ".join(about.split())))
        for parameter in self.get_params(ctx):
            if not getattr(parameter, "hidden", False) and parameter.name != "help":
                rows.setdefault("Options", []).append(row_of(parameter))
        usage = " ".join(self.get_usage(ctx).split()).replace("[OPTIONS] ", "")
        text = [usage, *_paragraphs(self.help), *_example(self.epilog)]
        formatter.write(page(text, rows, ()))


def _usage(command: Any, context: Any) -> str:
    words = ["Usage:", context.command_path]
    if hasattr(command.callback, "methods"):
        words.append("[METHOD]")
    if method := getattr(command.callback, "method", ""):
        words.append(method)
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = str(parameter.metavar or parameter.name.upper())
            words.append(name if parameter.required else f"[{name}]")
    return " ".join([*words, "[OPTIONS]"])


_AFTER = ("The environment can set any option, such as MODELCUT_NAME for --name.",)


def page(text: Iterable[str], rows: dict[str, list[Row]], after: Iterable[str]) -> str:
    """Help as text: paragraphs, panels, and lines below.

    Args:
        text: paragraphs; the first is the usage.
        rows: by title of the panel: what is written on the left and what on the right.
        after: lines below.
    """
    fancy = sys.stdout.isatty()
    width = min(shutil.get_terminal_size((80, 24)).columns, _WIDEST)
    width = max(width - 1, 40)
    lines: list[str] = []
    for paragraph in text:
        wrapped = textwrap.wrap(paragraph, width)
        if paragraph.startswith("Example: "):
            wrapped = [paragraph]  # to be copied whole
        lines += [*wrapped, ""]
    order = {name: index for index, name in enumerate(PANELS)}
    for panel in sorted(rows, key=lambda name: order.get(name, len(PANELS) - 1.5)):
        lines += _boxed(panel, rows[panel], width) if fancy else _plain(panel, rows[panel], width)
    lines += [f"{_DIM}{line}{_PLAIN}" if fancy else line for line in after]
    return "\n".join(lines).rstrip() + "\n"


def _boxed(panel: str, rows: list[Row], width: int) -> Iterator[str]:
    if os.environ.get("NO_COLOR"):
        bold, cyan, dim, plain = "", "", "", ""
    else:
        bold, cyan, dim, plain = _BOLD, _CYAN, _DIM, _PLAIN
    if not _draws_boxes():
        yield from _plain(panel, rows, width)
        return
    yield f"{dim}╭─{plain} {bold}{panel}{plain} {dim}{'─' * (width - len(panel) - 5)}╮{plain}"
    for left, right in _columns(rows, width - 4):
        space = " " * (width - 4 - _wide(left) - _wide(right))
        yield f"{dim}│{plain} {cyan}{left}{plain}{right}{space} {dim}│{plain}"
    yield f"{dim}╰{'─' * (width - 2)}╯{plain}"


def _plain(panel: str, rows: list[Row], width: int) -> Iterator[str]:
    yield f"{panel}:"
    for left, right in _columns(rows, width - 2):
        yield f"  {left}{right}".rstrip()
    yield ""


def _columns(rows: list[Row], width: int) -> Iterator[Row]:
    """Lines of both columns, the left one padded."""
    longest = max((_wide(left) for left, _ in rows), default=0)
    wide = min(longest, _LEFT if width >= 70 else 20) + 2
    for left, right in rows:
        parts = textwrap.wrap(right, width - wide) or [""]
        if _wide(left) + 2 > wide:
            for piece in _cut(left, width):
                yield piece, ""
        else:
            yield left + " " * (wide - _wide(left)), parts.pop(0)
        for part in parts:
            yield " " * wide, part


def _cut(text: str, width: int) -> list[str]:
    """A name that is wider than the panel, in pieces that begin after a bar."""
    pieces, line = [], ""
    for part in text.replace("|", "|\0").split("\0"):
        if line and len(line) + len(part) > width:
            pieces.append(line)
            line = "    "
        line += part
    return [*pieces, line]


def _wide(text: str) -> int:
    """Columns that a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _draws_boxes() -> bool:
    try:
        "╭─╮│╰╯".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def row_of(parameter: Any) -> Row:
    """An argument or an option: how it is written, and what it does with its default."""
    text = " ".join((parameter.help or "").split())
    default = getattr(parameter, "show_default", None)
    if isinstance(default, str):
        text += f" [default: {default}]"
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()), text
    names = sorted(parameter.opts, key=len)[:2]
    written = ", ".join(names)
    if parameter.secondary_opts:
        written += f" / {parameter.secondary_opts[0]}"
    elif parameter.metavar:
        written += f" {parameter.metavar}"
    return written, text


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n") if part.strip()]


def _example(text: str | None) -> list[str]:
    return [f"Example: {line}" for line in (text or "").splitlines()]


def _is_brief(context: Any) -> bool:
    found = context.find_root().obj
    return isinstance(found, dict) and bool(found.get("brief"))
